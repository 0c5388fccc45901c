"""Embed without an encoder: vectors that are there already, brought into the order of the samples.

Reads: `samples`, and the user's vectors, with ids or in the order of the samples. Writes: `embeddings`.
The table may hold its rows in any order, and more than the samples. So they pass twice: first each row group is split
over ranges of samples, then each range is put in order. A second run goes on with the groups and ranges that are left.
Ids are looked up by a 64-bit hash, 16 bytes a sample in the memory of each machine, and compared in full at the end.
An id that no sample has as it stands may be that of a sample in another Unicode form (a file name from macOS against
typed text): the hash is that of the composed form, and where two samples or two vectors share one, the run stops.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, Part, Table, fixed_size_matrix, matrix_column
from elfs_ray.artifacts.writing import part_name, ranges_of_parts, write_index, write_part
from elfs_ray.data.vectors import Vectors, open_vectors
from elfs_ray.errors import UsageError
from elfs_ray.stages.context import StageContext, StageResult

SPLIT, DONE, FOUND, ORDERED = "split", "done", "embeddings", "ordered"
TASKS_IN_FLIGHT = 16
Range = tuple[int, int, int]
"""Number of a part of `embeddings`, its first sample, and the one after its last."""


class Keys(NamedTuple):
    """How samples are found by their ids.

    Attributes:
        hashes: uint64 [N], of the ids in composed form, ascending.
        samples: int64 [N], their indices.
        alike: samples whose hash another one has, by their own ids.
    """

    hashes: np.ndarray
    samples: np.ndarray
    alike: dict[str, int]


class Ordered(NamedTuple):
    """What came out of putting a range in order.

    Attributes:
        used: vectors that belong to its samples.
        lacking: samples without a vector.
        one: id of the first of these.
        part: of `embeddings`; None where there is none, for samples lack vectors.
    """

    used: int
    lacking: int = 0
    one: str = ""
    part: Part | None = None


def run(context: StageContext) -> StageResult:
    """Split what is not split yet, then write the ranges that are not written."""
    embed = context.config.embed
    started = time.monotonic()
    location = (embed.test_vectors if context.of_test_images else None) or embed.vectors
    table = open_vectors(str(location), context.config.ingest.id_column)
    _check_rows(context, table)
    samples, layout = context.table("samples"), schema.embeddings(table.dim)
    ranges = [(number, *rows) for number, rows in enumerate(ranges_of_parts(samples.rows, layout))]
    _split(context, table, ranges)
    _check_dim(context, table)
    found = _order(context, table, ranges)
    used, lacking = (sum(getattr(each, name) for each in found) for name in ("used", "lacking"))
    if used < table.rows:
        name = table.location.rstrip("/").rsplit("/", 1)[-1]
        context.reporter.line(f"  {name}: {used:,} of {table.rows:,} vectors belong to images")
    if lacking:
        one, id_there = next(each.one for each in found if each.lacking), table.ids(0)[0].as_py()
        raise UsageError(
            f"{table.location} has no vector for {lacking:,} of {samples.rows:,} images, such as {one!r} "
            f"(its ids are like {id_there!r}; {used:,} of its {table.rows:,} vectors belong to images); "
            "add them, or leave these images out"
        )
    write_index(context.store, f"{context.work}/{FOUND}", filter(None, (each.part for each in found)), layout)
    return StageResult(
        chosen=embed.model_dump(mode="json"),
        metrics={
            "encoder": "none (--embeddings)",
            "dim": table.dim,
            "vectors_read": table.rows,
            "vectors_used": used,
            "rows_per_second": round(table.rows / (time.monotonic() - started), 1),
        },
    )


def _split(context: StageContext, table: Vectors, ranges: Sequence[Range]) -> None:
    """Save the vectors of each row group by range of samples."""
    store, work, workers = context.store, context.work, context.workers
    done = set(store.names(work, DONE))
    pending = [(number,) for number in range(len(table.groups)) if f"{number}.json" not in done]
    if pending:
        samples, begins = context.table("samples"), np.array([start for _, start, _ in ranges])
        keys, shared = workers.begin(_hashed_ids, samples), workers.share(table)
        in_order = None if table.has_ids else samples
        first = store, work, shared, begins, keys, in_order
        with context.counting("reading vectors", len(table.groups), "row groups", len(done)) as counter:
            for _ in workers.map(_split_group, pending, *first, cpus=0.5, at_once=TASKS_IN_FLIGHT):
                counter.advance(1)


def _order(context: StageContext, table: Vectors, ranges: Sequence[Range]) -> list[Ordered]:
    """Write the parts of `embeddings` that are not written; returns what came out of all, in order."""
    store, work = context.store, context.work
    there = set(store.names(work, ORDERED))
    pending = [each for each in ranges if f"{each[0]}.json" not in there]
    first = context.table("samples"), work, (table.location, table.dim)
    # One core each: who puts a part in order holds it.
    written = context.workers.map(_order_range, pending, *first, cpus=1, at_once=TASKS_IN_FLIGHT)
    found = {number: each for (number, _, _), each in zip(pending, written, strict=True)}
    for number in range(len(ranges)):
        if number not in found:
            saved = store.read_json(work, ORDERED, f"{number}.json")
            found[number] = Ordered(**{**saved, "part": Part(**saved["part"])})
    return [found[number] for number in range(len(ranges))]


def _check_dim(context: StageContext, table: Vectors) -> None:
    """Test images must lie in the space of the candidates."""
    if not context.of_test_images:
        return
    candidates = context.embeddings.dim
    if candidates != table.dim:
        raise UsageError(
            f"{table.location} has vectors of {table.dim} values for the test images, the candidates' have "
            f"{candidates}; take both from the same encoder"
        )


def _check_rows(context: StageContext, table: Vectors) -> None:
    """Rows without ids must be as many as the images, of which none may be set aside."""
    good, bad = (context.table(name).rows for name in ("samples", "quarantine"))
    if table.has_ids or (table.rows == good and not bad):
        return
    unusable = f", of which {bad:,} are unusable" if bad else ""
    raise UsageError(
        f"{table.location} has {table.rows:,} rows and no ids, for {good + bad:,} images{unusable}; "
        "write the id of each row on a line of a file NAME.ids.txt beside it"
    )


def _composed(ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The ids in Unicode form NFC."""
    return pc.utf8_normalize(ids, form="NFC")


def _hash(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """uint64 of the composed forms, the same on every machine."""
    return pd.util.hash_array(_composed(ids).to_numpy(zero_copy_only=False), categorize=False)


def _hashed_ids(samples: Table) -> Keys:
    """The samples by the hashes of their ids."""
    hashes = np.concatenate([_hash(batch["sample_id"]) for batch in samples.batches(["sample_id"])])
    index = np.argsort(hashes, kind="stable")
    hashes = hashes[index]
    same = hashes[1:] == hashes[:-1]
    shared = index[np.append(same, False) | np.append(False, same)]
    if not len(shared):
        return Keys(hashes, index, {})
    alike = samples.take(np.sort(shared), KEY)
    return Keys(hashes, index, dict(zip(alike["sample_id"].to_pylist(), alike["index"].to_pylist(), strict=True)))


def owners(ids: pa.Array, keys: Keys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whose the rows with these ids may be: positions of rows, indices of samples, and whether the row has several.

    A row whose id is that of a sample as it stands is this one's alone.
    """
    sought = _hash(ids)
    low, high = (np.searchsorted(keys.hashes, sought, side=side) for side in ("left", "right"))
    count = high - low
    rows = np.repeat(np.arange(len(ids)), count)
    # Places low..high - 1 of each row, one after the other.
    places = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    found, several = keys.samples[places], np.repeat(count > 1, count)
    kept = np.ones(len(rows), bool)
    for place in np.flatnonzero(several):
        own = keys.alike.get(ids[int(rows[place])].as_py())
        if own is not None:
            several[place], kept[place] = False, found[place] == own
    return rows[kept], found[kept], several[kept]


def _split_group(
    store: RunFolder,
    work: str,
    table: Vectors,
    first: np.ndarray,
    keys: Keys,
    in_order: Table | None,
    number: int,
) -> None:
    """Save the vectors of one row group that belong to samples, in a file for each range.

    `in_order` are the samples whose ids rows without ids have, one after the other.
    """
    ids, vectors = table.read(number)
    if in_order is not None:
        start = table.groups[number].first
        ids = in_order.read(start, start + len(ids), ["sample_id"])["sample_id"].combine_chunks()
    rows, found, several = owners(ids, keys)
    of_range = np.searchsorted(first, found, side="right") - 1
    for each in np.unique(of_range):
        some = of_range == each
        part = pa.table(
            {
                "sample_id": ids.take(pa.array(rows[some])),
                "index": found[some],
                "vector": matrix_column(vectors.vectors[rows[some]]),
                "norm": vectors.norms[rows[some]],
                "several": several[some],
            }
        )
        store.write_table(part, _split_schema(table.dim), work, SPLIT, str(each), part_name(number))
    store.write_json({}, work, DONE, f"{number}.json")


def _split_schema(dim: int) -> pa.Schema:
    """Of rows whose `index` is that of a sample which they may belong to; of `several`, where that is not all."""
    return schema.embeddings(dim).append(pa.field("several", pa.bool_()))


def _order_range(samples: Table, work: str, described: tuple[str, int], number: int, start: int, stop: int) -> Ordered:
    """Write the part with the vectors of the samples start..stop-1, unless some are lacking."""
    (location, dim), store = described, samples.store
    split = pa.concat_tables([_split_schema(dim).empty_table(), *store.read_tables(work, SPLIT, str(number))])
    held = split.sort_by("index")
    keys = samples.read(start, stop, KEY)
    rows, counts = look_up(held, keys, location)
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        return Ordered(int(counts.sum()), len(absent), keys["sample_id"][int(absent[0])].as_py())
    found = held.take(pa.array(rows)).set_column(0, "sample_id", keys["sample_id"].combine_chunks())
    part = write_part(store, f"{work}/{FOUND}", number, start, found, schema.embeddings(dim))
    result = Ordered(int(counts.sum()), part=part)
    store.write_json({**result._asdict(), "part": part._asdict()}, work, ORDERED, f"{number}.json")
    return result


def look_up(held: pa.Table, keys: pa.Table, location: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `held`, in order of index, that are those of the samples, and how many each sample has there.

    Raises:
        UsageError: a sample has two different vectors, or it is not clear whose a vector is.
    """
    index, wanted = held["index"].to_numpy(), keys["index"].to_numpy()
    if not len(index):
        return wanted, np.zeros(len(wanted), dtype=np.int64)
    low, high = (np.searchsorted(index, wanted, side=side) for side in ("left", "right"))
    first, counts = np.minimum(low, len(index) - 1), high - low
    ids, several = held["sample_id"].take(pa.array(first)), held["several"].to_numpy()[first]
    # Where ids differ in form they mostly all do: single rows are compared together.
    same = pc.equal(ids, keys["sample_id"]).to_numpy()
    single = pa.array(np.flatnonzero((counts == 1) & ~same & ~several))
    composed = pc.equal(_composed(ids.take(single)), _composed(keys["sample_id"].take(single))).to_numpy()
    counts[single.to_numpy()] = composed
    for place in np.flatnonzero((counts > 1) | ((counts == 1) & ~same & several)):
        some = np.arange(low[place], high[place])
        own = _own_rows(held, some, keys["sample_id"][int(place)].as_py(), location)
        first[place], counts[place] = own[0] if len(own) else first[place], len(own)
    return first, counts


def _own_rows(held: pa.Table, rows: np.ndarray, sample_id: str, location: str) -> np.ndarray:
    """Those of the rows that are of this sample: with its very id; else with one of the same composed form."""
    ids = np.array(held["sample_id"].slice(rows[0], len(rows)).to_pylist(), dtype=object)
    own = ids == sample_id
    if not own.any():
        own = np.array([normalize("NFC", one) == normalize("NFC", sample_id) for one in ids])
        forms = len(set(ids[own]))
        if forms > 1:
            raise UsageError(
                f"{location} has vectors of {forms} ids that differ from {sample_id!r} in their Unicode form alone; "
                "give the image's own id to one of them"
            )
        if held["several"].slice(rows[0], len(rows)).to_numpy()[own].any():
            raise UsageError(
                f"{location} has a vector of {ids[own][0]!r}, which may be that of {sample_id!r} or of another image "
                "whose id differs in its Unicode form alone; give both images vectors with their own ids"
            )
    found = held.take(pa.array(rows[own]))
    vectors, norms = fixed_size_matrix(found["vector"]), found["norm"].to_numpy()
    if not ((vectors == vectors[:1]).all() and (norms == norms[:1]).all()):
        raise UsageError(f"{location} gives {sample_id!r} two vectors; keep one")
    return rows[own]
