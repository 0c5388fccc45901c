"""Neighbours: exact k nearest neighbours by cosine similarity, from an index split over actors.

Reads: `embeddings`. Writes: `neighbors` (k other samples for each sample, most similar first).
Each actor indexes one range of rows under their global ids. Blocks of queries go to all actors, the answers are merged,
and each block is saved in a file of its own; a second run searches only the blocks that have no file.
"""

import time
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import ray
import torch
from ray.actor import ActorHandle

from elfs_ray import schema
from elfs_ray.config import NeighborsConfig
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.knn import drop_self, merge_top_k, recall_at_k, shard_ranges
from elfs_ray.core.product_index import ProductIndex
from elfs_ray.defaults import choose_neighbors
from elfs_ray.engine.artifacts import KEY, fixed_size_matrix, matrix_column, part_name, read_vectors
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import UsageError
from elfs_ray.store import Store

FOUND = "neighbors"
BLOCKS_IN_FLIGHT = 4
RECALL_SAMPLES, RECALL_BLOCK_ROWS = 256, 65_536


def run(context: StageContext) -> StageResult:
    """Search every block of queries that has no saved answer yet."""
    store = context.store
    num_samples = store.count_rows("embeddings")
    options = choose_neighbors(context.config.neighbors, context.hardware.cpus, num_samples)
    if options.k >= num_samples:
        raise UsageError(
            f"neighbors.k is {options.k}, but each of the {num_samples} samples has only {num_samples - 1} others; "
            f"use --set neighbors.k={max(1, min(50, (num_samples - 1) // 2))} or less"
        )
    started = time.monotonic()
    _search_all(context, options, num_samples)
    seconds = time.monotonic() - started
    similarity = store.read_table(context.work, FOUND, columns=["similarity"])["similarity"]
    recall = {}
    if options.search == "torch":
        measured: float = ray.get(_recall.remote(store, context.work, options, num_samples, context.seed()))
        recall["recall"] = round(measured, 5)
    return StageResult(
        artifacts={"neighbors": FOUND},
        chosen=options.model_dump(mode="json"),
        metrics={
            "k": options.k,
            "shards": options.shards,
            "mean_similarity": round(
                float(np.mean([chunk.flatten().to_numpy().mean() for chunk in similarity.chunks])), 4
            ),
            "queries_per_second": round(num_samples / seconds, 1),
            **recall,
        },
    )


def _search_all(context: StageContext, options: NeighborsConfig, num_samples: int) -> None:
    store = context.store
    rows = options.query_rows
    blocks = [
        (number, start, min(start + rows, num_samples)) for number, start in enumerate(range(0, num_samples, rows))
    ]
    saved = set(store.names(context.work, FOUND))
    pending = [block for block in blocks if part_name(block[0]) not in saved]
    if not pending:
        return
    shards = _start_shards(context, options, num_samples)
    done = num_samples - sum(stop - start for _, start, stop in pending)
    with context.counting("neighbours", num_samples, "samples", done) as counter:
        waiting: list[ray.ObjectRef[int]] = []
        for number, start, stop in pending:
            queries = _read_block.remote(store, start, stop)
            parts = [shard.search.remote(queries, options.k + 1) for shard in shards]
            waiting.append(_merge_block.remote(store, context.work, number, start, stop, options.k, *parts))
            if len(waiting) == BLOCKS_IN_FLIGHT:
                counter.advance(ray.get(waiting.pop(0)))
        for block in waiting:
            counter.advance(ray.get(block))
    for shard in shards:
        ray.kill(shard)


def _start_shards(context: StageContext, options: NeighborsConfig, num_samples: int) -> list[ActorHandle[Any]]:
    hardware, count = context.hardware, int(options.shards)
    on_gpu = hardware.gpus >= count
    actor = _Shard.options(  # type: ignore[attr-defined] # added by the decorator
        # All shards together at most half of the processors: the tasks that read and merge need some.
        num_cpus=min(0.5, 0.5 * hardware.cpus / count),
        num_gpus=1 if on_gpu else 0,
        max_restarts=3,
        max_task_retries=3,
    )
    threads = max(1, hardware.cpus // count)
    return [
        actor.remote(context.store, start, stop, options.search, threads, on_gpu)
        for start, stop in shard_ranges(num_samples, count)
    ]


@ray.remote
class _Shard:
    """A flat inner-product index over the rows start..stop-1, answering with global ids."""

    def __init__(self, store: Store, start: int, stop: int, search: str, threads: int, on_gpu: bool) -> None:
        vectors = normalize_rows(read_vectors(store, start=start, stop=stop))
        self._start = start
        self._index: Any
        if search == "torch":
            torch.set_num_threads(threads)
            self._index = ProductIndex(vectors, torch.device("cuda" if on_gpu else "cpu"))
            return
        faiss.omp_set_num_threads(threads)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        if on_gpu:
            self._index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self._index)
        self._index.add(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids [q, k'] and similarity [q, k'] of the nearest rows of this shard; k' <= k."""
        similarity, rows = self._index.search(queries, min(k, self._index.ntotal))
        return rows + self._start, similarity


@ray.remote(num_cpus=0.25)
def _read_block(store: Store, start: int, stop: int) -> np.ndarray:
    return normalize_rows(read_vectors(store, start=start, stop=stop))


@ray.remote(num_cpus=0.25)
def _merge_block(
    store: Store, work: str, number: int, start: int, stop: int, k: int, *parts: tuple[np.ndarray, np.ndarray]
) -> int:
    """Merge the shards' answers for the queries start..stop-1 and save them; returns their count."""
    ids, similarity = merge_top_k(parts, k + 1)
    ids, similarity = drop_self(ids, similarity, np.arange(start, stop), k)
    keys = store.dataset("embeddings").scanner(columns=KEY, filter=_between(start, stop)).to_table()
    table = keys.append_column("ids", matrix_column(ids)).append_column("similarity", matrix_column(similarity))
    store.write_table(table, schema.neighbors(k), work, FOUND, part_name(number))
    return stop - start


@ray.remote(num_cpus=1)
def _recall(store: Store, work: str, options: NeighborsConfig, num_samples: int, seed: int) -> float:
    """Share of the true neighbours that were found, on a sample of the queries."""
    rows = np.sort(np.random.default_rng(seed).choice(num_samples, min(RECALL_SAMPLES, num_samples), replace=False))
    vectors = fixed_size_matrix(store.read_table("embeddings", columns=["vector"], rows=_among(rows))["vector"])
    queries = normalize_rows(vectors)
    exact: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, num_samples, RECALL_BLOCK_ROWS):
        stop = min(start + RECALL_BLOCK_ROWS, num_samples)
        similarity = queries @ normalize_rows(read_vectors(store, start=start, stop=stop)).T
        block = np.broadcast_to(np.arange(start, stop), similarity.shape), similarity
        exact = [merge_top_k([*exact, block], min(options.k + 1, stop))]
    ids, _ = drop_self(*exact[0], rows, options.k)
    found = fixed_size_matrix(store.read_table(work, FOUND, columns=["ids"], rows=_among(rows))["ids"])
    return recall_at_k(found, ids)


def _among(rows: np.ndarray) -> pa.compute.Expression:
    return pa.compute.field("index").isin(pa.array(rows))


def _between(start: int, stop: int) -> pa.compute.Expression:
    field = pa.compute.field("index")
    return (field >= start) & (field < stop)
