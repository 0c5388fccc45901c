"""Neighbours: the k nearest neighbours by cosine similarity, from an index split over actors.

Reads: `embeddings`. Writes: `neighbors` (k other samples for each sample, most similar first).
Each actor indexes one range of rows under their global ids. Blocks of queries go to all actors, the answers are merged,
and each block is saved in a file of its own; a second run searches only the blocks that have no file. For inverted
lists one task trains the cells from a sample and saves them in the work folder, so that all shards, and a second run,
use the same ones.
"""

import math
import time

import faiss
import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, Part, Table, fixed_size_matrix, matrix_column
from elfs_ray.artifacts.writing import grouped, part_name, row_bytes, write_index, write_part
from elfs_ray.config import NeighborsConfig
from elfs_ray.core.knn import drop_self, merge_top_k, recall_at_k, shard_ranges
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import POINTS_PER_LIST, choose_neighbors
from elfs_ray.planning.cost import GIB, WORKER_BYTES, shard_bytes
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.shard_index import (
    Queries,
    build_index,
    nearest_lists,
    train_lists,
    why_no_gpu,
)
from elfs_ray.workers.base import Handle, Pool, Threads

FOUND, BLOCKS = "neighbors", "blocks"
TRAINED = "lists.faiss"
BLOCKS_IN_FLIGHT = 4
RECALL_SAMPLES, RECALL_BLOCK_ROWS = 256, 65_536


def run(context: StageContext) -> StageResult:
    """Search every block of queries that has no saved answer yet."""
    num_samples = context.embeddings.rows
    options = _choose(context, num_samples)
    started = time.monotonic()
    devices = _search_all(context, options, num_samples)
    seconds = time.monotonic() - started
    similarity = _join(context, options, num_samples)
    recall = {}
    # Inverted lists miss some, and products that a GPU rounds.
    if options.search.startswith("ivf") or (options.search == "torch" and _on_gpu(context, options)):
        found = Table(context.store, f"{context.work}/{FOUND}")
        measured = context.workers.call(_recall, context.embeddings, found, options, context.seed())
        recall["recall"] = round(measured, 5)
    return StageResult(
        chosen=options.model_dump(mode="json"),
        metrics={
            "k": int(options.k),
            "search": options.search,
            "shards": options.shards,
            "shard_memory_mb": _shard_bytes(context, options, num_samples) >> 20,
            "mean_similarity": round(similarity, 4),
            "queries_per_second": round(num_samples / seconds, 1),
            "devices": devices,
            **recall,
        },
    )


def _choose(context: StageContext, num_samples: int) -> NeighborsConfig:
    """The options with each `auto` resolved, as the run that began chose them."""
    hardware, section = context.hardware, context.config.neighbors
    dim = context.embeddings.dim
    memory = math.inf if (there := context.workers.memory()).may_grow else there.total
    options = choose_neighbors(section, hardware.cpus, hardware.gpus, num_samples, dim, memory)
    options = context.as_begun(options)
    _check_lists(options, num_samples, dim)
    _check_memory(context, options, num_samples)
    context.begin(options)
    return options


def _check_lists(options: NeighborsConfig, num_samples: int, dim: int) -> None:
    """Refuse parameters of inverted lists that do not fit the data."""
    if not options.search.startswith("ivf"):
        return
    if int(options.nlist) > num_samples:
        raise UsageError(f"neighbors.nlist is {options.nlist}, but there are only {num_samples} samples; lower it")
    if int(options.nprobe) > int(options.nlist):
        raise UsageError(f"neighbors.nprobe is {options.nprobe}, more than neighbors.nlist={options.nlist}; lower it")
    if options.search != "ivf_pq":
        return
    if dim % int(options.pq_m):
        fitting = max(m for m in range(1, dim + 1) if dim % m == 0 and m <= int(options.pq_m))
        raise UsageError(f"neighbors.pq_m={options.pq_m} does not divide the embeddings' width {dim}; use {fitting}")
    if 2 ** int(options.pq_nbits) > num_samples:
        raise UsageError(
            f"neighbors.pq_nbits={options.pq_nbits} needs {2 ** int(options.pq_nbits)} samples, "
            f"but there are only {num_samples}; lower it"
        )


def _check_memory(context: StageContext, options: NeighborsConfig, num_samples: int) -> None:
    """Refuse shards that would not find the memory they need, before the first of them starts."""
    count, each = int(options.shards), _shard_bytes(context, options, num_samples)
    memory = context.workers.memory()
    if memory.holds(count, each):
        return
    smaller = "" if options.search == "ivf_pq" else "neighbors.search=ivf_pq, "
    # More shards are smaller, which helps where nodes have room left over, and not where the sum is too large.
    halves = _shard_bytes(context, options.model_copy(update={"shards": 2 * count}), num_samples)
    shards = f"neighbors.shards={2 * count}, " if memory.holds(2 * count, halves) else ""
    raise UsageError(
        f"the neighbour search needs {count} x {each / GIB:.1f} GiB of memory ({options.search}), but "
        f"{len(memory.nodes)} node(s) have {memory.total / GIB:.1f} GiB to give; "
        f"use {shards}{smaller}or more memory"
    )


def _shard_bytes(context: StageContext, options: NeighborsConfig, num_samples: int) -> int:
    """What the largest shard takes."""
    rows = max(stop - start for start, stop in shard_ranges(num_samples, int(options.shards)))
    return shard_bytes(options, rows, context.embeddings.dim, on_gpu=_on_gpu(context, options))


def _on_gpu(context: StageContext, options: NeighborsConfig) -> bool:
    return context.hardware.gpus >= int(options.shards) and not options.search.startswith("ivf")


def _search_all(context: StageContext, options: NeighborsConfig, num_samples: int) -> list[str]:
    """Returns the devices that searched: none where all blocks were saved before."""
    store = context.store
    rows = options.query_rows
    blocks = [
        (number, start, min(start + rows, num_samples)) for number, start in enumerate(range(0, num_samples, rows))
    ]
    saved = set(store.names(context.work, BLOCKS))
    pending = [block for block in blocks if part_name(block[0]) not in saved]
    if not pending:
        return []
    trained = _trained_lists(context, options, num_samples)
    shards = _start_shards(context, options, num_samples, trained)
    devices = _where_they_run(context, options, shards)
    done = num_samples - sum(stop - start for _, start, stop in pending)
    with context.counting("searching", num_samples, "samples", done) as counter:
        first = context.embeddings, context.work, options, trained, shards
        for rows_found in context.workers.map(_search_block, pending, *first, cpus=0.25, at_once=BLOCKS_IN_FLIGHT):
            counter.advance(rows_found)
    shards.end()
    return devices


def _trained_lists(context: StageContext, options: NeighborsConfig, num_samples: int) -> Handle[bytes] | None:
    """The cells of inverted lists, trained here or by the run that began; None for exact search."""
    if not options.search.startswith("ivf"):
        return None
    store, workers = context.store, context.workers
    if not store.exists(context.work, TRAINED):
        context.reporter.line(f"  training {options.nlist} inverted lists")
        centres = max(int(options.nlist), 2 ** int(options.pq_nbits) if options.search == "ivf_pq" else 1)
        sample = min(num_samples, centres * POINTS_PER_LIST)
        memory = WORKER_BYTES + 3 * 4 * sample * context.embeddings.dim
        size, threads = (num_samples, sample), workers.threads()  # nothing else of the stage runs yet
        given = options, size, context.seed(0), threads
        workers.call(_train, context.embeddings, context.work, *given, memory=memory)
    return workers.share(store.read_bytes(context.work, TRAINED))


def _train(
    embeddings: Embeddings, work: str, options: NeighborsConfig, size: tuple[int, int], seed: int, threads: Threads
) -> None:
    """Train the cells on a random sample, of `size` all samples and these, and save them."""
    faiss.omp_set_num_threads(threads())
    rows = np.sort(np.random.default_rng(seed).choice(*size, replace=False))
    lists = train_lists(embeddings.unit_vectors_at(rows), options, seed)
    embeddings.store.write_bytes(lists, work, TRAINED)


def _start_shards(
    context: StageContext, options: NeighborsConfig, num_samples: int, trained: Handle[bytes] | None
) -> Pool:
    hardware, count = context.hardware, int(options.shards)
    on_gpu = _on_gpu(context, options)
    threads = context.workers.threads(count)
    return context.workers.pool(
        _Shard,
        [
            (context.embeddings, start, stop, options, trained, threads, on_gpu)
            for start, stop in shard_ranges(num_samples, count)
        ],
        # Together at most half of the processors: the rest reads and merges, and no shard waits for ever for its part.
        cpus=round(min(0.5, hardware.cpus / (2 * count)), 4),
        gpus=1 if on_gpu else 0,
        memory=_shard_bytes(context, options, num_samples),
    )


def _where_they_run(context: StageContext, options: NeighborsConfig, shards: Pool) -> list[str]:
    """The devices that search; says so where there are GPUs and processors do."""
    if not context.hardware.gpus:
        return ["cpu"]
    if not _on_gpu(context, options):
        why = f"{options.shards} index shards are more than {context.hardware.gpus} GPUs"
        if options.search.startswith("ivf"):
            why = "inverted lists have no use for them"
        context.reporter.line(f"  processors search, not GPUs: {why}")
        return ["cpu"]
    # Waits until each shard holds its rows, as its first search would.
    reasons = shards.ask("why_no_gpu")
    for why in sorted(set(filter(None, reasons))):
        context.reporter.line(f"  warning: Ray gives GPUs, but processors search: {why}")
    return sorted({"cpu" if why else "cuda" for why in reasons})


class _Shard:
    """An index over the rows start..stop-1, answering with global ids."""

    def __init__(
        self,
        embeddings: Embeddings,
        start: int,
        stop: int,
        options: NeighborsConfig,
        trained: bytes | None,
        threads: Threads,
        on_gpu: bool,
    ) -> None:
        faiss.omp_set_num_threads(threads())
        self._start, self._k = start, int(options.k) + 1
        self._why_no_gpu = why_no_gpu(options) if on_gpu else ""
        on_gpu = on_gpu and not self._why_no_gpu
        self._index = build_index(embeddings, start, stop, options, trained, on_gpu=on_gpu)

    def why_no_gpu(self) -> str:
        """Why it searches on processors though it was to use a GPU; empty if it does not."""
        return self._why_no_gpu

    def search(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        """Ids [q, k'] and similarity [q, k'] of the nearest rows of this shard; k' <= k + 1, -1 where there is none."""
        rows, similarity = self._index.search(queries, self._k)
        return np.where(rows < 0, -1, rows + self._start), similarity


def _search_block(
    embeddings: Embeddings,
    work: str,
    options: NeighborsConfig,
    trained: bytes | None,
    shards: Pool,
    number: int,
    start: int,
    stop: int,
) -> int:
    """Ask all shards for the neighbours of the rows start..stop-1, merge and save them; returns their count."""
    k, vectors = int(options.k), embeddings.unit_vectors(start, stop)
    # With the inverted lists that they look into.
    queries = Queries(vectors) if trained is None else nearest_lists(vectors, trained, int(options.nprobe))
    ids, similarity = merge_top_k(shards.ask("search", queries), k + 1)
    short = np.flatnonzero(ids[:, -1] < 0)
    if len(short):
        # The lists that these queries looked into hold too few rows: they look into all.
        ids[short], similarity[short] = merge_top_k(shards.ask("search", Queries(vectors[short])), k + 1)
    ids, similarity = drop_self(ids, similarity, np.arange(start, stop), k)
    keys = embeddings.read(start, stop, KEY)
    table = keys.append_column("ids", matrix_column(ids)).append_column("similarity", matrix_column(similarity))
    embeddings.store.write_table(table, schema.neighbors(k), work, BLOCKS, part_name(number))
    return stop - start


def _join(context: StageContext, options: NeighborsConfig, num_samples: int) -> float:
    """Write the blocks as parts; returns the mean similarity over all samples and neighbours."""
    store, work, rows = context.store, context.work, options.query_rows
    layout = schema.neighbors(int(options.k))
    size = rows * row_bytes(layout)
    parts = ((number, blocks) for number, blocks in enumerate(grouped([size] * -(-num_samples // rows))))
    # One core each: who writes a part holds it.
    written = list(context.workers.map(_write_part, parts, store, work, layout, rows, cpus=1))
    write_index(store, f"{work}/{FOUND}", (part for part, _ in written), layout)
    return sum(similarity for _, similarity in written) / (num_samples * int(options.k))


def _write_part(
    store: RunFolder, work: str, layout: pa.Schema, rows: int, number: int, blocks: range
) -> tuple[Part, float]:
    """Write some blocks, of so many rows each, as one part; returns it, and the sum of its similarities."""
    table = pa.concat_tables(store.read_table(work, BLOCKS, part_name(block)) for block in blocks)
    part = write_part(store, f"{work}/{FOUND}", number, blocks.start * rows, table, layout)
    return part, float(fixed_size_matrix(table["similarity"]).sum(dtype=np.float64))


def _recall(embeddings: Embeddings, neighbors: Table, options: NeighborsConfig, seed: int) -> float:
    """Share of the true neighbours that were found, on a sample of the queries."""
    count, k, rng = embeddings.rows, int(options.k), np.random.default_rng(seed)
    rows = np.sort(rng.choice(count, min(RECALL_SAMPLES, count), replace=False))
    queries = embeddings.unit_vectors_at(rows)
    exact: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, count, RECALL_BLOCK_ROWS):
        stop = min(start + RECALL_BLOCK_ROWS, count)
        similarity = queries @ embeddings.unit_vectors(start, stop).T
        block = np.broadcast_to(np.arange(start, stop), similarity.shape), similarity
        exact = [merge_top_k([*exact, block], min(k + 1, stop))]
    ids, _ = drop_self(*exact[0], rows, k)
    return recall_at_k(neighbors.matrix_at("ids", rows), ids)
