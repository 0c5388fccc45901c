"""KAKURENBO: whom it hides, when, and what it costs."""

import pytest
import torch

from elfs_ray.core.classifier import Recipe, accuracy, train_for_steps
from elfs_ray.core.hiding import choose_hidden, hidden_share, train_with_hiding
from elfs_ray.core.networks import MlpClassifier


def test_lowest_losses_hide_and_unsure_ones_move_back():
    losses = torch.tensor([0.1, 5.0, 0.2, 0.3, 0.05, 1.0])
    correct = torch.tensor([True, True, False, True, True, True])
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.6, 0.8, 0.9])
    # Two thirds of six are four: samples 4, 0, 2, 3, of which 2 is wrong and 3 unsure.
    assert choose_hidden(losses, correct, confidence, 2 / 3).tolist() == [True, False, False, False, True, False]


@pytest.mark.parametrize(("progress", "share"), [(0, 0.3), (0.29, 0.3), (0.3, 0.24), (0.6, 0.18), (0.99, 0.12)])
def test_the_share_falls_as_training_goes_on(progress, share):
    assert hidden_share(progress, 0.3) == pytest.approx(share)


def blobs(count=400):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    centres = torch.nn.functional.one_hot(labels, 4).float()
    return centres + 0.25 * torch.randn(count, 4, generator=generator), labels


RECIPE = Recipe(steps=200, batch_size=32, learning_rate=0.05)


def train(largest):
    inputs, labels = blobs()
    generator = torch.Generator().manual_seed(1)
    network = MlpClassifier(inputs, 4, 16, generator=generator)
    taken = train_with_hiding(network, inputs, labels, RECIPE, generator, largest=largest)
    return taken, accuracy(network, inputs, labels), network.state_dict()


def test_hiding_saves_steps_and_still_learns():
    taken, right, _ = train(0.5)
    assert 100 < taken < 180
    assert right > 0.95


def test_hiding_nothing_is_plain_training():
    inputs, labels = blobs()
    generator = torch.Generator().manual_seed(1)
    network = MlpClassifier(inputs, 4, 16, generator=generator)
    train_for_steps(network, inputs, labels, RECIPE, generator)
    taken, _, state = train(0.0)
    assert taken == 200
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
