"""Coverage: how well a coreset stands for all images, and how redundant it is, beside random subsets of its size.

Reads: `embeddings`, `coresets/METHOD/BUDGET`. Writes: `coverage/METHOD/BUDGET`, a row for the coreset and one for each
random subset. Large sets are judged by random parts of them, equally large for the coreset and the random subsets.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.table import Table
from elfs_ray.core.metrics import mean_and_interval, nearest_similarity
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.workers.base import Threads
from elfs_ray.workers.threads import use_threads

COVERAGE = "coverage"
DRAWS = 5
MOST_QUERIES, MOST_CHOSEN = 4096, 16_384


def run(context: StageContext) -> StageResult:
    """Judge the coreset and the random subsets in one task."""
    # The same images and random subsets for every method.
    seed = context.seed(context.unit.budget, unit=COVERAGE)
    threads = context.workers.threads()  # nothing else of the stage runs
    rows = context.workers.call(
        _judge, context.embeddings, Table(context.store, context.unit.artifact("coresets")), seed, threads
    )
    context.write(COVERAGE, pa.Table.from_pylist(rows), schema.COVERAGE)
    metrics = {}
    for measure in ("coverage", "redundancy"):
        coreset, *random = (row[measure] for row in rows)
        if coreset is not None:
            metrics[measure] = {"coreset": coreset, "random": mean_and_interval(random)._asdict()}
    return StageResult(metrics=metrics)


def _judge(embeddings: Embeddings, coreset: Table, seed: int, threads: Threads) -> list[dict[str, Any]]:
    use_threads(threads())
    rng = np.random.default_rng(seed)
    num_samples, selected = embeddings.rows, coreset.column("index")
    queries = _some(rng, np.arange(num_samples), MOST_QUERIES)
    subsets = [_some(rng, np.sort(selected), MOST_CHOSEN)]
    subsets += [np.sort(rng.choice(num_samples, len(subsets[0]), replace=False)) for _ in range(DRAWS)]
    used = np.unique(np.concatenate([queries, *subsets]))
    vectors = embeddings.unit_vectors_at(used)
    rows: list[dict[str, Any]] = []
    for number, subset in enumerate(subsets):
        chosen = vectors[np.searchsorted(used, subset)]
        covered = nearest_similarity(vectors[np.searchsorted(used, queries)], chosen)
        own = _some(rng, np.arange(len(chosen)), MOST_QUERIES)
        alike = nearest_similarity(chosen[own], chosen, own) if len(chosen) > 1 else None
        rows.append(
            {
                "subset": "random" if number else "coreset",
                "draw": number - 1 if number else None,
                "coverage": float(covered.mean()),
                "redundancy": None if alike is None else float(alike.mean()),
            }
        )
    return rows


def _some(rng: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    """All rows, or so many of them, in ascending order."""
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
