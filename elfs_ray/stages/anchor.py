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
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import RunConfig
from elfs_ray.core.anchoring import Anchored, spread_by_probes
from elfs_ray.stages.context import StageContext, StageResult

ANCHORED = "pseudo_labels_anchored"


def run(context: StageContext) -> StageResult:
    """Compare probes and clusters on the known labels and write the better ones."""
    metrics = context.workers.call(_anchor, context.store, context.config, context.work, context.seed())
    return StageResult(chosen={"labeled": context.config.select.labeled}, metrics=metrics)


def _anchor(store: RunFolder, config: RunConfig, work: str, seed: int) -> dict[str, Any]:
    """Write the better labels; returns what the manifest says of them."""
    known, table = Table(store, "labels_known").column("label"), Table(store, "pseudo_labels").read()
    seeds = np.flatnonzero(known >= 0)
    clusters = table["label"].to_numpy().astype(np.int64)
    metrics: dict[str, Any] = {
        "labeled": len(seeds),
        "used": "clusters",
    }
    if _can_teach(known[seeds], config.clusters):
        anchored = spread_by_probes(
            Embeddings(store).mapped_unit_vectors(), clusters, seeds, known[seeds], np.random.default_rng(seed)
        )
        metrics["probe_accuracy_on_labeled"] = round(anchored.accuracy, 4)
        metrics["cluster_accuracy_on_labeled"] = round(anchored.cluster_accuracy, 4)
        if anchored.accuracy > anchored.cluster_accuracy:
            metrics["used"] = "probes"
            table = _replace(table, anchored)
    write_table(store, f"{work}/{ANCHORED}", table, schema.PSEUDO_LABELS)
    return metrics


def _can_teach(seed_labels: np.ndarray, num_classes: int) -> bool:
    """Whether every class that is expected has two labels or more, one to learn from and one to judge by."""
    counts = np.bincount(seed_labels)
    return len(counts) == num_classes and bool((counts >= 2).all())


def _replace(table: pa.Table, anchored: Anchored) -> pa.Table:
    columns = {"label": anchored.labels, "confidence": anchored.confidence, "agreement": anchored.agreement}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table
