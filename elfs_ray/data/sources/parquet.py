"""Parquet tables of image bytes, or of paths."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import (
    ID_COLUMNS,
    Wanted,
    as_text,
    check_column,
    find_ids,
    find_images,
    holds_bytes,
    ids_of,
    is_id,
    is_text,
    listed,
)
from elfs_ray.data.files import files_signature, open_parquet, reading_parquet
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import FILES_IN_A_CHUNK, Chunk, Source, even_runs, read_cells, table_of
from elfs_ray.data.sources.found import EMPTY_TABLES, Found, counted
from elfs_ray.errors import UsageError

CHUNKS_READ_TOGETHER = 8


class ParquetSource(Source):
    """The rows of one table, or of several in order of path.

    Ids are a column, else FILE#ROW: the path below the input, and the row in the file, from 0.
    """

    kind = "parquet"

    def __init__(
        self,
        location: str,
        filesystem: pafs.FileSystem,
        root: str,
        files: Sequence[Entry | pafs.FileInfo],
        wanted: Wanted,
    ) -> None:
        self.location, self._filesystem, self._signature = location, filesystem, files_signature(files)
        self._root, self._firsts = root, dict[str, int]()
        self.chunks, self.count = [], 0
        empty = 0
        for info in files:
            file = open_parquet(info.path, filesystem)
            if not file.metadata.num_rows:  # nor does it matter which columns it has
                empty += 1
                continue
            if not self._firsts:
                self._choose_columns(info.path, file.schema_arrow, wanted)
            self._add_file(info.path, file)
        if self.count == 0:
            raise UsageError(f"{location} holds no rows; pass a table with images")
        self.found = Found(counted("rows", self.count), +Counter({EMPTY_TABLES: empty}))

    def _choose_columns(self, path: str, schema: pa.Schema, wanted: Wanted) -> None:
        """Those of the first table hold for all."""
        self._first_path = path
        where = filesystems.uri_of(path, self.location)
        self._id_column = find_ids(where, schema, wanted.id_column)
        self._image_column = find_images(where, schema, wanted.image_column)
        kind = schema.field(self._image_column).type
        self.carries_bytes = not is_text(kind)
        names_files = pa.types.is_struct(kind) or not self.carries_bytes
        self._chunk_rows = min(wanted.chunk_rows, FILES_IN_A_CHUNK) if names_files else wanted.chunk_rows

    def _add_file(self, path: str, file: pq.ParquetFile) -> None:
        self._check_columns(path, file.schema_arrow)
        self._firsts[path] = self.count
        metadata = file.metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            row_bytes = metadata.row_group(group).total_byte_size // max(rows, 1)
            for offset, size in even_runs(rows, row_bytes, self._chunk_rows):
                self.chunks.append(Chunk(len(self.chunks), self.count, size, (path,), group, offset))
                self.count += size
        if self.count - self._firsts[path] != metadata.num_rows:
            raise UsageError(
                f"{path} is damaged: its row groups have {self.count - self._firsts[path]:,} rows, and its footer says "
                f"{metadata.num_rows:,}; write it again"
            )

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

    def signature(self) -> str:
        """Of the files."""
        return self._signature

    def groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """Neighbours in one row group, whose rows have to be decoded from the first on."""
        groups: list[list[Chunk]] = []
        for chunk in chunks:
            last = groups[-1] if groups else []
            same = last and (last[0].paths, last[0].row_group) == (chunk.paths, chunk.row_group)
            if same and len(last) < CHUNKS_READ_TOGETHER:
                last.append(chunk)
            else:
                groups.append([chunk])
        return groups

    def read(self, chunk: Chunk) -> pa.Table:
        """Its rows."""
        return next(self.read_group([chunk]))

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk, from one pass over their row group that holds few of its rows."""
        path, columns = chunks[0].paths[0], [self._image_column, *([self._id_column] if self._id_column else [])]
        with reading_parquet(path):
            file, group = open_parquet(path, self._filesystem), chunks[0].row_group
            rows = file.metadata.row_group(group).num_rows
            batches = file.iter_batches(chunks[0].rows, row_groups=[group], columns=columns)
            held, start = list[pa.RecordBatch](), 0  # the batches that hold a chunk's rows, and the first row of these
            for chunk in chunks:
                while (end := start + sum(map(len, held))) < chunk.offset + chunk.rows:
                    more = next(batches, None)
                    if more is None:
                        raise _other_count(path, group, chunk.offset + chunk.rows, end)
                    if end <= chunk.offset:
                        held, start = [], end
                    held.append(more)
                yield self._table_of(chunk, path, pa.Table.from_batches(held).slice(chunk.offset - start, chunk.rows))
            if end == rows and (extra := sum(map(len, batches))):
                raise _other_count(path, group, rows, rows + extra)

    def columns(self) -> list[str] | None:
        """Of the first table."""
        with reading_parquet(self._first_path):
            return list(open_parquet(self._first_path, self._filesystem).schema_arrow.names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """The columns of ids and labels of all tables."""
        ids, values = list[pa.ChunkedArray](), list[pa.ChunkedArray]()
        for path in dict.fromkeys(chunk.paths[0] for chunk in self.chunks):
            with reading_parquet(path):
                file = open_parquet(path, self._filesystem)
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
        name = path[len(self._root) :].lstrip("/")
        return pa.chunked_array([[f"{name}#{number}" for number in range(first, first + rows.num_rows)]], pa.string())

    def _table_of(self, chunk: Chunk, path: str, rows: pa.Table) -> pa.Table:
        first, uri = chunk.first - self._firsts[path], filesystems.uri_of(path, self.location)
        ids = self._ids(path, rows, first).to_pylist()
        places, encoded = read_cells(rows[self._image_column], path, self.location)
        uris = [place if place is not None else f"{uri}#{first + row}" for row, place in enumerate(places)]
        return table_of(chunk, ids, uris, encoded)


def _other_count(path: str, group: int, listed: int, found: int) -> UsageError:
    return UsageError(
        f"{path} is damaged or has changed: row group {group} gives {found:,} rows where {listed:,} were listed; "
        "write it again, or run the same command again"
    )
