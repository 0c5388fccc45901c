"""Exact neighbours on processors: fast products say which rows can be among the k best, double precision ranks those.

No product decides anything. Each lies within a bound of the exact similarity: what rounding to bfloat16 takes from the
rows, measured as a length (Cauchy-Schwarz), and what summing in float32 adds. A row whose product is further than that
below the k-th best exact similarity found so far is no neighbour; each other one is looked at. So the answer is the
same with rounded products and without, whatever the blocks, threads and shards.

Symbols: n rows, d dimensions, q queries, k neighbours, m rows of a block.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from elfs_ray.core.compiled import compiled, value_at
from elfs_ray.core.knn import shard_ranges
from elfs_ray.core.ranking import similarity_of

BLOCK_QUERIES, BLOCK_ROWS = 1024, 32_768
"""Whose products are held at once; threads wait for each other after each block."""
GROUPS, SMALLEST_GROUP, LARGEST_GROUP = 4, 8, 64
"""Products are first looked at in groups: so many for each neighbour, of a size between these."""
WORTH_ROUNDING = 32
"""Rounded products leave more rows to look at; they are worth it up to one in so many of the rows."""

# At most: what a float32 sum is off for each dimension, and a product below 1 that is rounded to bfloat16.
SUM_ERROR, ROUNDED_ERROR = 2.0**-23, 2.0**-9


class _Side(NamedTuple):
    """Rows on one side of a product.

    Attributes:
        values: float32, or bfloat16, [m, d].
        lost: the greatest length of what rounding takes from a row; 0 where nothing is rounded.
    """

    values: Tensor
    lost: float


class ExactIndex:
    """All rows compared with each query."""

    def __init__(self, vectors: Float32[np.ndarray, "n d"], *, bfloat16: bool = False, threads: int = 1) -> None:
        """An index that holds no copy of the rows.

        Args:
            vectors: rows of unit length or of zeros, finite.
            bfloat16: multiply in bfloat16, which is faster where the processor has instructions for it.
            threads: that look at the products; torch has a setting of its own.
        """
        self._vectors, self._bfloat16, self._threads = vectors, bfloat16, max(1, threads)

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q _"], Int64[np.ndarray, "q _"]]:
        """The k most similar rows of each query, best first, equal ones in order of row.

        Similarities are those of `core.ranking.rank_candidates`: summed in double precision, rounded once.

        Args:
            queries: rows of unit length or of zeros, float32 [q, d].
            k: all n rows, if there are fewer.

        Returns:
            Similarity float32 [q, min(k, n)] and rows int64 [q, min(k, n)].
        """
        queries = np.ascontiguousarray(queries)
        shape = len(queries), min(k, len(self._vectors))
        similarity, rows = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64)

        def look(products: np.ndarray, error: np.float32, first: int, some: slice) -> int:
            return int(_look(products, first, queries[some], self._vectors, error, similarity[some], rows[some]))

        with ThreadPoolExecutor(self._threads) as pool:
            for first, start, products, error in self._products(queries):
                edges = shard_ranges(len(products), self._threads)
                looks = [
                    pool.submit(look, products[left:right], error, first, slice(start + left, start + right))
                    for left, right in edges
                ]
                most = len(products) * (2 * shape[1] + products.shape[1] / WORTH_ROUNDING)
                if sum(some.result() for some in looks) > most:
                    self._bfloat16 = False  # the rows are too much alike
        return similarity, rows

    def _products(self, queries: np.ndarray) -> Iterator[tuple[int, int, np.ndarray, np.float32]]:
        """For each block the first row and the first query, products float32 [q, m], and how far off they may be."""
        memory = torch.empty(min(BLOCK_QUERIES, len(queries)) * min(BLOCK_ROWS, len(self._vectors)))
        for first in range(0, len(self._vectors), BLOCK_ROWS):
            bfloat16, right = self._bfloat16, _side(self._vectors[first : first + BLOCK_ROWS], self._bfloat16)
            for start in range(0, len(queries), BLOCK_QUERIES):
                if bfloat16 and not self._bfloat16:
                    bfloat16, right = False, _side(self._vectors[first : first + BLOCK_ROWS], bfloat16=False)
                left = _side(queries[start : start + BLOCK_QUERIES], bfloat16)
                shape = len(left.values), len(right.values)
                products = memory[: shape[0] * shape[1]].view(shape)
                if bfloat16:
                    products.copy_(left.values @ right.values.T)
                else:
                    torch.mm(left.values, right.values.T, out=products)
                error = (queries.shape[1] + 4) * SUM_ERROR
                if right.lost:
                    error += 1.01 * (left.lost + right.lost) + ROUNDED_ERROR
                yield first, start, products.numpy(), np.float32(error)


def _side(rows: np.ndarray, bfloat16: bool) -> _Side:
    values = torch.from_numpy(rows)
    # Who allows it lets torch round float32, too.
    precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    if not bfloat16 and precision in ("none", "ieee"):
        return _Side(values, 0.0)
    rounded = values.bfloat16()
    lost = float((values - rounded).norm(dim=1).max())
    return _Side(rounded if bfloat16 else values, lost)


@compiled(nogil=True)
@no_type_check
def _look(products, first, queries, vectors, error, similarity, rows):
    """Bring what a block of rows has of neighbours into the answers; returns how many similarities it took."""
    k, looked_at = similarity.shape[1], 0
    size = max(SMALLEST_GROUP, min(LARGEST_GROUP, products.shape[1] // (GROUPS * k)))
    largest = np.empty(-(-products.shape[1] // size), dtype=np.float32)
    near = np.empty(products.shape[1], dtype=np.int64)
    for query in range(len(queries)):
        best, places = similarity[query], rows[query]
        _find_largest(products[query], size, largest)
        bound = best[k - 1] - error
        if bound == -np.inf and len(largest) >= k:
            # Each of k groups holds a row that is at least as similar as this, whatever the error.
            kth = value_at(largest.copy(), len(largest) - k)
            bound = min(kth, np.float32(1)) - np.float32(2) * error
        found = near[: _collect(products[query], size, largest, bound, near)]
        # The best products first: then the k-th best similarity soon ends the search.
        for number in np.argsort(-products[query][found]):
            column = found[number]
            if products[query, column] < best[k - 1] - error:
                break
            looked_at += 1
            row = first + column
            _insert(best, places, similarity_of(queries[query], vectors[row]), row)
    return looked_at


@compiled(nogil=True, fastmath={"nnan", "nsz"})
@no_type_check
def _find_largest(products, size, largest):
    """The largest product of each group of so many."""
    for group in range(len(largest)):
        value = np.float32(-np.inf)
        for column in range(group * size, min(len(products), (group + 1) * size)):
            value = max(value, products[column])
        largest[group] = value


@compiled(nogil=True)
@no_type_check
def _collect(products, size, largest, bound, near):
    """Write the columns that reach the bound to `near`; returns how many."""
    count = 0
    for group in range(len(largest)):
        if largest[group] >= bound:
            for column in range(group * size, min(len(products), (group + 1) * size)):
                if products[column] >= bound:
                    near[count] = column
                    count += 1
    return count


@compiled(nogil=True)
@no_type_check
def _insert(best, places, value, row):
    """Keep the best k in order, equal ones by row."""
    place = len(best)
    while place > 0 and (best[place - 1] < value or (best[place - 1] == value and places[place - 1] > row)):
        place -= 1
    if place == len(best):
        return
    for number in range(len(best) - 1, place, -1):
        best[number], places[number] = best[number - 1], places[number - 1]
    best[place], places[place] = value, row
