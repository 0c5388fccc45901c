"""Ingest: check that each image decodes, and number the good ones.

Reads: `listing`, and the images where they are. Writes: `samples` (one row for each usable image, `index` dense in the
order of the listing) and `quarantine` (every other input with its reason); samples + quarantine = inputs, always.
Work unit: one chunk of the source, checked by a task that saves a file of its own; a retry or a second run writes the
same file again.
"""

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import facts_of, join_contents, samples_content
from elfs_ray.artifacts.table import Part
from elfs_ray.artifacts.writing import grouped, part_name, row_bytes, write_index, write_part, write_table
from elfs_ray.config import IngestConfig
from elfs_ray.data.images import ImageError, inspect
from elfs_ray.data.sources.base import Chunk, Source, together
from elfs_ray.data.unusable import refuse_many
from elfs_ray.errors import UsageError
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.listed import listed_source
from elfs_ray.workers.progress import Counter

CHECKED = "checked"
WRITES_IN_FLIGHT = 64


def run(context: StageContext) -> StageResult:
    """Check and number the images of the run's input (or of the separate test input), or its embeddings' ids."""
    options = context.config.ingest
    source = listed_source(context.store, context.config, context.unit.prefix)
    started = time.monotonic()
    _check_all(context, source)
    numbers, content = _number(context, source, options)
    seconds = time.monotonic() - started
    return StageResult(
        chosen=options.identity(),
        metrics={**numbers, "images_per_second": round(source.count / seconds, 1)},
        content=content,
    )


def _check_all(context: StageContext, source: Source) -> None:
    """Check every chunk that has no file yet."""
    store, workers, max_pixels = context.store, context.workers, context.config.ingest.max_pixels
    finished = set(store.names(context.work, CHECKED))
    pending = [chunk for chunk in workers.call(_chunks, source) if part_name(chunk.number) not in finished]
    done = source.count - sum(chunk.rows for chunk in pending)
    if not pending:
        return
    first = source, store, f"{context.work}/{CHECKED}", max_pixels
    with context.counting("checking images", source.count, "images", done) as counter:
        groups = ((group,) for group in together(pending))
        for _ in workers.map(_check_group, groups, *first, counter, cpus=0.5):
            pass


def _chunks(source: Source) -> list[Chunk]:
    return source.chunks


def _check_group(
    source: Source, store: RunFolder, folder: str, max_pixels: int, counter: Counter, chunks: list[Chunk]
) -> None:
    """Read the images of some chunks, check each and save what was found, in a file for each chunk."""
    for chunk, table in zip(chunks, source.read_group(chunks), strict=True):
        if table.num_rows != chunk.rows:
            raise UsageError(
                f"{source.location} gave {table.num_rows:,} rows where {chunk.rows:,} were listed; it is damaged or "
                "has changed: check it, and run the same command again"
            )
        checked = _check(table, max_pixels) if source.has_images else _unchecked(table)
        store.write_table(checked, _checked_schema(source), folder, part_name(chunk.number))
        counter.advance(table.num_rows)


def _samples_schema(source: Source) -> pa.Schema:
    return schema.samples(carries_bytes=source.carries_bytes, has_images=source.has_images)


def _checked_schema(source: Source) -> pa.Schema:
    fields = list(_samples_schema(source))
    nullable = [field.with_nullable(True) for field in fields if field.name != "index"]
    return pa.schema([pa.field("position", pa.int64()), pa.field("reason", pa.string()), *nullable])


def _check(table: pa.Table, max_pixels: int) -> pa.Table:
    """Columns `width`, `height`, `content_hash` for good images and `reason` for the others."""
    reasons, widths, heights, hashes = [], [], [], []
    for image, error in zip(table["image"], table["error"], strict=True):
        reason, info = error.as_py(), None
        if reason is None:
            try:
                info = inspect(image.as_py(), max_pixels=max_pixels)
            except ImageError as problem:
                reason = str(problem)
        reasons.append(reason)
        widths.append(info.width if info else None)
        heights.append(info.height if info else None)
        hashes.append(info.content_hash if info else None)
    columns = {"reason": reasons, "width": widths, "height": heights, "content_hash": hashes}
    types = {"reason": pa.string(), "width": pa.int32(), "height": pa.int32(), "content_hash": pa.string()}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, types[name]))
    return table


def _unchecked(table: pa.Table) -> pa.Table:
    """Embeddings stand for the images: there is nothing to decode."""
    return table.append_column("reason", pa.nulls(table.num_rows, pa.string()))


def _number(context: StageContext, source: Source, options: IngestConfig) -> tuple[dict[str, float], str]:
    """Give good images their index and write the artifacts; returns facts of them, and the samples' content."""
    store, workers, layout = context.store, context.workers, _samples_schema(source)
    listed = source.location, source.count
    good, sizes = workers.call(_set_bad_apart, store, context.work, *listed, options.max_bad_fraction)
    first = np.cumsum([0, *good])
    parts = (
        (number, int(first[files.start]), [part_name(file) for file in files])
        for number, files in enumerate(grouped(np.maximum(sizes, good * row_bytes(layout)).tolist()))
    )
    # One core each: who writes a part of encoded images holds it.
    written = list(workers.map(_write_part, parts, store, context.work, layout, cpus=1, at_once=WRITES_IN_FLIGHT))
    samples = write_index(store, f"{context.work}/samples", (part for part, _ in written), layout)
    quarantined = source.count - samples.rows
    facts = {"inputs": source.count, "quarantined": quarantined, **workers.call(facts_of, samples)}
    return facts, join_contents(content for _, content in written)


def _set_bad_apart(
    store: RunFolder, work: str, location: str, count: int, max_bad_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Refuse what makes the input as a whole unusable, and write `quarantine`.

    Returns:
        Good rows of each file of checked images, and its size in bytes, both int64.
    """
    listed, bad, good = [], [], []
    for table in store.read_tables(work, CHECKED, columns=["position", "sample_id", "uri", "reason"]):
        listed.append(table.select(["position", "sample_id"]))
        bad.append(table.filter(pc.is_valid(table["reason"])))
        good.append(len(table) - len(bad[-1]))
    rows, quarantine = pa.concat_tables(listed), pa.concat_tables(bad)
    if not np.array_equal(rows["position"].to_numpy(), np.arange(count)):
        raise UsageError(f"{location} changed while it was read; run the same command again")
    _refuse_duplicates(rows["sample_id"], location)
    if len(quarantine):
        first = quarantine.slice(0, 1).to_pylist()[0]
        refuse_many(len(quarantine), count, (first["sample_id"], first["reason"]), max_bad_fraction)
    quarantine = quarantine.append_column("stage", pa.array(["ingest"] * len(quarantine), pa.string()))
    write_table(store, f"{work}/quarantine", quarantine, schema.QUARANTINE)
    infos = store.filesystem.get_file_info(pafs.FileSelector(store.path(work, CHECKED)))
    sizes = {info.base_name: info.size for info in infos}
    return np.array(good), np.array([sizes[part_name(number)] for number in range(len(good))])


def _write_part(
    store: RunFolder, work: str, layout: pa.Schema, number: int, first: int, files: list[str]
) -> tuple[Part, int]:
    """Write the good rows of some files of checked images with their index; returns the part and its content."""
    good = pa.concat_tables(map(_good_rows, (store.read_table(work, CHECKED, name) for name in files)))
    numbered = good.append_column("index", pa.array(np.arange(first, first + len(good))))
    part = write_part(store, f"{work}/samples", number, first, numbered, layout)
    return part, samples_content(numbered)


def _good_rows(checked: pa.Table) -> pa.Table:
    """Those without a reason; mostly all, of which there is to be no second copy in memory."""
    is_good = pc.is_null(checked["reason"])
    return checked if pc.all(is_good).as_py() else checked.filter(is_good)


def _refuse_duplicates(sample_ids: pa.ChunkedArray, location: str) -> None:
    """Refuse ids that are equal, or that only their Unicode form tells apart: labels compare in NFC."""
    remedy = "or name another column of a table with --set ingest.id_column=NAME"
    counts = _repeated(sample_ids)
    if len(counts):
        name, count = counts[0]["values"].as_py(), counts[0]["counts"].as_py()
        raise UsageError(
            f"sample id {name!r} stands {count} times in {location} ({len(counts)} ids are repeated); "
            f"ids must be unique: fix them, {remedy}"
        )
    composed = pc.utf8_normalize(sample_ids, form="NFC")
    counts = _repeated(composed)
    if len(counts):
        same = sample_ids.filter(pc.equal(composed, counts[0]["values"])).to_pylist()
        raise UsageError(
            f"sample ids {' and '.join(map(ascii, same[:2]))} in {location} are one text in two Unicode forms "
            f"({len(counts)} ids are), so that no label could tell them apart; rename one, {remedy}"
        )


def _repeated(values: pa.ChunkedArray) -> pa.StructArray:
    """Values that stand there several times, and how often."""
    counts = pc.value_counts(values)
    return counts.filter(pc.greater(counts.field("counts"), 1))
