"""Nearest neighbours over shards: who holds which rows, how candidates are ranked, how the answers become one.

Ids are global row numbers everywhere, so that a sample is never its own neighbour, whatever the number of shards.
Symbols: n rows, d dimensions, q queries, k neighbours.
"""

import itertools
from collections.abc import Sequence
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Float32, Int64

from elfs_ray.core.compiled import compiled


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


def rank_candidates(
    queries: Float32[np.ndarray, "q d"], vectors: Float32[np.ndarray, "n d"], rows: Int64[np.ndarray, "q c"], k: int
) -> tuple[Int64[np.ndarray, "q kept"], Float32[np.ndarray, "q kept"]]:
    """The best of each query's candidates by their exact similarity.

    Products are summed in double precision and rounded once, so that a pair has one similarity, wherever its row lies
    and whatever is computed beside it. A fast search rounds by order of work, which differs from shard to shard.

    Args:
        queries: float32 [q, d].
        vectors: that the candidates are rows of, float32 [n, d].
        rows: candidates, int64 [q, c]; -1 stands for none.
        k: candidates to keep; all c, if there are fewer.

    Returns:
        Rows [q, min(k, c)] and similarity, most similar first, equal ones in order of row; -1 and -inf come last.
    """
    similarity = _similarities(*(np.ascontiguousarray(array) for array in (queries, vectors, rows)))
    return merge_top_k([(rows, similarity)], min(k, rows.shape[1]))


@compiled(nogil=True)
@no_type_check
def _similarities(queries, vectors, rows):
    found = np.full(rows.shape, -np.inf, dtype=np.float32)
    for query in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            if rows[query, column] >= 0:
                found[query, column] = similarity_of(queries[query], vectors[rows[query, column]])
    return found


@compiled(nogil=True, fastmath={"reassoc", "contract"})
@no_type_check
def similarity_of(first, second):
    """Product of two rows, summed in double precision and rounded once; for other loops that are compiled."""
    total = 0.0
    for dim in range(len(first)):
        total += np.float64(first[dim]) * np.float64(second[dim])
    return np.float32(total)


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
