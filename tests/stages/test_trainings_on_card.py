"""Trials, trainings and epochs of the engine on fake tensors of a card: what workers of Ray run there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import BetaSearchConfig, EvaluateConfig, SelectConfig
from elfs_ray.core.classifier import count_correct
from elfs_ray.methods import SelectionInputs
from elfs_ray.planning.auto_options import choose_beta_search, choose_evaluation
from elfs_ray.stages import beta_search, evaluate
from elfs_ray.stages.parts.evaluation_sets import Sets, Training
from fake_card import CARD

SAMPLES, DIM, CLASSES, SIDE, STEPS = 40, 12, 3, 32, 2
NETWORKS = ["linear", "mlp", "resnet-small", "resnet18"]
DTYPES = {"image_dtype": "bfloat16", "vector_dtype": "bfloat16"}
COUNTER = SimpleNamespace(advance=lambda _: None, reach=lambda _: None)


@pytest.fixture
def on_card(card, monkeypatch):
    """Ray gives a card; what needs a real one (its free memory, its generators, a number read from it) is supplied."""
    seen = []

    def judged(network, inputs, labels, batch_size, prepare):
        seen.append(count_correct(network, inputs, labels, batch_size, prepare).device)
        return 0.5

    for module in (beta_search, evaluate):
        monkeypatch.setattr(module, "device_of_task", lambda: CARD)
    monkeypatch.setattr("elfs_ray.core.classifier_training.accuracy", judged)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**30))
    for module in ("classifier", "classifier_stack"):
        monkeypatch.setattr(f"elfs_ray.core.{module}.generator_on", lambda *_: torch.Generator())
    monkeypatch.setattr("elfs_ray.core.classifier.torch.randperm", lambda count, **_: torch.arange(count, device=CARD))
    return seen


def samples(model):
    rng = np.random.default_rng(0)
    if model in ("linear", "mlp"):
        return rng.normal(size=(SAMPLES, DIM)).astype(np.float16)
    return rng.integers(256, size=(SAMPLES, 3, SIDE, SIDE), dtype=np.uint8)


@pytest.mark.parametrize("model", NETWORKS)
def test_a_training_of_the_evaluation_stays_on_the_card(model, on_card, tmp_path):
    inputs, labels, positions = samples(model), np.arange(SAMPLES) % CLASSES, np.arange(0, SAMPLES, 2)
    section = EvaluateConfig(steps=STEPS, batch_size=8, hidden_dim=16)
    options = choose_evaluation(section, model, SIDE, **DTYPES)
    size = int(options.image_size)
    sets = Sets({("elfs", seed): positions for seed in range(2)}, labels, positions + 1, labels[1::2], 0)
    store = RunFolder(str(tmp_path))
    used = evaluate.Trainings(
        store, {model: options}, CLASSES, sets, positions, {size: inputs[::2]}, {size: inputs[1::2]}
    )
    evaluate.train(used, [(Training("elfs", model, seed), f"key{seed}", seed) for seed in range(2)], COUNTER)
    assert on_card == [CARD] * 2
    assert [store.read_json("trainings", f"key{seed}.json")["test_accuracy"] for seed in range(2)] == [0.5] * 2


@pytest.mark.parametrize("model", NETWORKS)
def test_a_trial_of_the_search_stays_on_the_card(model, on_card):
    inputs = samples(model)
    section = BetaSearchConfig(model=model, steps=STEPS, batch_size=5)
    options = choose_beta_search(section, EvaluateConfig(), SIDE, 10, **DTYPES)
    data = beta_search.SearchData(
        options=options,
        select=SelectConfig(method="random"),
        inputs=SelectionInputs(np.arange(SAMPLES)),
        samples=SimpleNamespace(mapped_unit_vectors=lambda: inputs),
        labels=np.arange(SAMPLES) % CLASSES,
        splits=[(np.arange(30), np.arange(30, SAMPLES)), (np.arange(10, SAMPLES), np.arange(10))],
        budget=10,
        num_classes=CLASSES,
        hidden_dim=16,
        seed=0,
    )
    [report] = beta_search.run_trial(data, {"number": 0, "found": {}})
    assert report["done"]
    assert [row["epochs"] for row in report["seeds"].values()] == [STEPS * 5 / 8] * 2  # of coresets of 8, a share of 10
    assert on_card == [CARD] * 2
