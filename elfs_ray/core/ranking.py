"""Candidates ranked by their exact similarity.

Symbols: n rows, d dimensions, q queries, c candidates, k neighbours.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float32, Int64

from elfs_ray.core.compiled import compiled
from elfs_ray.core.knn import merge_top_k


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
