"""What the trainings of an evaluation train and test on: the coreset, random subsets of its size, and a test set.

Each training gets a key made of all that decides its result. Images that are candidates too are left out of the test
set, by the hash of their content.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from elfs_ray.artifacts.record import TEST, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import median_side
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.data.classes import class_key
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import MIN_TEST_SAMPLES, TRAINING_OPTIONS, choose_evaluations

AUGMENTATION = 2
"""Raised when images are augmented in another way: trainings with the earlier one no longer count."""


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

    def used(self, trainings: Iterable[Training]) -> np.ndarray:
        """Positions of the candidates in any of their training sets, int64 [n] in ascending order."""
        return np.unique(np.concatenate([self.rows[each.subset, each.seed] for each in trainings]))


def draw_sets(
    store: RunFolder,
    config: RunConfig,
    dtypes: dict[str, str],
    unit: Unit,
    version: int,
    trainings: list[Training],
    draws: dict[int, int],
) -> tuple[dict[str, Any], Sets]:
    """Draw the subsets and the test set, and give each training its key, in which the stage's version counts, too."""
    labels = Table(store, "labels_true").column("label")
    rows = _draw_subsets(store, config, unit, labels, draws)
    sets = _with_test_set(store, config, labels, rows)
    options = choose_evaluations(config.evaluate, median_side(store), **dtypes)
    read = [(_embedded(store, config), "embed"), (store, "labels")]
    prefixes = ("", TEST) if config.evaluate.test_input else ("",)
    below = [each.records().current.get(Unit(stage, prefix)) for prefix in prefixes for each, stage in read]
    data = [version, *(record.content for record in below if record), _digest(sets.test)]
    digests = {name: _digest(positions) for name, positions in rows.items()}
    keys = {}
    for training in trainings:
        of_model = options[training.model].model_dump(mode="json", include=TRAINING_OPTIONS)
        subset = digests[training.subset, training.seed]
        augmented = [AUGMENTATION] if options[training.model].image_size else []
        keys[training] = fingerprint(training.model, of_model, draws[training.seed], subset, data, *augmented)
    described = {
        "keys": keys,
        "options": options,
        "test_samples": len(sets.test),
        "test_dropped": sets.test_dropped,
    }
    return described, sets


def _embedded(store: RunFolder, config: RunConfig) -> RunFolder:
    """The run folder with the embeddings to train on: this one, or another over the same images.

    Raises:
        UsageError: the other has none, or other images.
    """
    location = config.evaluate.embeddings_of
    if location is None:
        return store
    other = RunFolder(location)
    for name in ("samples", "test/samples") if config.evaluate.test_input else ("samples",):
        embeddings = name.replace("samples", "embeddings")
        if not other.exists(embeddings):
            raise UsageError(f"evaluate.embeddings_of={location} holds no {embeddings}; run it up to embed first")
        ids, others = (Table(each, name).read(columns=["sample_id"]) for each in (store, other))
        if not ids.equals(others):
            raise UsageError(f"evaluate.embeddings_of={location} is a run over other images; pass one over these")
    return other


def _digest(positions: np.ndarray) -> str:
    return hashlib.blake2b(positions.astype(np.int64).tobytes(), digest_size=16).hexdigest()


def _draw_subsets(
    store: RunFolder, config: RunConfig, unit: Unit, labels: np.ndarray, draws: dict[int, int]
) -> dict[tuple[str, int], np.ndarray]:
    """Positions of the samples in the coreset, and in random sets of its size; a larger one holds the smaller."""
    method, budget = unit.method, unit.budget
    coreset = np.sort(Table(store, unit.artifact("coresets")).column("index"))
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
    store: RunFolder, config: RunConfig, labels: np.ndarray, rows: dict[tuple[str, int], np.ndarray]
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
    names = {class_key(name): number for number, name in enumerate(class_names(store))}
    translation = np.array([names.get(class_key(name), -1) for name in class_names(store, TEST)] + [-1])
    test_labels = translation[Table(store, "test/labels_true").column("label")]
    hashes = [Table(store, name).read(columns=["content_hash"])["content_hash"] for name in ("test/samples", "samples")]
    candidates = pc.is_in(hashes[0], value_set=hashes[1].combine_chunks()).to_numpy()
    if candidates.all():
        raise UsageError(
            f"every image of {config.evaluate.test_input} is also one of {config.input}: a model would be tested on "
            "what it may have learned; pass other test images, or none"
        )
    test = np.flatnonzero((test_labels >= 0) & ~candidates)
    return Sets(rows, labels, test, test_labels[test], int(candidates.sum()))


def class_names(store: RunFolder, prefix: str = "") -> list[str]:
    """Names of the classes that true labels have: those of the candidates, or of the test images."""
    return list(store.records()[Unit("labels", prefix)].metrics["classes"])
