"""Evaluate: the accuracy of a classifier trained with true labels on the coreset, beside random subsets.

Reads: `embeddings`, `labels_true`, `pseudo_labels`, `coresets/METHOD/BUDGET`, and the separate test images if there
are any. Writes: `evaluation/METHOD/BUDGET` (one row for each training). The only stage that reads true labels.
Every training has the same number of steps and the same test set; the last state counts, never the best on test.
"""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from elfs_ray import schema
from elfs_ray.config import EvaluateConfig
from elfs_ray.core.classifier import MlpClassifier, accuracy, train_for_steps
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.metrics import cluster_accuracy, mean_and_interval, normalized_mutual_information
from elfs_ray.defaults import MLP_LEARNING_RATE
from elfs_ray.engine.artifacts import part_name, read_column, read_vectors
from elfs_ray.engine.inputs import pseudo_labels_artifact
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import UsageError
from elfs_ray.store import Store

MIN_TEST_SAMPLES = 20
RUNS = "runs"


def run(context: StageContext) -> StageResult:
    """Train on the coreset and on random subsets of the same size, with each seed, and compare."""
    config, store, budget = context.config, context.store, int(context.budget or 0)
    method = config.select.method
    options = config.evaluate
    labels = read_column(store, "labels_true", "label")
    subsets = _subsets(context, labels, method, budget)
    test = _test_set(context, labels, subsets)
    rows = _train_all(context, subsets, test, budget)
    store.write_table(pa.Table.from_pylist(rows), schema.EVALUATION, context.work, RUNS, part_name(0))
    metrics = {
        **_summary(rows, method),
        **_pseudo_label_quality(store, pseudo_labels_artifact(config), labels),
        "test_samples": len(test["labels"]),
    }
    metrics["test"] = options.test_input or "held-out candidates"
    return StageResult(
        artifacts={f"evaluation/{method}/{budget}": RUNS}, chosen=options.model_dump(mode="json"), metrics=metrics
    )


def _subsets(context: StageContext, labels: np.ndarray, method: str, budget: int) -> list[tuple[str, int, np.ndarray]]:
    """(name, seed, positions) of every training set."""
    store, seeds = context.store, range(context.config.evaluate.seeds)
    coreset = read_column(store, f"coresets/{method}/{budget}", "index")
    labelled = np.flatnonzero(labels >= 0)
    unlabelled = int((labels[coreset] < 0).sum())
    if unlabelled:
        raise UsageError(
            f"{unlabelled} of the {budget} selected samples have no label in {context.config.evaluate.labels}; "
            "label them first, then evaluate"
        )
    if len(labelled) < budget:
        raise UsageError(
            f"only {len(labelled)} samples have a label, fewer than the budget of {budget}; pass more labels"
        )
    subsets = [(method, seed, coreset) for seed in seeds]
    if method != "random":
        for seed in seeds:
            rng = np.random.default_rng(context.seed(seed))
            subsets.append(("random", seed, np.sort(rng.choice(labelled, budget, replace=False))))
    return subsets


def _test_set(
    context: StageContext, labels: np.ndarray, subsets: list[tuple[str, int, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Vectors and labels of the separate test images, or of the labelled candidates in no training set."""
    store = context.store
    if context.config.evaluate.test_input:
        names = {name: number for number, name in enumerate(_classes(store, "labels"))}
        translation = np.array([names.get(name, -1) for name in _classes(store, "test_labels")] + [-1])
        test_labels = translation[read_column(store, "test/labels_true", "label")]
        kept = test_labels >= 0
        return {"vectors": read_vectors(store, "test/embeddings")[kept], "labels": test_labels[kept]}
    used = np.zeros(len(labels), dtype=bool)
    for _, _, positions in subsets:
        used[positions] = True
    test = np.flatnonzero(~used & (labels >= 0))
    if len(test) < MIN_TEST_SAMPLES:
        raise UsageError(
            f"only {len(test)} labelled candidates are in no training set, too few to test on; "
            "pass separate test images with --test-input"
        )
    return {"vectors": read_vectors(store)[test], "labels": labels[test]}


def _classes(store: Store, unit: str) -> list[str]:
    record = store.record(unit)
    return list(record["metrics"]["classes"]) if record else []


def _train_all(
    context: StageContext, subsets: list[tuple[str, int, np.ndarray]], test: dict[str, np.ndarray], budget: int
) -> list[dict[str, Any]]:
    """One Ray task for each training; returns the rows in the order of `subsets`."""
    store, options, hardware = context.store, context.config.evaluate, context.hardware
    num_classes = max(len(_classes(store, "labels")), 2)
    shared = ray.put(
        {
            "vectors": read_vectors(store),
            "labels": read_column(store, "labels_true", "label"),
            "test_vectors": test["vectors"],
            "test_labels": test["labels"],
        }
    )
    task = _train_one.options(num_cpus=1, num_gpus=0.25 if hardware.device == "cuda" else 0)
    with context.counting("evaluating", len(subsets), "trainings") as counter:
        running = []
        for _, seed, positions in subsets:
            running.append(task.remote(shared, positions, num_classes, options, context.seed(seed, 1)))
        results = []
        for result in running:
            results.append(ray.get(result))
            counter.advance(1)
    return [
        {
            "budget": budget,
            "subset": name,
            "seed": seed,
            "model": "mlp",
            "train_samples": len(positions),
            "test_samples": len(test["labels"]),
            "steps": options.steps,
            **result,
        }
        for (name, seed, positions), result in zip(subsets, results, strict=True)
    ]


@ray.remote(max_retries=3)
def _train_one(
    data: dict[str, np.ndarray], positions: np.ndarray, num_classes: int, options: EvaluateConfig, seed: int
) -> dict[str, float]:
    """Train on some samples with true labels and test."""
    torch.set_num_threads(1)
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = torch.from_numpy(normalize_rows(data["vectors"][positions])).to(device)
    labels = torch.from_numpy(data["labels"][positions]).to(device)
    generator = torch.Generator().manual_seed(seed)
    network = MlpClassifier(inputs, num_classes, options.hidden_dim, generator=generator).to(device)
    train_for_steps(
        network,
        inputs,
        labels,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=MLP_LEARNING_RATE,
        generator=generator,
    )
    test_inputs = torch.from_numpy(normalize_rows(data["test_vectors"])).to(device)
    test_labels = torch.tensor(data["test_labels"], device=device)
    result = accuracy(network, test_inputs, test_labels)
    return {"test_accuracy": result, "seconds": round(time.monotonic() - started, 3)}


def _summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Mean and spread of each kind of subset, and the paired difference to random."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["subset"], []).append(row["test_accuracy"])
    subsets = {name: mean_and_interval(values)._asdict() for name, values in scores.items()}
    summary: dict[str, Any] = {"subsets": subsets}
    if "random" in scores and method != "random":
        pairs = np.subtract(scores[method], scores["random"])
        summary["difference"] = mean_and_interval(pairs)._asdict()
    return summary


def _pseudo_label_quality(store: Store, artifact: str, labels: np.ndarray) -> dict[str, float]:
    """Agreement of the pseudo-labels with the truth, where both are known."""
    if not store.exists(artifact):
        return {}
    known = labels >= 0
    clusters = read_column(store, artifact, "label")[known].astype(np.int64)
    return {
        "pseudo_label_accuracy": round(cluster_accuracy(labels[known], clusters), 4),
        "pseudo_label_nmi": round(normalized_mutual_information(labels[known], clusters), 4),
    }
