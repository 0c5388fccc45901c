"""What an index shard searches with: exact products, or inverted lists that all shards share.

An index finds candidates fast and inexactly to the last digits; the shard ranks them by exact similarity
(`core.ranking`, `core.exact_index`, `core.small_index`). So the number of shards, which changes the order of the sums,
does not change the answer.
Inverted lists (Jegou et al., 2011): k-means splits the space into `nlist` cells once, from a sample; each shard sorts
its own rows into the same cells, and a query looks into the `nprobe` nearest. Rows are held in full (ivf_flat) or as
product codes (ivf_pq), which rank candidates only roughly: there are more of them, and the float16 rows decide.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.config import NeighborsConfig
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.small_index import exact_index
from elfs_ray.errors import UsageError
from elfs_ray.planning.cost import CHUNK_ROWS, GIB, GPU_WORK_BYTES, gpu_row_bytes
from elfs_ray.workers.hardware import has_bfloat16
from elfs_ray.workers.threads import use_torch_threads

# Beside the candidates asked for: what rounding could put on the wrong side of the last one.
SPARE = 16
KMEANS_STEPS = 10


class Queries(NamedTuple):
    """A block of queries, and for inverted lists where to look.

    Attributes:
        vectors: rows of unit length, float32 [q, d].
        lists: the nearest cells of each, int64 [q, nprobe]; None for exact search.
        closeness: similarity to their centres, float32 [q, nprobe].
    """

    vectors: np.ndarray
    lists: np.ndarray | None = None
    closeness: np.ndarray | None = None


class Index(Protocol):
    """Candidates for queries among the rows of one shard, numbered from 0."""

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [q, at most k] and similarity float32, best first; -1 where there is none."""


def build_index(
    embeddings: Embeddings, start: int, stop: int, options: NeighborsConfig, trained: bytes | None, *, on_gpu: bool
) -> Index:
    """Index the rows start..stop-1 of the embeddings.

    Args:
        embeddings: of all samples.
        start: first row.
        stop: the row after the last.
        options: without `auto`.
        trained: what `train_lists` made, for inverted lists.
        on_gpu: use the GPU of this process, which `why_no_gpu` has nothing against; inverted lists never do.

    Raises:
        UsageError: the rows do not fit the GPU's free memory.
    """
    if options.search == "torch" and on_gpu:
        return _Products(embeddings, start, stop, options)
    chunks = embeddings.chunks(start, stop, CHUNK_ROWS)
    if trained is not None:
        return _InvertedLists(chunks, stop - start, options, trained)
    if options.search == "torch":
        return _Exact(chunks, stop - start)
    return _Flat(chunks, stop - start, options, on_gpu=on_gpu)


def why_no_gpu(options: NeighborsConfig) -> str:
    """Why this process cannot use the GPU that Ray gives it; empty if it can.

    Asked only where there is one: torch takes seconds to import, and inverted lists do without.
    """
    import torch

    if not torch.cuda.is_available():
        return "torch finds none"
    if options.search == "faiss" and not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus()):
        return "the installed faiss has no use for them, and neighbors.search=torch has"
    return ""


def check_gpu_memory(options: NeighborsConfig, rows: int, dim: int, free: int) -> None:
    """Refuse a shard that does not fit the `free` bytes of its GPU, in words that say what does."""
    needed = rows * gpu_row_bytes(options.search, dim) + GPU_WORK_BYTES
    if needed <= free:
        return
    smaller = "neighbors.search=torch takes half of it, " if options.search == "faiss" else ""
    raise UsageError(
        f"an index shard of {rows} rows needs {needed / GIB:.1f} GiB of its GPU's memory, but {free / GIB:.1f} GiB are "
        f"free; {smaller}more GPUs take less each, neighbors.search=ivf_flat runs on processors, and so does the exact "
        "search with more neighbors.shards than GPUs"
    )


def train_lists(vectors: np.ndarray, options: NeighborsConfig, seed: int) -> bytes:
    """Cells, and product codes where asked for, from a sample of rows of unit length, float32 [n, d].

    Returns:
        An empty faiss index as bytes, the same for all shards.
    """
    dim, lists = vectors.shape[1], int(options.nlist)
    quantizer = faiss.IndexFlatIP(dim)
    index: Any
    if options.search == "ivf_flat":
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        codes = int(options.pq_m), int(options.pq_nbits)
        index = faiss.IndexIVFPQ(quantizer, dim, lists, *codes, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.niter, index.pq.cp.seed = KMEANS_STEPS, seed % 2**31
        index.pq.cp.max_points_per_centroid, index.pq.cp.min_points_per_centroid = 64, 1
    index.cp.spherical, index.cp.niter, index.cp.seed = True, KMEANS_STEPS, seed % 2**31
    index.cp.min_points_per_centroid = 1  # fewer than faiss likes are a matter of quality, which the recall shows
    index.train(vectors)
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def read_lists(trained: bytes) -> Any:
    """The faiss index that `train_lists` made."""
    return faiss.deserialize_index(np.frombuffer(trained, dtype=np.uint8))


def nearest_lists(vectors: np.ndarray, trained: bytes, nprobe: int) -> Queries:
    """The queries with the cells that each looks into; found once for all shards."""
    index = read_lists(trained)  # named, because it owns its quantizer
    closeness, lists = index.quantizer.search(vectors, nprobe)
    return Queries(vectors, lists, closeness)


def _rank(queries: np.ndarray, rows: np.ndarray, held: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank candidates; `held(rows)` gives their vectors, float32 [m, d]."""
    from elfs_ray.core.ranking import rank_candidates

    ranked, at_once = [], max(1, CHUNK_ROWS // rows.shape[1])
    for start in range(0, len(queries), at_once):
        some = rows[start : start + at_once]
        vectors = held(np.maximum(some, 0).reshape(-1))
        places = np.where(some < 0, -1, np.arange(some.size).reshape(some.shape))
        order, similarity = rank_candidates(queries[start : start + at_once], vectors, places, k)
        ids = np.where(order < 0, -1, some.reshape(-1)[order])
        ranked.append((ids, similarity))
    ids, similarity = (np.concatenate(column) for column in zip(*ranked, strict=True))
    return ids, similarity


def _free_gpu_bytes() -> int:
    import torch

    free: int = torch.cuda.mem_get_info()[0]
    return free


def _held(chunks: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """The rows of unit length, float32 [count, d]."""
    filled = 0
    for _, vectors in chunks:
        if not filled:
            held = np.empty((count, vectors.shape[1]), dtype=np.float32)
        held[filled : filled + len(vectors)] = vectors
        filled += len(vectors)
    return held


class _Exact:
    """Every row compared with every query, on processors; nothing is missed."""

    def __init__(self, chunks: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> None:
        threads = faiss.omp_get_max_threads()
        use_torch_threads(threads)
        self._index = exact_index(_held(chunks, count), bfloat16=has_bfloat16(), threads=threads)

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarity, rows = self._index.search(queries.vectors, k)
        return rows, similarity


class _Flat:
    """Every row compared with every query by faiss."""

    def __init__(
        self, chunks: Iterator[tuple[np.ndarray, np.ndarray]], count: int, options: NeighborsConfig, *, on_gpu: bool
    ) -> None:
        self._count = count
        self._gpu: Any = None
        if on_gpu:
            # The vectors are in the GPU's memory; half precision is enough to bring the exact ones back.
            halves = []
            for half, vectors in chunks:
                if self._gpu is None:
                    check_gpu_memory(options, count, vectors.shape[1], _free_gpu_bytes())
                    flat = faiss.IndexFlatIP(vectors.shape[1])
                    self._gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
                self._gpu.add(vectors)
                halves.append(half)
            self._held = np.concatenate(halves)
            return
        self._held = _held(chunks, count)

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(self._count, k + SPARE)
        if self._gpu is not None:
            _, rows = self._gpu.search(queries.vectors, wanted)
            return _rank(queries.vectors, rows, lambda rows: normalize_rows(self._held[rows]), k)
        from elfs_ray.core.ranking import rank_candidates

        # On the matrix itself: an index would be a second copy.
        _, rows = faiss.knn(queries.vectors, self._held, wanted, metric=faiss.METRIC_INNER_PRODUCT)
        return rank_candidates(queries.vectors, self._held, rows, k)


class _Products:
    """Products that rank their own candidates, on a GPU in half precision, which the rows have as they are stored."""

    def __init__(self, embeddings: Embeddings, start: int, stop: int, options: NeighborsConfig) -> None:
        import torch

        from elfs_ray.core.product_index import BLOCK_BYTES, RANKED_BYTES, ProductIndex

        count, dim, free = stop - start, embeddings.dim, _free_gpu_bytes()
        check_gpu_memory(options, count, dim, free)
        left = free - count * gpu_row_bytes(options.search, dim) - 2 * RANKED_BYTES
        # Else a GPU may add up parts of a long product in half precision.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        spare, block_bytes = float(options.oversample) - 1, min(BLOCK_BYTES, left // 2)
        self._index = ProductIndex(count, dim, torch.device("cuda"), spare=spare, block_bytes=block_bytes)
        for first in range(start, stop, CHUNK_ROWS):
            self._index.add(embeddings.matrix("vector", first, min(first + CHUNK_ROWS, stop)))

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarity, rows = self._index.search(queries.vectors, min(k, self._index.ntotal))
        return rows, similarity


class _InvertedLists:
    """The rows of one shard in the cells that all shards share."""

    def __init__(
        self,
        chunks: Iterator[tuple[np.ndarray, np.ndarray]],
        count: int,
        options: NeighborsConfig,
        trained: bytes,
    ) -> None:
        self._index = read_lists(trained)
        self._count, self._oversample = count, float(options.oversample)
        self._halves: np.ndarray | None = None
        if options.search == "ivf_pq":
            self._halves = np.empty((count, self._index.d), dtype=np.float16)
        else:
            # A row is found again without a second copy.
            self._index.set_direct_map_type(faiss.DirectMap.Array)  # type: ignore[attr-defined]
        filled = 0
        for half, vectors in chunks:
            self._index.add(vectors)
            if self._halves is not None:
                self._halves[filled : filled + len(half)] = half
            filled += len(half)

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(self._count, round(self._oversample * k) + SPARE)
        if queries.lists is None:
            everywhere = faiss.SearchParametersIVF(nprobe=self._index.nlist)  # type: ignore[call-arg]
            _, rows = self._index.search(queries.vectors, wanted, params=everywhere)
        else:
            self._index.nprobe = queries.lists.shape[1]
            _, rows = self._index.search_preassigned(queries.vectors, wanted, queries.lists, queries.closeness)
        return _rank(queries.vectors, rows, self._vectors, k)

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        if self._halves is not None:
            return normalize_rows(self._halves[rows])
        vectors: np.ndarray = self._index.reconstruct_batch(rows)
        return vectors
