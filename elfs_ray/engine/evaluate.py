"""Evaluate: the accuracy of a classifier trained with true labels on the coreset, beside random subsets.

Reads: `embeddings`, `labels_true`, `pseudo_labels`, `coresets/METHOD/BUDGET`, and the separate test images if there
are any. Writes: `evaluation/METHOD/BUDGET` (one row for each training). But for supervised baselines, the only stage
that reads true labels. Every training has the same number of steps and the same test set; the last state counts, never
the best on test. Each training saves its row when it ends; a second run of the driver does the others.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from elfs_ray import schema
from elfs_ray.config import EvaluateConfig, RunConfig
from elfs_ray.core.classifier import MlpClassifier, accuracy, train_for_steps
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.hiding import train_with_hiding
from elfs_ray.core.metrics import cluster_accuracy, mean_and_interval, normalized_mutual_information
from elfs_ray.defaults import MLP_LEARNING_RATE
from elfs_ray.engine.artifacts import part_name, read_column, read_vectors, read_vectors_at
from elfs_ray.engine.inputs import labels_in_use
from elfs_ray.engine.progress import Counter
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import UsageError
from elfs_ray.store import Store

MIN_TEST_SAMPLES = 20
RUNS, TRAININGS = "runs", "trainings"


class Subset(NamedTuple):
    """A training set: what it is called, and the seed of its draw and of its training."""

    name: str
    seed: int

    @property
    def file_name(self) -> str:
        """Where its result is kept until all are there."""
        return f"{self.name}-seed-{self.seed}.json"


@dataclass(frozen=True)
class Trainings:
    """What all trainings share.

    Attributes:
        vectors, labels: of the samples in any training set, [n, d] and [n].
        rows: of each training set, positions in `vectors`.
        test_vectors, test_labels: of the test set.
        test_dropped: test images left out because they are candidates too.
    """

    store: Store
    work: str
    options: EvaluateConfig
    num_classes: int
    vectors: np.ndarray
    labels: np.ndarray
    rows: dict[Subset, np.ndarray]
    test_vectors: np.ndarray
    test_labels: np.ndarray
    test_dropped: int


def run(context: StageContext) -> StageResult:
    """Train on the coreset and on random subsets of the same size, with each seed, and compare."""
    config, store, budget = context.config, context.store, int(context.budget or 0)
    method, options = config.select.name, config.evaluate
    names = [method] if method == "random" else [method, "random"]
    subsets = [Subset(name, seed) for name in names for seed in range(options.seeds)]
    rows = [{"budget": budget, **row} for row in _train_all(context, subsets)]
    store.write_table(pa.Table.from_pylist(rows), schema.EVALUATION, context.work, RUNS, part_name(0))
    quality = {} if config.select.supervised else ray.get(_pseudo_label_quality.remote(store, config))
    metrics = {
        **_summary(rows, method),
        **quality,
        "test_samples": rows[0]["test_samples"],
        "test_dropped": rows[0]["test_dropped"],
        "test": options.test_input or "held-out candidates",
    }
    return StageResult(
        artifacts={f"evaluation/{method}/{budget}": RUNS}, chosen=options.model_dump(mode="json"), metrics=metrics
    )


def _train_all(context: StageContext, subsets: list[Subset]) -> list[dict[str, Any]]:
    """One Ray task for each training that has not ended yet; returns the rows in the order of `subsets`."""
    store, work = context.store, context.work
    ended = set(store.names(work, TRAININGS))
    pending = [subset for subset in subsets if subset.file_name not in ended]
    if pending:
        # The draws of random subsets, then the trainings: each has a seed of its own, the same for all methods.
        draws = {subset: context.seed(subset.seed) for subset in subsets}
        shared = _prepare.remote(store, context.config, work, int(context.budget or 0), draws)
        task = _train_one.options(num_cpus=1, num_gpus=0.25 if context.hardware.device == "cuda" else 0)
        with context.counting("evaluating", len(subsets), "trainings", len(subsets) - len(pending)) as counter:
            ray.get([task.remote(shared, subset, context.seed(subset.seed, 1), counter) for subset in pending])
    return [store.read_json(work, TRAININGS, subset.file_name) for subset in subsets]


@ray.remote(num_cpus=1)
def _prepare(store: Store, config: RunConfig, work: str, budget: int, draws: dict[Subset, int]) -> Trainings:
    """Draw the subsets, and read what they and the test set hold."""
    labels = read_column(store, "labels_true", "label")
    members = _draw_subsets(store, config, budget, labels, draws)
    used = np.unique(np.concatenate(list(members.values())))
    test_vectors, test_labels, test_dropped = _test_set(store, config, labels, used)
    return Trainings(
        store,
        work,
        config.evaluate,
        max(len(_classes(store, "labels")), 2),
        read_vectors_at(store, used),
        labels[used],
        {subset: np.searchsorted(used, positions) for subset, positions in members.items()},
        test_vectors,
        test_labels,
        test_dropped,
    )


def _draw_subsets(
    store: Store, config: RunConfig, budget: int, labels: np.ndarray, draws: dict[Subset, int]
) -> dict[Subset, np.ndarray]:
    """Positions of the samples in the coreset, and in random sets of its size."""
    coreset = read_column(store, f"coresets/{config.select.name}/{budget}", "index")
    labelled = np.flatnonzero(labels >= 0)
    unlabelled = int((labels[coreset] < 0).sum())
    if unlabelled:
        raise UsageError(
            f"{unlabelled} of the {budget} selected samples have no label in {config.evaluate.labels}; "
            "label them first, then evaluate"
        )
    if len(labelled) < budget:
        raise UsageError(
            f"only {len(labelled)} samples have a label, fewer than the budget of {budget}; pass more labels"
        )
    return {
        subset: coreset
        if subset.name == config.select.name
        else np.sort(np.random.default_rng(draw).choice(labelled, budget, replace=False))
        for subset, draw in draws.items()
    }


def _test_set(
    store: Store, config: RunConfig, labels: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Vectors and labels of the test set, and how many test images are not in it because they are candidates too.

    The separate test images of classes that the candidates have, or the labelled candidates in no training set.
    """
    if not config.evaluate.test_input:
        test = np.setdiff1d(np.flatnonzero(labels >= 0), used, assume_unique=True)
        if len(test) < MIN_TEST_SAMPLES:
            raise UsageError(
                f"only {len(test)} labelled candidates are in no training set, too few to test on; "
                "pass separate test images with --test-input"
            )
        return read_vectors_at(store, test), labels[test], 0
    names = {name: number for number, name in enumerate(_classes(store, "labels"))}
    translation = np.array([names.get(name, -1) for name in _classes(store, "test_labels")] + [-1])
    test_labels = translation[read_column(store, "test/labels_true", "label")]
    hashes = [store.read_table(name, columns=["content_hash"])["content_hash"] for name in ("test/samples", "samples")]
    candidates = pc.is_in(hashes[0], value_set=hashes[1].combine_chunks()).to_numpy()
    if candidates.all():
        raise UsageError(
            f"every image of {config.evaluate.test_input} is also one of {config.input}: a model would be tested on "
            "what it may have learned; pass other test images, or none"
        )
    kept = (test_labels >= 0) & ~candidates
    return read_vectors(store, "test/embeddings")[kept], test_labels[kept], int(candidates.sum())


def _classes(store: Store, unit: str) -> list[str]:
    record = store.record(unit)
    return list(record["metrics"]["classes"]) if record else []


@ray.remote(max_retries=3)
def _train_one(shared: Trainings, subset: Subset, seed: int, counter: Counter) -> None:
    """Train on some samples with true labels, test, and save the result."""
    torch.set_num_threads(1)
    started, options, rows = time.monotonic(), shared.options, shared.rows[subset]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = torch.from_numpy(normalize_rows(shared.vectors[rows])).to(device)
    labels = torch.from_numpy(shared.labels[rows]).to(device)
    generator = torch.Generator().manual_seed(seed)
    network = MlpClassifier(inputs, shared.num_classes, options.hidden_dim, generator=generator).to(device)
    steps, batch_size = options.steps, options.batch_size
    schedule: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": MLP_LEARNING_RATE}
    if options.hide:
        steps = train_with_hiding(network, inputs, labels, largest=options.hide, generator=generator, **schedule)
    else:
        train_for_steps(network, inputs, labels, generator=generator, **schedule)
    test_inputs = torch.from_numpy(normalize_rows(shared.test_vectors)).to(device)
    right = accuracy(network, test_inputs, torch.tensor(shared.test_labels, device=device))
    row = {
        "subset": subset.name,
        "seed": subset.seed,
        "model": "mlp",
        "train_samples": len(rows),
        "test_samples": len(shared.test_labels),
        "test_dropped": shared.test_dropped,
        "steps": steps,
        "test_accuracy": right,
        "seconds": round(time.monotonic() - started, 3),
    }
    shared.store.write_json(row, shared.work, TRAININGS, subset.file_name)
    counter.advance(1)


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


@ray.remote(num_cpus=0.5)
def _pseudo_label_quality(store: Store, config: RunConfig) -> dict[str, float]:
    """Agreement of the pseudo-labels with the truth, where both are known."""
    artifact, labels = labels_in_use(store, config), read_column(store, "labels_true", "label")
    if not store.exists(artifact):
        return {}
    known = labels >= 0
    clusters = read_column(store, artifact, "label")[known].astype(np.int64)
    return {
        "pseudo_label_accuracy": round(cluster_accuracy(labels[known], clusters), 4),
        "pseudo_label_nmi": round(normalized_mutual_information(labels[known], clusters), 4),
    }
