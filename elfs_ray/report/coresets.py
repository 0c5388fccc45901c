"""What the report says and shows of each coreset."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elfs_ray.artifacts.record import SUPERVISED, Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import is_supervised
from elfs_ray.report.thumbnails import Pictures, Thumbnail

FEWEST_OF_A_CLUSTER = 4
"""Pictures; where there are more clusters than that leaves room for, the largest are shown."""


@dataclass(frozen=True)
class Coreset:
    """What the page says of one method and budget.

    Attributes:
        name: METHOD/BUDGET.
        choice: the method that `auto` took.
        indices: of its samples in order of rank, int64.
        evaluation: metrics of its evaluation, if there is one.
        coverage: how it covers all images, beside random subsets.
        gallery: title and pictures of each cluster.
        clusters_left_out: clusters without pictures.
    """

    name: str
    method: str
    budget: int
    choice: str | None
    beta: float | None
    supervised: bool
    path: str
    indices: np.ndarray
    evaluation: dict[str, Any] | None
    coverage: dict[str, Any] | None
    gallery: list[tuple[str, list[Thumbnail]]] = field(default_factory=list)
    clusters_left_out: int = 0
    hardest: list[Thumbnail] = field(default_factory=list)
    easiest: list[Thumbnail] = field(default_factory=list)


def describe_coresets(store: RunFolder, records: Records, pictures: Pictures, limit: int) -> list[Coreset]:
    """Every current coreset of the run.

    Args:
        store: of the run.
        records: of what is current.
        pictures: makes the pictures.
        limit: pictures in each gallery.
    """
    return [_describe(store, records, unit, pictures, limit) for unit in records.of("select")]


def _describe(store: RunFolder, records: Records, unit: Unit, pictures: Pictures, limit: int) -> Coreset:
    metrics, supervised = records[unit].metrics, is_supervised(unit.method)
    table = Table(store, unit.artifact("coresets")).read(columns=["index", "pseudo_label"])
    indices, labels = table["index"].to_numpy(), table["pseudo_label"].to_numpy(zero_copy_only=False)
    gallery, left_out = _by_cluster(indices, labels, limit)
    proxy = Unit("proxy", SUPERVISED if supervised else "")
    hardest, easiest = dict[int, str](), dict[int, str]()
    if proxy in records:
        hardest, easiest = _pruned(Table(store, proxy.artifact("dynamics")), indices, limit // 4)
    evaluation, coverage = (records.beside(unit, stage) for stage in ("evaluate", "coverage"))
    return Coreset(
        unit.coreset,
        unit.method,
        unit.budget,
        metrics["choice"],
        metrics["beta"],
        supervised,
        store.location(unit.artifact("coresets")),
        indices,
        evaluation.metrics if evaluation else None,
        coverage.metrics if coverage else None,
        [(title, pictures.make(captions)) for title, captions in gallery],
        left_out,
        pictures.make(hardest),
        pictures.make(easiest),
    )


def _by_cluster(indices: np.ndarray, labels: np.ndarray, limit: int) -> tuple[list[tuple[str, dict[int, str]]], int]:
    """Title and captions of each cluster's best ranked samples, and how many clusters are left out.

    Args:
        indices: of the samples in order of rank, int64 [m].
        labels: pseudo-labels [m], NaN where there is none.
        limit: pictures at most.
    """
    if np.isnan(labels).any():
        return [(f"{len(indices):,} selected", dict.fromkeys(indices[:limit].tolist(), "selected"))], 0
    clusters, sizes = np.unique(labels.astype(np.int64), return_counts=True)
    room = max(1, limit // FEWEST_OF_A_CLUSTER)
    shown = np.sort(clusters[np.argsort(-sizes, kind="stable")[:room]])
    gallery = []
    for cluster in shown:
        members = indices[labels == cluster]
        captions = dict.fromkeys(members[: limit // len(shown)].tolist(), f"cluster {cluster}")
        gallery.append((f"cluster {cluster}, {len(members):,} selected", captions))
    return gallery, len(clusters) - len(shown)


def _pruned(dynamics: Table, selected: np.ndarray, limit: int) -> tuple[dict[int, str], dict[int, str]]:
    """Indices of the hardest and of the easiest images left out, with their AUM as caption."""
    aum = dynamics.column("aum")
    is_kept = np.isin(np.arange(len(aum)), selected)
    order = np.argsort(aum, kind="stable")
    order = order[~is_kept[order]]
    hard = order[aum[order] <= aum[is_kept].min()][:limit]
    easy = order[aum[order] >= aum[is_kept].max()][::-1][:limit]

    def captions(rows: np.ndarray) -> dict[int, str]:
        return {int(row): f"AUM {aum[row]:.2f}" for row in rows}

    return captions(hard), captions(easy)
