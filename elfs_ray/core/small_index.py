"""Exact neighbours among few rows, without a compiler: what numba compiles for many takes ten seconds when first used.

One product in double precision says which rows can be among the k best; these are ranked by sums of their own, each
rounded once, as `core.ranking.rank_candidates` has it.

Symbols: n rows, d dimensions, q queries, k neighbours.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

FEW_ROWS = 4096
"""Up to so many, all of this takes no longer than the compiled search of `core.exact_index`."""
MARGIN = 2.0**-23
"""No smaller than the step between two float32 below 1: rows whose similarity may be rounded to that of the k-th."""


@runtime_checkable
class Index(Protocol):
    """Finds rows of unit length, or of zeros."""

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q _"], Int64[np.ndarray, "q _"]]:
        """Similarity and rows of the k nearest of each query, or of all n."""


class SmallIndex:
    """All rows compared with each query, in double precision."""

    def __init__(self, vectors: Float32[np.ndarray, "n d"]) -> None:
        """Take rows of unit length or of zeros, finite."""
        self._vectors = vectors.astype(np.float64)

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q _"], Int64[np.ndarray, "q _"]]:
        """The k most similar rows of each query, best first, equal ones in order of row.

        Args:
            queries: rows of unit length or of zeros, float32 [q, d].
            k: all n rows, if there are fewer.

        Returns:
            Similarity float32 [q, min(k, n)] and rows int64 [q, min(k, n)].
        """
        count = min(k, len(self._vectors))
        similarity, rows = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
        wide = queries.astype(np.float64)
        products = wide @ self._vectors.T
        bounds = np.partition(products, -count, axis=1)[:, -count] - MARGIN
        for number, (query, found, bound) in enumerate(zip(wide, products, bounds, strict=True)):
            near = np.flatnonzero(found >= bound)
            # A sum of its own for each row, in one order: a product's order depends on where the row lies.
            exact = np.einsum("nd,d->n", self._vectors[near], query).astype(np.float32)
            best = np.argsort(-exact, kind="stable")[:count]
            similarity[number], rows[number] = exact[best], near[best]
        return similarity, rows


def exact_index(vectors: Float32[np.ndarray, "n d"], *, bfloat16: bool, threads: int) -> Index:
    """The index that is quicker for so many rows, on processors; both find the same.

    Args:
        vectors: rows of unit length or of zeros, finite.
        bfloat16: as `ExactIndex` takes it.
        threads: as `ExactIndex` takes it.
    """
    if len(vectors) <= FEW_ROWS:
        return SmallIndex(vectors)
    from elfs_ray.core.exact_index import ExactIndex

    return ExactIndex(vectors, bfloat16=bfloat16, threads=threads)
