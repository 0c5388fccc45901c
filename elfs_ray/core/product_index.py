"""Exact neighbours on a GPU: products in half precision propose more candidates than asked for, double precision ranks.

Bytes that a query moves there, beside its 2 n d operations: 2 n to write its products, 2 n to read them once for the
maxima of groups, some hundred thousand to find the c best in these, and 22 c d to rank them. For n = 1.28 million,
d = 768 and c = 102 that is 7 MB, which at 4.3 TB/s take two thirds as long as the products at 790 TFLOP/s.

Symbols: n rows, d dimensions, q queries, k neighbours, c candidates, m columns of a block of products.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

BLOCK_BYTES = 2**31 - 1
"""Of the products held at once. Up to here the kernels of a GPU count in 32 bits."""
RANKED_BYTES = 2**29
"""Of the candidates' rows held at once in double precision."""

# Columns of a block are a multiple of this: of the largest group, times four values that a thread reads at once.
COLUMNS, SMALLEST_GROUP, LARGEST_GROUP = 256, 8, 64
# Many queries are split into multiples of the first, and not below the second, where products wait for their inputs.
QUERIES, MIN_QUERIES = 128, 512


class ProductIndex:
    """A flat inner-product index in torch, with the interface of a faiss index.

    It holds the rows in half precision, as embeddings are stored, and their lengths. Products are summed in float32 and
    rounded to half precision, which moves a similarity near 1 by 2.5e-4 at most: the true neighbours are among a few
    more candidates. These are ranked by products summed in double precision and rounded once, whatever torch has been
    told about TF32. Processors have `core.exact_index`.
    """

    def __init__(
        self, count: int, dim: int, device: torch.device, *, spare: float = 1.0, block_bytes: int = BLOCK_BYTES
    ) -> None:
        """An index with room for `count` rows, which `add` fills.

        Args:
            count: rows.
            dim: width of the rows.
            device: where the products run, a GPU but in tests.
            spare: candidates beyond k, as a multiple of k.
            block_bytes: of the products held at once. The rest takes at most as much again, and twice `RANKED_BYTES`.
        """
        self._count, self._device, self._on_gpu = count, device, device.type == "cuda"
        self._rows = torch.zeros(_multiple(count, COLUMNS), dim, dtype=torch.float16, device=device)
        self._lengths = torch.ones(count, dtype=torch.float64, device=device)
        self._spare, self.block_bytes = spare, block_bytes
        self._pinned: dict[str, Tensor] = {}
        self._filled = 0

    @property
    def ntotal(self) -> int:
        """Rows that were added."""
        return self._filled

    def add(self, vectors: Float[np.ndarray, "m d"]) -> None:
        """Append rows whose lengths are 1 up to the rounding of half precision; similarities are those at length 1.

        Args:
            vectors: float16 [m, d]; wider ones are rounded.

        Raises:
            ValueError: there is no room for them.
        """
        if self._filled + len(vectors) > self._count:
            raise ValueError(f"an index for {self._count} rows was given {self._filled + len(vectors)}")
        self.append(self._copied_in(vectors.astype(np.float16, copy=False)))
        self._wait()  # the next rows come through the same buffer

    def append(self, vectors: Float[Tensor, "m d"]) -> None:
        """Take rows, float16 [m, d], that are on the device."""
        stop = self._filled + len(vectors)
        self._rows[self._filled : stop] = vectors
        lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
        self._lengths[self._filled : stop] = lengths.clamp_min(1e-12)
        self._filled = stop

    @torch.inference_mode()
    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q {k}"], Int64[np.ndarray, "q {k}"]]:
        """The k most similar rows of each query, best first, equal ones in order of row.

        Args:
            queries: float32 [q, d].
            k: at most n.

        Returns:
            Similarity float32 [q, k] and rows int64 [q, k].
        """
        wanted, count = self._copied_in(queries), self.candidates_of(k)
        return self._copied_out(*self.rank(wanted, self.candidates(wanted, count), k))

    def candidates_of(self, k: int) -> int:
        """How many candidates are ranked for k neighbours."""
        return min(self._filled, k + round(self._spare * k))

    def candidates(self, queries: Float32[Tensor, "q d"], count: int) -> Int64[Tensor, "q {count}"]:
        """Rows of the best products, in ascending order; `count` is at most n. Nothing waits for the GPU."""
        parts = queries.to(self._rows.dtype).split(self._queries_at_once(len(queries)))
        return torch.cat([self._best_rows(part, count) for part in parts]).sort(dim=1).values

    def rank(
        self, queries: Float32[Tensor, "q d"], candidates: Int64[Tensor, "q c"], k: int
    ) -> tuple[Float32[Tensor, "q {k}"], Int64[Tensor, "q {k}"]]:
        """The best k of each query's candidates by exact similarity, as `search` returns them.

        Args:
            queries: float32 [q, d].
            candidates: int64 [q, c], in ascending order.
            k: at most c.
        """
        at_once = max(1, RANKED_BYTES // (8 * candidates.shape[1] * queries.shape[1]))
        parts = zip(queries.split(at_once), candidates.split(at_once), strict=True)
        exact = torch.cat([self._similarities(*part) for part in parts])
        values, order = exact.sort(dim=1, descending=True, stable=True)
        return values[:, :k], candidates.gather(1, order[:, :k])

    def _queries_at_once(self, count: int) -> int:
        """Equal parts of the queries, whose products with all rows fit into a block if there are not too many rows."""
        each = self._rows.element_size() * _multiple(self._filled, COLUMNS)
        at_most = max(MIN_QUERIES, self.block_bytes // each // QUERIES * QUERIES)
        return min(at_most, _multiple(math.ceil(count / math.ceil(count / at_most)), QUERIES))

    def _best_rows(self, queries: Tensor, count: int) -> Tensor:
        """Rows of the best products of some queries, int64 [q, count], in any order."""
        each = self._rows.element_size() * len(queries)
        columns = max(1, self.block_bytes // each // COLUMNS) * COLUMNS
        values = torch.empty(len(queries), 0, dtype=self._rows.dtype, device=queries.device)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, self._filled, columns):
            real = min(columns, self._filled - start)
            products = _products(queries, self._rows[start : start + _multiple(real, COLUMNS)])
            products[:, real:] = -math.inf
            found, places = best_columns(products, min(count, real))
            values, rows = torch.cat([values, found], dim=1), torch.cat([rows, places + start], dim=1)
            if start:
                values, kept = values.topk(min(count, values.shape[1]), dim=1, sorted=False)
                rows = rows.gather(1, kept)
        return rows

    def _similarities(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Exact similarities of the candidates, float32 [q, c]."""
        products = torch.bmm(self._rows[candidates].double(), queries.double().unsqueeze(2)).squeeze(2)
        return (products / self._lengths[candidates]).float()

    def _copied_in(self, array: np.ndarray) -> Tensor:
        """The array on the device. The next one comes through the same memory: wait before it."""
        if not self._on_gpu:
            return torch.tensor(array)
        pinned = self._buffer("in", torch.from_numpy(np.empty(0, array.dtype)).dtype, array.shape)
        np.copyto(pinned.numpy(), array)
        return pinned.to(self._device, non_blocking=True)

    def _copied_out(self, similarity: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Both as arrays, after one wait for the GPU."""
        if not self._on_gpu:
            return similarity.numpy(), rows.numpy()
        values = self._buffer("similarity", similarity.dtype, similarity.shape).copy_(similarity, non_blocking=True)
        places = self._buffer("rows", rows.dtype, rows.shape).copy_(rows, non_blocking=True)
        self._wait()
        return values.numpy().copy(), places.numpy().copy()

    def _buffer(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Memory that a GPU copies from and to by itself; to pin it takes long, so it is used again."""
        size = math.prod(shape) * dtype.itemsize
        if name not in self._pinned or self._pinned[name].nbytes < size:
            self._pinned[name] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._pinned[name][:size].view(dtype).view(shape)

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.current_stream(self._device).synchronize()


def best_columns(
    products: Float[Tensor, "q m"], count: int
) -> tuple[Float[Tensor, "q {count}"], Int64[Tensor, "q {count}"]]:
    """The `count` largest of each row and their columns, in any order; of equal ones at the end, any.

    `topk` reads its input several times. Here it sees the maxima of groups, which one pass finds, and then the members
    of the groups with the `count` largest maxima. These hold all that is wanted: each of them holds a value, its
    maximum, that no value of another group exceeds. A group is every (m / size)th column: so the threads of a GPU that
    work together read values that lie together.

    Args:
        products: [q, m], m a multiple of `COLUMNS`.
        count: at most m.
    """
    size = _group_size(products.shape[1], count)
    if size < SMALLEST_GROUP:
        values, columns = products.topk(count, dim=1, sorted=False)
        return values, columns
    groups = products.shape[1] // size
    maxima = products.view(len(products), size, groups).amax(dim=1)
    chosen = maxima.topk(count, dim=1, sorted=False).indices
    first = torch.arange(0, products.shape[1], groups, device=products.device)
    columns = (chosen.unsqueeze(2) + first).flatten(start_dim=1)
    values, kept = products.gather(1, columns).topk(count, dim=1, sorted=False)
    return values, columns.gather(1, kept)


def _group_size(columns: int, count: int) -> int:
    """A power of two; maxima and members of the chosen groups are then about as many."""
    return min(LARGEST_GROUP, 1 << int(math.log2(columns / count) / 2))


def _products(queries: Tensor, block: Tensor) -> Tensor:
    """Products [q, m] of [q, d] and [m, d], summed in float32, rounded to half precision."""
    return queries @ block.T


def _multiple(number: int, of: int) -> int:
    """Rounded up."""
    return -(-number // of) * of
