"""Evaluate: the accuracy of models trained with true labels on the coreset, beside random subsets.

Reads: `embeddings` or `samples`, `labels_true`, `pseudo_labels`, `coresets/METHOD/BUDGET`, and the separate test images
if there are any. Writes: `evaluation/METHOD/BUDGET` (one row for each training). But for supervised baselines, the only
stage that reads true labels. Every training of a model has the same number of steps and the same test set; the last
state counts, never the best on test. Random subsets and the seeds of trainings are the same for all methods, so that
differences to random are paired.
Each training saves its row when it ends, under a key made of all that decides its result; a second run of the driver
does the others. Rows of earlier evaluations in the run folder with the same key are taken over: random subsets are
trained on once for all methods, and another model or seed costs only its own trainings.
"""

import hashlib
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from elfs_ray import schema
from elfs_ray.config import EvaluateConfig, RunConfig, fingerprint
from elfs_ray.core.classifier import Prepare, accuracy, train_for_steps, unprepared
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.hiding import train_with_hiding
from elfs_ray.core.metrics import cluster_accuracy, mean_and_interval, normalized_mutual_information
from elfs_ray.core.networks import build_network, prepare_images
from elfs_ray.data.images import read_pixels
from elfs_ray.defaults import GPU_SHARES, TEST_ROWS, choose_evaluations
from elfs_ray.engine.artifacts import median_side, part_name, read_column, read_vectors_at
from elfs_ray.engine.inputs import labels_in_use
from elfs_ray.engine.progress import Counter
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import UsageError
from elfs_ray.store import Store

MIN_TEST_SAMPLES = 20
RUNS, TRAININGS = "runs", "trainings"
# What decides the result of a training beside its data.
TRAINING_OPTIONS = {
    *("hidden_dim", "image_size", "steps", "batch_size", "learning_rate", "weight_decay", "dtype", "hide")
}


class Training(NamedTuple):
    """One training: of which model, on which kind of subset, and the seed of the draw and of the training."""

    subset: str
    model: str
    seed: int


@dataclass(frozen=True)
class Sets:
    """What the trainings train and test on.

    Attributes:
        rows: positions among the candidates, by kind of subset and seed.
        labels: of all candidates, -1 where there is none.
        test: positions among the separate test images, or among the candidates if there are none.
        test_labels: of these.
        test_dropped: test images left out because they are candidates too.
    """

    rows: dict[tuple[str, int], np.ndarray]
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    test_dropped: int


@dataclass(frozen=True)
class Trainings:
    """What all trainings share.

    Attributes:
        options: how each model is trained.
        used: positions of the samples in any training set.
        inputs: of these, by pixels a side; 0: their embeddings.
        test_inputs: the same of the test set.
    """

    store: Store
    work: str
    options: dict[str, EvaluateConfig]
    num_classes: int
    sets: Sets
    used: np.ndarray
    inputs: dict[int, np.ndarray]
    test_inputs: dict[int, np.ndarray]


def run(context: StageContext) -> StageResult:
    """Train on the coreset and on random subsets of the same size, with each model and seed, and compare."""
    config, store, budget = context.config, context.store, int(context.budget or 0)
    method, options = config.select.name, config.evaluate
    subsets = list(dict.fromkeys([method, "random"]))
    trainings = [
        Training(subset, model, seed)
        for model in dict.fromkeys(options.models)
        for subset in subsets
        for seed in range(options.seeds)
    ]
    # Each draw and each training has a seed of its own, the same for all methods.
    draws = {seed: context.seed(seed, unit="evaluation") for seed in range(options.seeds)}
    two: Any = _draw.remote(store, config, context.hardware.device, budget, trainings, draws)
    described, sets = ray.get(two[0]), two[1]
    rows = _train_all(context, described, sets)
    store.write_table(pa.Table.from_pylist(rows), schema.EVALUATION, context.work, RUNS, part_name(0))
    quality = {} if config.select.supervised else ray.get(_pseudo_label_quality.remote(store, config))
    metrics = {
        "models": {model: _summary([row for row in rows if row["model"] == model], method) for model in options.models},
        **quality,
        "test_samples": described["test_samples"],
        "test_dropped": described["test_dropped"],
        "test": options.test_input or "held-out candidates",
        "embeddings_of": options.embeddings_of,
    }
    chosen = {name: section.model_dump(mode="json") for name, section in described["options"].items()}
    return StageResult(artifacts={f"evaluation/{method}/{budget}": RUNS}, chosen=chosen, metrics=metrics)


@ray.remote(num_cpus=1, num_returns=2)
def _draw(
    store: Store,
    config: RunConfig,
    device: str,
    budget: int,
    trainings: list[Training],
    draws: dict[int, int],
) -> tuple[dict[str, Any], Sets]:
    """Draw the subsets and the test set, and give each training its key."""
    labels = read_column(store, "labels_true", "label")
    rows = _draw_subsets(store, config, budget, labels, draws)
    sets = _with_test_set(store, config, labels, rows)
    options = choose_evaluations(config.evaluate, device, median_side(store))
    embedded = _embedded(store, config)
    contents = [each.content(prefix + unit) for prefix in ("", "test_")
                for each, unit in ((embedded, "embed"), (store, "labels"))]  # fmt: skip
    data = [*filter(None, contents), _digest(sets.test)]
    digests = {name: _digest(positions) for name, positions in rows.items()}
    keys = {}
    for training in trainings:
        of_model = options[training.model].model_dump(mode="json", include=TRAINING_OPTIONS)
        subset = digests[training.subset, training.seed]
        keys[training] = fingerprint(training.model, of_model, draws[training.seed], subset, data)
    described = {
        "keys": keys,
        "options": options,
        "test_samples": len(sets.test),
        "test_dropped": sets.test_dropped,
    }
    return described, sets


def _embedded(store: Store, config: RunConfig) -> Store:
    """The run folder with the embeddings to train on: this one, or another over the same images.

    Raises:
        UsageError: the other has none, or other images.
    """
    location = config.evaluate.embeddings_of
    if location is None:
        return store
    other = Store(location)
    for name in ("samples", "test/samples") if config.evaluate.test_input else ("samples",):
        embeddings = name.replace("samples", "embeddings")
        if not other.exists(embeddings):
            raise UsageError(f"evaluate.embeddings_of={location} holds no {embeddings}; run it up to embed first")
        ids, others = (each.read_table(name, columns=["sample_id"]) for each in (store, other))
        if not ids.equals(others):
            raise UsageError(f"evaluate.embeddings_of={location} is a run over other images; pass one over these")
    return other


def _digest(positions: np.ndarray) -> str:
    return hashlib.blake2b(positions.astype(np.int64).tobytes(), digest_size=16).hexdigest()


def _draw_subsets(
    store: Store, config: RunConfig, budget: int, labels: np.ndarray, draws: dict[int, int]
) -> dict[tuple[str, int], np.ndarray]:
    """Positions of the samples in the coreset, and in random sets of its size; a larger one holds the smaller."""
    method = config.select.name
    coreset = np.sort(read_column(store, f"coresets/{method}/{budget}", "index"))
    labelled = np.flatnonzero(labels >= 0)
    unlabelled = int((labels[coreset] < 0).sum())
    if unlabelled and method != "random":
        raise UsageError(
            f"{unlabelled} of the {budget} selected samples have no label in {config.evaluate.labels}; "
            "label them first, then evaluate"
        )
    if len(labelled) < budget:
        raise UsageError(
            f"only {len(labelled)} samples have a label, fewer than the budget of {budget}; pass more labels"
        )
    subsets = {(method, seed): coreset for seed in draws}
    for seed, draw in draws.items():
        subsets["random", seed] = np.sort(np.random.default_rng(draw).permutation(labelled)[:budget])
    return subsets


def _with_test_set(
    store: Store, config: RunConfig, labels: np.ndarray, rows: dict[tuple[str, int], np.ndarray]
) -> Sets:
    """The separate test images of classes that the candidates have, or the labelled candidates in no training set."""
    if not config.evaluate.test_input:
        used = np.unique(np.concatenate(list(rows.values())))
        test = np.setdiff1d(np.flatnonzero(labels >= 0), used, assume_unique=True)
        if len(test) < MIN_TEST_SAMPLES:
            raise UsageError(
                f"only {len(test)} labelled candidates are in no training set, too few to test on; "
                "pass separate test images with --test-input"
            )
        return Sets(rows, labels, test, labels[test], 0)
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
    test = np.flatnonzero((test_labels >= 0) & ~candidates)
    return Sets(rows, labels, test, test_labels[test], int(candidates.sum()))


def _classes(store: Store, unit: str) -> list[str]:
    record = store.record(unit)
    return list(record["metrics"]["classes"]) if record else []


def _train_all(context: StageContext, described: dict[str, Any], sets: "ray.ObjectRef[Sets]") -> list[dict[str, Any]]:
    """One Ray task for each training that was not done before; returns the rows in the order of the trainings."""
    store, work, keys = context.store, context.work, described["keys"]
    done = {**_earlier_rows(store), **_saved_rows(store, work)}
    pending = [training for training, key in keys.items() if key not in done]
    if pending:
        shared = _load.remote(store, context.config, work, described["options"], sets, pending)
        refs = []
        with context.counting("evaluating", len(keys), "trainings", len(keys) - len(pending)) as counter:
            for training in pending:
                share = GPU_SHARES[described["options"][training.model].image_size > 0]
                task = _train_one.options(num_gpus=share if context.hardware.device == "cuda" else 0)
                seed = context.seed(training.seed, 1, unit="evaluation")
                refs.append(task.remote(shared, training, keys[training], seed, counter))
            ray.get(refs)
        done.update(_saved_rows(store, work))
    budget = int(context.budget or 0)
    names = {"budget": budget, "test_samples": described["test_samples"]}
    return [{**done[key], **training._asdict(), **names} for training, key in keys.items()]


def _saved_rows(store: Store, work: str) -> dict[str, dict[str, Any]]:
    """Rows of the trainings that have ended in this work folder, by key."""
    names = store.names(work, TRAININGS)
    return {name.removesuffix(".json"): store.read_json(work, TRAININGS, name) for name in names}


def _earlier_rows(store: Store) -> dict[str, dict[str, Any]]:
    """Rows of all published evaluations, by key."""
    units = [unit for unit in store.manifest().get("stages", {}) if unit.startswith("evaluation/")]
    tables = [store.read_table(unit) for unit in units if store.part_paths(unit)]
    return {row["training"]: row for table in tables for row in table.to_pylist() if "training" in row}


@ray.remote(num_cpus=1)
def _load(
    store: Store,
    config: RunConfig,
    work: str,
    options: dict[str, EvaluateConfig],
    sets: Sets,
    pending: list[Training],
) -> Trainings:
    """Read what the pending trainings need of the training sets and the test set."""
    used = np.unique(np.concatenate([sets.rows[training.subset, training.seed] for training in pending]))
    sizes = {int(options[training.model].image_size) for training in pending}
    prefix = "test/" if config.evaluate.test_input else ""
    location = config.evaluate.test_input or config.location
    embedded = Store(config.evaluate.embeddings_of or store.uri)

    def inputs(size: int, prefix: str, positions: np.ndarray, location: str) -> np.ndarray:
        if size == 0:
            return read_vectors_at(embedded, positions, prefix + "embeddings")
        samples = store.dataset(prefix + "samples")
        return read_pixels(samples, size, config.ingest.max_pixels, positions=positions, location=location)

    return Trainings(
        store,
        work,
        options,
        max(len(_classes(store, "labels")), 2),
        sets,
        used,
        {size: inputs(size, "", used, config.location) for size in sizes},
        {size: inputs(size, prefix, sets.test, location) for size in sizes},
    )


@ray.remote(num_cpus=1, max_retries=3)
def _train_one(shared: Trainings, training: Training, key: str, seed: int, counter: Counter) -> None:
    """Train on some samples with true labels, test, and save the result."""
    torch.set_num_threads(1)
    started, options, sets = time.monotonic(), shared.options[training.model], shared.sets
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    positions = sets.rows[training.subset, training.seed]
    rows = np.searchsorted(shared.used, positions)
    size = int(options.image_size)
    as_inputs = torch.from_numpy if size else lambda vectors: torch.from_numpy(normalize_rows(vectors))
    inputs = as_inputs(shared.inputs[size][rows]).to(device)
    labels = torch.from_numpy(sets.labels[positions]).to(device)
    generator = torch.Generator().manual_seed(seed)
    network = build_network(training.model, inputs, shared.num_classes, options.hidden_dim, generator=generator)
    prepare: Prepare = prepare_images if size else unprepared
    steps = int(options.steps)
    train = partial(train_with_hiding, largest=options.hide) if options.hide else train_for_steps
    taken = train(
        network.to(device),
        inputs,
        labels,
        steps=steps,
        batch_size=int(options.batch_size),
        learning_rate=float(options.learning_rate),
        weight_decay=options.weight_decay,
        generator=generator,
        prepare=prepare,
        dtype=getattr(torch, options.dtype),
    )
    test_inputs, test_labels = as_inputs(shared.test_inputs[size]).to(device), torch.tensor(sets.test_labels)
    row = {
        "training": key,
        "train_samples": len(positions),
        "steps": steps if taken is None else taken,
        "test_accuracy": accuracy(network, test_inputs, test_labels.to(device), TEST_ROWS[size > 0], prepare),
        "seconds": round(time.monotonic() - started, 3),
    }
    shared.store.write_json(row, shared.work, TRAININGS, f"{key}.json")
    counter.advance(1)


def _summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Mean and spread of each kind of subset, and the paired difference to random."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["subset"], []).append(row["test_accuracy"])
    subsets = {name: mean_and_interval(values)._asdict() for name, values in scores.items()}
    summary: dict[str, Any] = {"subsets": subsets}
    if method != "random":
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
