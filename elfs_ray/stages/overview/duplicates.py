"""Duplicates: the pairs of images that are most alike, for the report.

Reads: `neighbors`. Writes: `near_duplicates`, the most similar pairs in descending order. One pass, bounded in memory.
"""

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.table import KEY, Table, fixed_size_matrix
from elfs_ray.stages.context import StageContext, StageResult

PAIRS = "near_duplicates"
MOST_PAIRS = 1000
ALIKE = 0.95
"""Cosine similarity from which on the report counts an image as having a near-duplicate."""


def run(context: StageContext) -> StageResult:
    """Keep the most similar pairs, and count the images that have a near-duplicate."""
    pairs, alike = context.workers.call(_find, context.table("neighbors"), context.table("samples"), cpus=0.5)
    context.write(PAIRS, pairs, schema.NEAR_DUPLICATES)
    return StageResult(metrics={"similarity": ALIKE, "alike": alike})


def _find(neighbors: Table, samples: Table) -> tuple[pa.Table, int]:
    """The pairs, and how many images are so similar to another."""
    pairs, similarity, alike = np.empty((0, 2), np.int64), np.empty(0, np.float32), 0
    for batch in neighbors.batches(["index", "ids", "similarity"]):
        nearest, how = (fixed_size_matrix(batch[name])[:, 0] for name in ("ids", "similarity"))
        alike += int((how >= ALIKE).sum())
        both = np.sort(np.stack([batch["index"].to_numpy(), nearest], axis=1), axis=1)
        pairs, rows = np.unique(np.concatenate([pairs, both]), axis=0, return_index=True)
        similarity = np.concatenate([similarity, how])[rows]
        best = np.argsort(-similarity, kind="stable")[:MOST_PAIRS]
        pairs, similarity = pairs[best], similarity[best]
    return _named(samples, pairs, similarity), alike


def _named(samples: Table, pairs: np.ndarray, similarity: np.ndarray) -> pa.Table:
    """The pairs with the ids of their samples."""
    keys = samples.take(np.unique(pairs), KEY)
    ids = dict(zip(keys["index"].to_pylist(), keys["sample_id"].to_pylist(), strict=True))
    first, second = pairs.T.tolist()
    return pa.table(
        {
            "sample_id": [ids[index] for index in first],
            "index": first,
            "other_id": [ids[index] for index in second],
            "other": second,
            "similarity": similarity,
        }
    )
