"""Anchor: pseudo-labels from the samples that have labels already, where these say more than the clusters.

Reads: `embeddings`, `pseudo_labels` and the user's labels of some samples. Writes: `pseudo_labels_anchored`, which
later stages read in place of `pseudo_labels`. The labels decide: probes trained on four fifths of them against the
clusters named by the same four fifths, by how many of the others each gets right.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.table import Table
from elfs_ray.core.anchoring import Anchored, spread_by_probes
from elfs_ray.errors import UsageError
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.method_inputs import read_known_labels

ANCHORED = "pseudo_labels_anchored"


def run(context: StageContext) -> StageResult:
    """Compare probes and clusters on the known labels and write the better ones."""
    known = read_known_labels(context.store, context.config)
    if known is None:
        raise UsageError(
            "there are no labels to improve the pseudo-labels with; pass those of some images with --labeled"
        )
    classes = context.config.num_classes
    given = context.embeddings, context.table("pseudo_labels"), known, classes, context.seed()
    table, metrics = context.workers.call(_anchor, *given)
    context.write(ANCHORED, table, schema.PSEUDO_LABELS)
    return StageResult(chosen={"labeled": context.config.select.labeled}, metrics=metrics)


def _anchor(
    embeddings: Embeddings, labels: Table, known: np.ndarray, num_classes: int, seed: int
) -> tuple[pa.Table, dict[str, Any]]:
    """The better labels, and what the manifest says of them."""
    seeds, table = np.flatnonzero(known >= 0), labels.read()
    clusters = table["label"].to_numpy().astype(np.int64)
    metrics: dict[str, Any] = {
        "labeled": len(seeds),
        "used": "clusters",
    }
    if _can_teach(known[seeds], num_classes):
        anchored = spread_by_probes(
            embeddings.mapped_unit_vectors(), clusters, seeds, known[seeds], np.random.default_rng(seed)
        )
        metrics["probe_accuracy_on_labeled"] = round(anchored.accuracy, 4)
        metrics["cluster_accuracy_on_labeled"] = round(anchored.cluster_accuracy, 4)
        if anchored.accuracy > anchored.cluster_accuracy:
            metrics["used"] = "probes"
            table = _replace(table, anchored)
    return table, metrics


def _can_teach(seed_labels: np.ndarray, num_classes: int) -> bool:
    """Whether every class that is expected has two labels or more, one to learn from and one to judge by."""
    counts = np.bincount(seed_labels)
    return len(counts) == num_classes and bool((counts >= 2).all())


def _replace(table: pa.Table, anchored: Anchored) -> pa.Table:
    columns = {"label": anchored.labels, "confidence": anchored.confidence, "agreement": anchored.agreement}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table
