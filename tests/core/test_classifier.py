import pytest
import torch

from elfs_ray.core.classifier import Recipe, accuracy, cosine_factor, epoch_batches, train_for_steps
from elfs_ray.core.networks import MlpClassifier


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def blobs():
    """Three classes around far centres, in features of very different scale, some almost constant."""
    draw = generator()
    labels = torch.arange(90) % 3
    centres = torch.randn(3, 20, generator=draw) * 5
    inputs = centres[labels] + torch.randn(90, 20, generator=draw)
    inputs[:, 10:] *= 1e-4
    return inputs, labels


class TestMlp:
    def test_learns_separable_classes(self, blobs):
        inputs, labels = blobs
        network = MlpClassifier(inputs, 3, 16, generator=generator())
        train_for_steps(network, inputs, labels, Recipe(steps=60, batch_size=32, learning_rate=0.02), generator(1))
        assert accuracy(network, inputs, labels) == 1.0

    def test_almost_constant_features_stay_small(self, blobs):
        inputs, _ = blobs
        network = MlpClassifier(inputs, 3, 16, generator=generator())
        scaled = (inputs - network.mean) / network.scale
        assert scaled[:, 10:].abs().max() < 0.01
        assert scaled.square().mean().item() == pytest.approx(1.0, rel=1e-5)

    def test_same_seed_same_network(self, blobs):
        inputs, labels = blobs
        logits = []
        for _ in range(2):
            torch.rand(3)  # the global generator plays no part
            network = MlpClassifier(inputs, 3, 16, generator=generator(3))
            train_for_steps(network, inputs, labels, Recipe(steps=10, batch_size=32, learning_rate=0.02), generator(4))
            logits.append(network(inputs))
        assert torch.equal(*logits)


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2]), (9, [4, 5]), (3, [3]), (8, [4, 4])])
def test_epoch_batches(count, sizes):
    batches = list(epoch_batches(count, 4, 2, generator()))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(torch.cat(batches).tolist()) == list(range(count))


def test_cosine():
    assert [cosine_factor(step, 4) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
