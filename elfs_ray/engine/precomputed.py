"""Embed without an encoder: vectors that are there already, brought into the order of the samples.

Reads: `samples`, and the user's vectors, with ids or in the order of the samples. Writes: `embeddings`.
The table may hold its rows in any order, and more than the samples. So they pass twice: first each row group is split
over ranges of samples, then each range is put in order. A second run goes on with the groups and ranges that are left.
Ids are looked up by a 64-bit hash, 16 bytes a sample in the memory of each machine, and compared in full at the end.
"""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from elfs_ray import schema
from elfs_ray.data.vectors import Vectors, open_vectors
from elfs_ray.engine.artifacts import KEY, fixed_size_matrix, matrix_column, part_name
from elfs_ray.engine.embed_rows import index_of
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.engine.tasks import results_in_order
from elfs_ray.errors import UsageError
from elfs_ray.store import Store

SPLIT, DONE, FOUND = "split", "done", "embeddings"
# Parts of `samples` that are put in order at once; all their vectors are in memory.
PARTS_TOGETHER = 64
TASKS_IN_FLIGHT = 16
Range = tuple[int, list[str]]
"""Number of a range, and the paths of its parts of `samples`."""


def run(context: StageContext) -> StageResult:
    """Split what is not split yet, then write the ranges that are not written."""
    store, embed = context.store, context.config.embed
    started = time.monotonic()
    location = (embed.test_vectors if context.prefix else None) or embed.vectors
    table = open_vectors(str(location), context.config.ingest.id_column)
    _check_rows(context, table)
    paths = store.part_paths(context.artifact("samples"))
    ranges = [(number, paths[first : first + PARTS_TOGETHER])
              for number, first in enumerate(range(0, len(paths), PARTS_TOGETHER))]  # fmt: skip
    used = _split(context, table, ranges)
    _check_dim(context, table)
    missing = _order(context, table, ranges)
    if missing:
        count, total = sum(number for number, _ in missing), store.count_rows(context.artifact("samples"))
        raise UsageError(
            f"{table.location} has no vector for {count:,} of {total:,} images, such as {missing[0][1]!r} "
            f"(its ids are like {table.read(0)[0][0].as_py()!r}); add them, or leave these images out"
        )
    return StageResult(
        artifacts={context.artifact("embeddings"): FOUND},
        chosen=embed.model_dump(mode="json"),
        metrics={
            "encoder": "none (--embeddings)",
            "dim": table.dim,
            "vectors_read": table.rows,
            "vectors_used": used,
            "rows_per_second": round(table.rows / (time.monotonic() - started), 1),
        },
    )


def _split(context: StageContext, table: Vectors, ranges: Sequence[Range]) -> int:
    """Save the vectors of each row group by range of samples; returns how many belong to samples."""
    store, work = context.store, context.work
    done = set(store.names(work, DONE))
    pending = [number for number in range(len(table.groups)) if f"{number}.json" not in done]
    if pending:
        first = ray.put(np.array([index_of(store, paths[0])[0].as_py() for _, paths in ranges]))
        keys, shared = _hashed_ids.remote(store, context.artifact("samples")), ray.put(table)
        in_order = None if table.has_ids else context.artifact("samples")
        with context.counting("vectors", len(table.groups), "row groups", len(done)) as counter:
            tasks = (_split_group.remote(store, work, shared, number, first, keys, in_order) for number in pending)
            for _ in results_in_order(tasks, TASKS_IN_FLIGHT):
                counter.advance(1)
    return sum(store.read_json(work, DONE, f"{number}.json")["used"] for number in range(len(table.groups)))


def _order(context: StageContext, table: Vectors, ranges: Sequence[Range]) -> list[tuple[int, str]]:
    """Write the parts of `embeddings`; returns for ranges that lack vectors how many, and the id of one."""
    store, work = context.store, context.work
    there = set(store.names(work, FOUND))
    pending = [(number, paths) for number, paths in ranges
               if part_name(number * PARTS_TOGETHER + len(paths) - 1) not in there]  # fmt: skip
    described = table.location, table.dim
    tasks = (_order_range.remote(store, work, described, number, paths) for number, paths in pending)
    return [lacking for lacking in results_in_order(tasks, TASKS_IN_FLIGHT) if lacking[0]]


def _check_dim(context: StageContext, table: Vectors) -> None:
    """Test images must lie in the space of the candidates."""
    if not context.prefix:
        return
    candidates = context.store.dataset("embeddings").schema.field("vector").type.list_size
    if candidates != table.dim:
        raise UsageError(
            f"{table.location} has vectors of {table.dim} values for the test images, the candidates' have "
            f"{candidates}; take both from the same encoder"
        )


def _check_rows(context: StageContext, table: Vectors) -> None:
    """Rows without ids must be as many as the images, of which none may be set aside."""
    good, bad = (context.store.count_rows(context.artifact(name)) for name in ("samples", "quarantine"))
    if table.has_ids or (table.rows == good and not bad):
        return
    unusable = f", of which {bad:,} are unusable" if bad else ""
    raise UsageError(
        f"{table.location} has {table.rows:,} rows and no ids, for {good + bad:,} images{unusable}; "
        "write the id of each row on a line of a file NAME.ids.txt beside it"
    )


def _hash(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """uint64, the same on every machine."""
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)


@ray.remote(num_cpus=1)
def _hashed_ids(store: Store, samples: str) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all samples' ids in ascending order, and the samples' indices."""
    batches = list(store.dataset(samples).to_batches(columns=KEY))
    hashes = np.concatenate([_hash(batch["sample_id"]) for batch in batches if batch.num_rows])
    index = np.concatenate([batch["index"].to_numpy() for batch in batches if batch.num_rows])
    order = np.argsort(hashes)
    return hashes[order], index[order]


@ray.remote(num_cpus=0.5)
def _split_group(
    store: Store,
    work: str,
    table: Vectors,
    number: int,
    first: np.ndarray,
    keys: tuple[np.ndarray, np.ndarray],
    in_order: str | None,
) -> tuple[int, str]:
    """Save the vectors of one row group that belong to samples, in a file for each range.

    `in_order` names the samples whose ids rows without ids have, one after the other.
    """
    ids, vectors = table.read(number)
    if in_order is not None:
        start = table.groups[number].first
        wanted = (pc.field("index") >= start) & (pc.field("index") < start + len(ids))
        ids = store.read_table(in_order, columns=["sample_id"], rows=wanted)["sample_id"].combine_chunks()
    sought, (hashes, index) = _hash(ids), keys
    place = np.minimum(np.searchsorted(hashes, sought), len(hashes) - 1)
    rows = np.flatnonzero(hashes[place] == sought)
    found = index[place[rows]]
    of_range = np.searchsorted(first, found, side="right") - 1
    for each in np.unique(of_range):
        some = of_range == each
        part = pa.table(
            {
                "sample_id": ids.take(pa.array(rows[some])),
                "index": found[some],
                "vector": matrix_column(vectors[rows[some]]),
            }
        )
        store.write_table(part, schema.embeddings(table.dim), work, SPLIT, str(each), part_name(number))
    store.write_json({"used": len(rows)}, work, DONE, f"{number}.json")
    return len(rows), ""


@ray.remote(num_cpus=0.5)
def _order_range(store: Store, work: str, described: tuple[str, int], number: int, paths: list[str]) -> tuple[int, str]:
    """Write the parts of one range, up to the first that lacks vectors; returns how many it lacks, and one id."""
    location, dim = described
    held = schema.embeddings(dim).empty_table()
    if store.names(work, SPLIT, str(number)):
        held = store.read_table(work, SPLIT, str(number)).sort_by("index")
    lacking, one = 0, ""
    for part, path in enumerate(paths, number * PARTS_TOGETHER):
        keys = pq.read_table(path, filesystem=store.filesystem, columns=KEY)
        rows, absent = _look_up(held, keys, location)
        if absent.any():
            lacking, one = lacking + int(absent.sum()), one or keys["sample_id"][int(absent.argmax())].as_py()
        if not lacking:
            found = held.take(pa.array(rows))
            store.write_table(found, schema.embeddings(dim), work, FOUND, part_name(part))
    return lacking, one


def _look_up(held: pa.Table, keys: pa.Table, location: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `held`, in order of index, that are those of the samples, and which samples have none.

    Raises:
        UsageError: a sample has two different vectors.
    """
    index, wanted = held["index"].to_numpy(), keys["index"].to_numpy()
    if not len(index):
        return wanted, np.ones(len(wanted), dtype=bool)
    low, high = (np.searchsorted(index, wanted, side=side) for side in ("left", "right"))
    first = np.minimum(low, len(index) - 1)
    same_id = pc.equal(held["sample_id"].take(pa.array(first)), keys["sample_id"]).to_numpy()
    for row in np.flatnonzero(high - low > 1):
        equals = fixed_size_matrix(held["vector"].slice(low[row], high[row] - low[row]))
        if not (equals == equals[0]).all():
            raise UsageError(f"{location} gives {keys['sample_id'][int(row)].as_py()!r} two vectors; keep one")
    return first, (low == high) | ~same_id
