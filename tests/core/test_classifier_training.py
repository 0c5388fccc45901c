"""The training of a classifier is the loop with all of its options, whatever looks at it in between."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from elfs_ray.core.augmentation import prepare_images
from elfs_ray.core.classifier import Recipe, accuracy, training_steps, unprepared
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingOptions
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.networks import build_network

CPU, SEED, CLASSES = torch.device("cpu"), 5, 3
RNG = np.random.default_rng(0)
LABELS = np.arange(40) % CLASSES
SAMPLES = {
    "mlp": normalize_rows(RNG.normal(size=(CLASSES, 12))[LABELS] + RNG.normal(size=(40, 12))),
    "resnet-small": RNG.integers(256, size=(40, 3, 32, 32), dtype=np.uint8),
}
FIT, TEST = slice(0, 30), slice(30, 40)
OPTIONS = TrainingOptions("", CLASSES, 16, steps=10, batch_size=8, learning_rate=0.05, weight_decay=0.01)


def new_training(model, **changes):
    options = replace(OPTIONS, model=model, **changes)
    return ClassifierTraining(options, SAMPLES[model][FIT], LABELS[FIT], device=CPU, seed=SEED)


def same(network, other):
    pairs = zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("model", "dtype"), [("mlp", torch.float32), ("mlp", torch.bfloat16), ("resnet-small", torch.float32)]
)
def test_is_the_loop_with_its_options(model, dtype):
    on_images = model != "mlp"
    inputs = torch.from_numpy(SAMPLES[model])
    labels, prepare = torch.from_numpy(LABELS), prepare_images if on_images else unprepared
    generator = torch.Generator().manual_seed(SEED)
    network = build_network(model, inputs[FIT], CLASSES, 16, generator=generator)
    recipe = Recipe(steps=10, batch_size=8, learning_rate=0.05, weight_decay=0.01, dtype=dtype)
    assert list(training_steps(network, inputs[FIT], labels[FIT], recipe, generator, prepare)) == list(range(1, 11))
    training = new_training(model, dtype=dtype)
    assert training.train() == 10
    assert same(training.network, network)
    found = training.accuracy(training.held_out(SAMPLES[model][TEST], LABELS[TEST]))
    assert found == accuracy(network, inputs[TEST], labels[TEST], 4, prepare)


@pytest.mark.parametrize("model", SAMPLES)
def test_tests_between_its_parts_change_nothing(model):
    whole, tested = new_training(model), new_training(model)
    whole.train()
    test = tested.held_out(SAMPLES[model][TEST], LABELS[TEST])
    seen = {step: tested.accuracy(test) for step in tested.parts(3)}
    assert list(seen) == [4, 7, 10]
    assert same(tested.network, whole.network)
    assert seen[10] == whole.accuracy(whole.held_out(SAMPLES[model][TEST], LABELS[TEST]))


def test_hides_what_is_learned():
    hiding = new_training("mlp", steps=200, hide=0.5)
    assert hiding.train() < 200
