"""Listing: find the inputs, and where each of them is.

Reads: the user's source. Writes: `listing` (an entry for each file, member of an archive, or run of rows of a table).
Work unit: some files, listed by a task that saves a piece. Its name is made from the names, sizes and times of the
files, so that a second run takes up what is listed of files that have not changed. Tasks find the files, too: what
started the run holds nothing of the inputs but numbers.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_tables
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.data.files import files_signature
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources import Source, look_at_input, source_of
from elfs_ray.data.sources.base import PIECE, About, Facts, numbered
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.listed import ABOUT, location_of

FILES, PIECES = "files", "pieces"
FILES_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64()),
        pa.field("fault", pa.string()),
    ]
)
FILES_AT_ONCE = 65_536


def run(context: StageContext) -> StageResult | None:
    """List the run's input (or the separate test input); None if it holds what it held when it was last listed."""
    config, store, workers, work = context.config, context.store, context.workers, context.work
    source, runs = workers.call(_look, config, context.unit.prefix, store, work, here=True)
    context.reporter.line(f"  {source.found.line(source.location)}")
    content, before = source.about.identity(), context.records.get(context.unit)
    if before is not None and (before.fingerprint, before.content) == (context.fingerprint, content):
        return None
    first = source, Table(store, f"{work}/{FILES}"), f"{work}/{PIECES}"
    if len(runs) == 1:  # perhaps a manifest that no other machine has
        pieces = [workers.call(_list_some, *first, *runs[0], here=True)]
    else:
        with context.counting("listing files", len(runs), "pieces") as counter:
            pieces = []
            for piece in workers.map(_list_some, runs, *first, cpus=0.5):
                pieces.append(piece)
                counter.advance(1)
    about = workers.call(_join, source, store, work, pieces)
    told = {"inputs": about.count, "source": about.kind, "passed_over": dict(about.found.passed_over)}
    return StageResult(metrics={**told, ABOUT: about.as_json()}, content=content)


def _look(config: RunConfig, prefix: str, store: RunFolder, work: str) -> tuple[Source, list[tuple[int, int]]]:
    """Find the files of an input and keep their names; returns what reads them, and the files of each piece."""
    looked = look_at_input(config, location_of(config, prefix))
    groups = (looked.files[start : start + FILES_AT_ONCE] for start in range(0, len(looked.files), FILES_AT_ONCE))
    columns = FILES_SCHEMA.names
    tables = (
        pa.table(dict(zip(columns, zip(*group, strict=True), strict=True)), schema=FILES_SCHEMA) for group in groups
    )
    write_tables(store, f"{work}/{FILES}", tables, FILES_SCHEMA)
    return looked.source, list(looked.runs())


def _list_some(source: Source, files: Table, folder: str, start: int, stop: int) -> tuple[str, Facts]:
    """List some files, unless that was done before; returns the name of the piece, and what it holds."""
    store, entries = files.store, [Entry(*row.values()) for row in files.read(start, stop).to_pylist()]
    # Embeddings have ids in files beside them, which their signature covers, too.
    beside = None if source.has_images else source.about.signature
    name = fingerprint(files_signature(entries), source.about.reading, beside)
    if store.exists(folder, f"{name}.json"):
        return name, Facts(**store.read_json(folder, f"{name}.json"))
    piece, facts = source.entries_of(entries)
    store.write_table(piece, PIECE, folder, f"{name}.parquet")
    store.write_json(facts._asdict(), folder, f"{name}.json")
    return name, facts


def _join(source: Source, store: RunFolder, work: str, pieces: Sequence[tuple[str, Facts]]) -> About:
    """Make one listing of the pieces; returns what is known of the input as a whole."""

    def read(columns: list[str] | None = None) -> Any:
        return (store.read_table(work, PIECES, f"{name}.parquet", columns=columns) for name, _ in pieces)

    about = source.joined([facts for _, facts in pieces], lambda: (table["id"] for table in read(["id"])))
    write_tables(store, f"{work}/listing", numbered(source_of(about), read()), schema.LISTING)
    return about
