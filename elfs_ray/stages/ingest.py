"""Ingest: list the inputs, check that each image decodes, and number the good ones.

Reads: the user's source. Writes: `samples` (one row for each usable image, `index` dense in the source's order) and
`quarantine` (every other input with its reason); samples + quarantine = inputs, always.
Work unit: one chunk of the source, checked by a task that saves a file of its own; a retry or a second run writes the
same file again.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import join_contents, part_name, samples_content
from elfs_ray.config import IngestConfig
from elfs_ray.data.images import ImageError, inspect
from elfs_ray.data.sources import Source, open_input
from elfs_ray.data.sources.base import Chunk
from elfs_ray.data.unusable import refuse_many
from elfs_ray.errors import UsageError
from elfs_ray.stages.stage import StageContext, StageResult
from elfs_ray.workers.progress import Counter

CHECKED = "checked"
WRITES_IN_FLIGHT = 64


def run(context: StageContext) -> StageResult:
    """Check and number the images of the run's input (or of the separate test input), or its embeddings' ids."""
    options = context.config.ingest
    location = context.config.evaluate.test_input if context.prefix else context.config.input
    source = open_input(context.config, location)
    context.reporter.line(f"  {source.found.line(source.location)}")
    started = time.monotonic()
    _check_all(context, source)
    numbers, content = _number(context, source, options)
    seconds = time.monotonic() - started
    return StageResult(
        artifacts={context.artifact("samples"): "samples", context.artifact("quarantine"): "quarantine"},
        chosen=options.identity(),
        metrics={**_described(source), **numbers, "images_per_second": round(source.count / seconds, 1)},
        content=content,
    )


def _described(source: Source) -> dict[str, Any]:
    """What was found, for the manifest."""
    return {"source": source.kind, "passed_over": dict(source.found.passed_over)}


def _check_all(context: StageContext, source: Source) -> None:
    """Check every chunk that has no file yet."""
    finished = set(context.store.names(context.work, CHECKED))
    pending = [chunk for chunk in source.chunks if part_name(chunk.number) not in finished]
    done = source.count - sum(chunk.rows for chunk in pending)
    if not pending:
        return
    workers, max_pixels = context.workers, context.config.ingest.max_pixels
    first = workers.share(source), context.store, f"{context.work}/{CHECKED}", max_pixels
    with context.counting("checking images", source.count, "images", done) as counter:
        groups = ((group,) for group in source.groups(pending))
        for _ in workers.map(_check_group, groups, *first, counter, cpus=0.5):
            pass


def _check_group(
    source: Source, store: RunFolder, folder: str, max_pixels: int, counter: Counter, chunks: list[Chunk]
) -> None:
    """Read the images of some chunks, check each and save what was found, in a file for each chunk."""
    for chunk, table in zip(chunks, source.read_group(chunks), strict=True):
        if table.num_rows != chunk.rows:
            raise UsageError(
                f"{chunk.paths[0]} gave {table.num_rows:,} rows where {chunk.rows:,} were listed; it is damaged or has "
                "changed: check it, and run the same command again"
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


def _number(context: StageContext, source: Source, options: IngestConfig) -> tuple[dict[str, int], str]:
    """Give good images their index and write the artifacts; returns the counts and the samples' content."""
    store, folder = context.store, f"{context.work}/{CHECKED}"
    listed = source.location, source.count
    quarantined = context.workers.call(_quarantine, store, context.work, *listed, options.max_bad_fraction)
    first = store, folder, f"{context.work}/samples", _samples_schema(source)
    parts = _good_rows(store, folder, source)
    content = join_contents(context.workers.map(_write_part, parts, *first, cpus=0.5, at_once=WRITES_IN_FLIGHT))
    samples = store.count_rows(context.work, "samples")
    if samples + quarantined != source.count:
        raise AssertionError(f"{samples} samples + {quarantined} quarantined != {source.count} inputs")
    return {"inputs": source.count, "samples": samples, "quarantined": quarantined}, content


def _quarantine(store: RunFolder, work: str, location: str, count: int, max_bad_fraction: float) -> int:
    """Refuse what makes the input as a whole unusable, and set the bad rows apart; returns how many there are."""
    listed = store.read_table(work, CHECKED, columns=["position", "sample_id"])
    if not np.array_equal(listed["position"].to_numpy(), np.arange(count)):
        raise UsageError(f"{location} changed while it was read; run the same command again")
    _refuse_duplicates(listed["sample_id"], location)
    del listed
    bad = store.read_table(work, CHECKED, columns=["sample_id", "uri", "reason"], rows=pc.field("reason").is_valid())
    if len(bad):
        first = bad.slice(0, 1).to_pylist()[0]
        refuse_many(len(bad), count, (first["sample_id"], first["reason"]), max_bad_fraction)
    quarantine = bad.append_column("stage", pa.array(["ingest"] * len(bad), pa.string()))
    store.write_table(quarantine, schema.QUARANTINE, work, "quarantine", part_name(0))
    return len(bad)


def _good_rows(store: RunFolder, checked: str, source: Source) -> Iterator[tuple[str, int]]:
    """The parts that have good rows, each with the index of its first."""
    first_index = 0
    for chunk in source.chunks:
        name = part_name(chunk.number)
        good = store.dataset(checked, name).count_rows(filter=pc.is_null(pc.field("reason")))
        if good:
            yield name, first_index
        first_index += good


def _write_part(
    store: RunFolder, checked: str, target: str, full_schema: pa.Schema, name: str, first_index: int
) -> int:
    """Write the good rows of a chunk with their index; returns their content."""
    table = store.read_table(checked, name)
    good = table.filter(pc.is_null(table["reason"]))
    numbered = good.append_column("index", pa.array(np.arange(first_index, first_index + len(good))))
    store.write_table(numbered, full_schema, target, name)
    return samples_content(numbered)


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
