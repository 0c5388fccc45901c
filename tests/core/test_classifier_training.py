"""The training of classifiers is the loop with all of its options, whatever looks at it in between or trains beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from elfs_ray.core.augmentation import prepare_images
from elfs_ray.core.classifier import Recipe, accuracy, training_steps, unprepared
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingOptions, TrainingSet
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.networks import build_network

CPU, SEED, CLASSES = torch.device("cpu"), 5, 3
RNG = np.random.default_rng(0)
LABELS = np.arange(40) % CLASSES


def embeddings(dim):
    return normalize_rows(RNG.normal(size=(CLASSES, dim))[LABELS] + RNG.normal(size=(40, dim)))


# With 64 dimensions, 30 samples are few beside them, and with 12 they are not.
NARROW, WIDE, IMAGES = embeddings(12), embeddings(64), RNG.integers(256, size=(40, 3, 32, 32), dtype=np.uint8)
FIT, TEST = np.arange(29, -1, -1), slice(30, 40)
OPTIONS = TrainingOptions("mlp", CLASSES, 16, steps=10, batch_size=8, learning_rate=0.05, weight_decay=0.01)


def new_training(samples=NARROW, sets=((FIT, SEED),), **changes):
    options = replace(OPTIONS, **changes)
    return ClassifierTraining(options, samples, LABELS, [TrainingSet(*each) for each in sets], device=CPU)


def by_the_loop(samples, rows, seed, options):
    """A network trained by `training_steps` alone."""
    inputs, labels = torch.from_numpy(samples[rows]), torch.from_numpy(LABELS[rows])
    generator = torch.Generator().manual_seed(seed)
    sizes = options.num_classes, options.hidden_dim
    network = build_network(options.model, inputs, *sizes, generator=generator)
    recipe = Recipe(**{name: getattr(options, name) for name in Recipe.__dataclass_fields__})
    prepare = prepare_images if samples.ndim > 2 else unprepared
    taken = list(training_steps(network, inputs, labels, recipe, generator, prepare))
    assert taken == list(range(1, options.steps + 1))
    return network


def same(network, other, **tolerance):
    pairs = zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    if not tolerance:
        return all(torch.equal(*pair) for pair in pairs)
    return all(torch.allclose(*pair, **tolerance) for pair in pairs)


@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("samples", [NARROW, WIDE], ids=["narrow", "wide"])
def test_trained_together_is_trained_apart(model, samples):
    """Sets of two sizes, some of which overlap; every network is what the loop alone makes of its set and seed."""
    sets = [(FIT, 1), (np.arange(30), 2), (np.arange(5, 26), 1), (RNG.permutation(40)[:30], 4)]
    options = replace(OPTIONS, model=model, steps=60)
    training = new_training(samples, sets, model=model, steps=60)
    assert training.train() == [60] * 4
    held_out = training.held_out(samples[TEST], LABELS[TEST])
    for number, (rows, seed) in enumerate(sets):
        alone = by_the_loop(samples, rows, seed, options)
        assert same(training.networks[number], alone, rtol=1e-3, atol=2e-5)
        inputs, labels = torch.from_numpy(samples[TEST]), torch.from_numpy(LABELS[TEST])
        assert training.accuracy(number, held_out) == accuracy(alone, inputs, labels)


@pytest.mark.parametrize("samples", [NARROW, WIDE], ids=["narrow", "wide"])
def test_none_sees_the_others(samples):
    wild = samples.copy()
    wild[30:] *= 100
    sets = [(np.arange(10), 1), (np.arange(10, 20), 2)]
    ours, theirs = (
        new_training(inputs, [*sets, (np.arange(20 + shift, 30 + shift), 3)])
        for inputs, shift in ((samples, 0), (wild, 10))
    )
    for training in (ours, theirs):
        training.train()
    for number in range(2):
        assert same(ours.networks[number], theirs.networks[number], rtol=0, atol=1e-7)
    assert not same(ours.networks[2], theirs.networks[2], rtol=0, atol=1e-3)


def test_in_bfloat16():
    options = replace(OPTIONS, dtype=torch.bfloat16)
    training = new_training(WIDE, [(FIT, 1), (np.arange(30), 2)], dtype=torch.bfloat16)
    training.train()
    alone = by_the_loop(WIDE, FIT, 1, options)
    assert same(training.networks[0], alone, rtol=0, atol=0.01)
    assert not same(training.networks[0], by_the_loop(WIDE, FIT, 1, OPTIONS))


def test_images_are_trained_on_one_after_another():
    options = replace(OPTIONS, model="resnet-small", steps=4)
    training = new_training(IMAGES, [(FIT, 1), (np.arange(8), 2)], model="resnet-small", steps=4)
    assert training.train() == [4, 4]
    held_out = training.held_out(IMAGES[TEST], LABELS[TEST])
    for number, (rows, seed) in enumerate([(FIT, 1), (np.arange(8), 2)]):
        alone = by_the_loop(IMAGES, rows, seed, options)
        assert same(training.networks[number], alone)
        inputs, labels = torch.from_numpy(IMAGES[TEST]), torch.from_numpy(LABELS[TEST])
        assert training.accuracy(number, held_out) == accuracy(alone, inputs, labels, 4, prepare_images)


@pytest.mark.parametrize(
    ("model", "samples"), [("mlp", NARROW), ("mlp", WIDE), ("resnet-small", IMAGES)], ids=["narrow", "wide", "images"]
)
def test_tests_between_its_parts_change_nothing(model, samples):
    whole, tested = (new_training(samples, model=model) for _ in range(2))
    whole.train()
    test = tested.held_out(samples[TEST], LABELS[TEST])
    seen = {step: tested.accuracy(0, test) for step in tested.parts(3)}
    assert list(seen) == [4, 7, 10]
    assert same(tested.networks[0], whole.networks[0])
    assert seen[10] == whole.accuracy(0, whole.held_out(samples[TEST], LABELS[TEST]))


def test_hides_what_is_learned():
    hiding = new_training(sets=[(FIT, 1), (np.arange(20), 2)], steps=200, hide=0.5)
    assert all(taken < 200 for taken in hiding.train())
