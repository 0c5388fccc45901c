"""Nearest neighbours over shards: who holds which rows, and how the answers become one.

Ids are global row numbers everywhere, so that a sample is never its own neighbour, whatever the number of shards.
Symbols: n rows, d dimensions, q queries, k neighbours.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64


def shard_ranges(num_rows: int, num_shards: int) -> list[tuple[int, int]]:
    """Contiguous half-open ranges of nearly equal size that cover all rows; never more ranges than rows."""
    count = max(1, min(num_shards, num_rows))
    edges = [num_rows * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


def merge_top_k(
    parts: Sequence[tuple[Int64[np.ndarray, "q _"], Float[np.ndarray, "q _"]]], k: int
) -> tuple[Int64[np.ndarray, "q {k}"], Float32[np.ndarray, "q {k}"]]:
    """Merge the best rows found by several shards; associative, so parts may be merged in any grouping.

    Args:
        parts: for each shard, ids int64 [q, k_i] and similarity float32 [q, k_i]; an id of -1 stands for no answer.
        k: columns to keep, at most the sum of k_i.

    Returns:
        Ids [q, k] and similarity [q, k], most similar first; equal similarities in order of id.
    """
    ids = np.concatenate([part[0] for part in parts], axis=1)
    similarity = np.concatenate([part[1] for part in parts], axis=1)
    similarity = np.where(ids < 0, -np.inf, similarity).astype(np.float32, copy=False)
    order = np.lexsort((ids, -similarity), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(similarity, order, axis=1)


def drop_self(
    ids: Int64[np.ndarray, "q m"], similarity: Float32[np.ndarray, "q m"], query_ids: Int64[np.ndarray, " q"], k: int
) -> tuple[Int64[np.ndarray, "q {k}"], Float32[np.ndarray, "q {k}"]]:
    """Remove each query from its own answers.

    Args:
        ids: int64 [q, at least k + 1], best first.
        similarity: float32, the same shape.
        query_ids: global id of each query, int64 [q].
        k: neighbours to keep. A query hidden behind k + 1 equal rows is not in its answers; the last one goes instead.

    Returns:
        Ids [q, k] and similarity [q, k], still best first.
    """
    is_self = ids == query_ids[:, None]
    others_first = np.argsort(is_self, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, others_first, axis=1), np.take_along_axis(similarity, others_first, axis=1)


def recall_at_k(found: Int64[np.ndarray, "q any"], exact: Int64[np.ndarray, "q k"]) -> float:
    """Share of the exact neighbours, int64 [q, k], that are among the found ones, int64 [q, any]."""
    hits = (exact[:, :, None] == found[:, None, :]).any(axis=2)
    return float(hits.mean())
