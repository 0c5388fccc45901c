"""Parquet tables of image bytes, or of paths."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import (
    ID_COLUMNS,
    Wanted,
    as_text,
    check_column,
    holds_bytes,
    ids_of,
    is_id,
    is_text,
    listed,
)
from elfs_ray.data.files import open_parquet, reading_parquet
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import Chunk, Facts, Source, even_runs, piece_of, settled_columns
from elfs_ray.data.sources.found import EMPTY_TABLES
from elfs_ray.data.sources.reading import read_cells
from elfs_ray.errors import UsageError

CHUNKS_READ_TOGETHER = 8
_LISTED = ("rows", "uri", "group", "row", "skip")


class ParquetSource(Source):
    """The rows of one table, or of several in order of path: an entry for each run of rows of a row group.

    Ids are a column, else FILE#ROW: the path below the input, and the row in the file, from 0.
    """

    kind = "parquet"
    small_files = 100
    files_at_once = 16

    @classmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:
        """The columns of the first table with rows, which hold for all."""
        filesystem, _ = filesystems.resolve(location)
        for file in files:
            table = open_parquet(file.path, filesystem)
            if not table.metadata.num_rows:  # nor does it matter which columns it has
                continue
            return settled_columns(filesystems.uri_of(file.path, location), file.path, table.schema_arrow, wanted)
        raise UsageError(f"{location} holds no rows; pass a table with images")

    @property
    def _id_column(self) -> str | None:
        name: str | None = self.about.reading["id_column"]
        return name

    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:
        """Of footers alone."""
        rows, empty = list[dict[str, Any]](), 0
        for file in files:
            listed_rows = self._entries_of_file(file.path)
            rows += listed_rows
            empty += not listed_rows
        piece = piece_of({name: [row[name] for row in rows] for name in _LISTED}, len(rows))
        return piece, Facts(
            len(rows), sum(row["rows"] for row in rows), len(rows), {EMPTY_TABLES: empty} if empty else {}
        )

    def _entries_of_file(self, path: str) -> list[dict[str, Any]]:
        file = open_parquet(path, self.filesystem)
        metadata, uri = file.metadata, filesystems.uri_of(path, self.location)
        if not metadata.num_rows:
            return []
        self._check_columns(path, file.schema_arrow)
        found, first = list[dict[str, Any]](), 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            row_bytes = metadata.row_group(group).total_byte_size // max(rows, 1)
            for skip, size in even_runs(rows, row_bytes, self.about.reading["rows"]):
                found.append({"rows": size, "uri": uri, "group": group, "row": first + skip, "skip": skip})
            first += rows
        if first != metadata.num_rows:
            raise UsageError(
                f"{path} is damaged: its row groups have {first:,} rows, and its footer says "
                f"{metadata.num_rows:,}; write it again"
            )
        return found

    def _check_columns(self, path: str, schema: pa.Schema) -> None:
        """Refuse a table that does not have the columns of the first, each with what it has there."""
        fits = [(self._image_column, holds_bytes if self.carries_bytes else is_text)]
        fits += [(self._id_column, is_id)] if self._id_column else []
        ids = next((name for name in ID_COLUMNS if name in schema.names), None)
        if ids and not self._id_column:
            raise UsageError(
                f"{path} has the id column {ids!r}, and {self._first_path} has none; give all tables the same columns, "
                "or leave it out"
            )
        for name, fit in fits:
            if name not in schema.names:
                raise UsageError(
                    f"{path} has no column {name!r}, which {self._first_path} has (its columns: "
                    f"{listed(schema.names)}); give all tables the same columns, or leave it out"
                )
            if not fit(schema.field(name).type):
                raise UsageError(
                    f"{path} holds {schema.field(name).type} in column {name!r}, where {self._first_path} holds "
                    "another kind of values; write all tables alike, or leave it out"
                )

    @property
    def _image_column(self) -> str:
        return str(self.about.reading["image_column"])

    @property
    def _first_path(self) -> str:
        return str(self.about.reading["first_path"])

    def _groups(self, first_entries: pa.Table) -> Sequence[int]:
        """Neighbours in one row group, whose rows have to be decoded from the first on; so many at most."""
        found, last, size = list[int](), None, 0
        for entry in first_entries.to_pylist():
            size = size + 1 if entry == last and size < CHUNKS_READ_TOGETHER else 1
            found.append(found[-1] + (size == 1) if found else 0)
            last = entry
        return found

    def read(self, chunk: Chunk) -> pa.Table:
        """Its rows."""
        return next(self.read_group([chunk]))

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk, from one pass over their row group that holds few of its rows."""
        entries = self.entries.read(chunks[0].start, chunks[-1].stop).to_pylist()
        path, group = self.path_of(entries[0]["uri"]), entries[0]["group"]
        columns = [self._image_column, *([self._id_column] if self._id_column else [])]
        with reading_parquet(path):
            file = open_parquet(path, self.filesystem)
            rows = file.metadata.row_group(group).num_rows
            batches = file.iter_batches(chunks[0].rows, row_groups=[group], columns=columns)
            held, start = list[pa.RecordBatch](), 0  # the batches that hold a chunk's rows, and the first row of these
            for chunk in chunks:
                entry = entries[chunk.start - chunks[0].start]
                skip = entry["skip"]
                while (end := start + sum(map(len, held))) < skip + chunk.rows:
                    more = next(batches, None)
                    if more is None:
                        raise _other_count(path, group, skip + chunk.rows, end)
                    if end <= skip:
                        held, start = [], end
                    held.append(more)
                yield self._table_of(chunk, entry, path, pa.Table.from_batches(held).slice(skip - start, chunk.rows))
            if end == rows and (extra := sum(map(len, batches))):
                raise _other_count(path, group, rows, rows + extra)

    def columns(self) -> list[str] | None:
        """Of the first table."""
        with reading_parquet(self._first_path):
            return list(open_parquet(self._first_path, self.filesystem).schema_arrow.names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """The columns of ids and labels of all tables."""
        ids, values = list[pa.ChunkedArray](), list[pa.ChunkedArray]()
        for path in map(self.path_of, pc.unique(self.entries.read(columns=["uri"])["uri"]).to_pylist()):
            with reading_parquet(path):
                file = open_parquet(path, self.filesystem)
                check_column(path, file.schema_arrow.names, name)
                rows = file.read(columns=list(dict.fromkeys([name, self._id_column or name])))
            ids.append(self._ids(path, rows, 0))
            values.append(as_text(rows[name], f"column {name!r} of {path}"))
        return pa.concat_arrays([one.combine_chunks() for one in ids]), pa.concat_arrays(
            [one.combine_chunks() for one in values]
        )

    def _ids(self, path: str, rows: pa.Table, first: int) -> pa.ChunkedArray:
        """Ids of rows of a table, the first of which has that number in its file."""
        if self._id_column:
            return ids_of(rows[self._id_column], f"column {self._id_column!r} of {path}")
        name = path[len(self.about.root) :].lstrip("/")
        return pa.chunked_array([[f"{name}#{number}" for number in range(first, first + rows.num_rows)]], pa.string())

    def _table_of(self, chunk: Chunk, entry: dict[str, Any], path: str, rows: pa.Table) -> pa.Table:
        first, uri = entry["row"], entry["uri"]
        ids = self._ids(path, rows, first).to_pylist()
        places, encoded = read_cells(rows[self._image_column], path, self.location)
        uris = [place if place is not None else f"{uri}#{first + row}" for row, place in enumerate(places)]
        return self.table_of(chunk, ids, uris, encoded, path)


def _other_count(path: str, group: int, listed: int, found: int) -> UsageError:
    return UsageError(
        f"{path} is damaged or has changed: row group {group} gives {found:,} rows where {listed:,} were listed; "
        "write it again, or run the same command again"
    )
