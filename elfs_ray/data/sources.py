"""Where images come from: a folder of files, or Parquet tables of bytes or paths.

A source lists its inputs once and cuts them into chunks; any process can read a chunk. Positions are dense, in the
order of the source: sorted paths, or the rows of the sorted tables.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray import storage
from elfs_ray.data.files import (
    existing,
    files_signature,
    list_files,
    map_files,
    open_parquet,
    read_uri,
    reading_parquet,
)
from elfs_ray.errors import RunError, UsageError, one_line

CHUNK_BYTES = 64 * 2**20
"""A chunk of large images holds fewer of them: all are in memory at once."""
CHUNKS_READ_TOGETHER = 8

ID_COLUMNS = ("sample_id", "image_id", "id", "filename", "file_name", "path")
BYTES_COLUMNS = ("image", "bytes", "image_bytes", "img", "jpg", "jpeg", "png")
PATH_COLUMNS = ("uri", "path", "image_path", "file", "filename", "file_name", "image")


@dataclass(frozen=True)
class Chunk:
    """A run of inputs that is read at once.

    Attributes:
        number: of the chunk, from 0.
        first: position of its first input.
        rows: inputs in it.
        paths: the files (folder), or the one table (Parquet).
        row_group: Parquet: which row group.
        offset: Parquet: first row within the row group.
    """

    number: int
    first: int
    rows: int
    paths: tuple[str, ...]
    row_group: int = 0
    offset: int = 0


class Source(ABC):
    """A listed source of images."""

    kind: str
    location: str
    count: int
    carries_bytes: bool
    chunks: list[Chunk]

    @abstractmethod
    def signature(self) -> str:
        """Hash of the names, sizes and times of the files: changes when the inputs change."""

    @abstractmethod
    def read(self, chunk: Chunk) -> pa.Table:
        """Position int64, sample_id, uri, image (encoded bytes) and error (null, or why there are no bytes)."""

    def groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """The chunks, in order, with those together that are cheaper to read together."""
        return [[chunk] for chunk in chunks]

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk of a group, one in memory at a time."""
        return map(self.read, chunks)


def open_source(
    location: str, *, image_column: str | None = None, id_column: str | None = None, chunk_rows: int = 1024
) -> Source:
    """List the images at a local path or URI.

    Raises:
        UsageError: nothing there, nothing in it, no permission, a table that cannot be read or lacks a column.
    """
    filesystem, info = existing(location)
    if info.type == pafs.FileType.File:
        if not info.path.endswith(".parquet"):
            raise UsageError(f"{location} is neither a folder nor a .parquet file; pass a folder of images or a table")
        return _ParquetSource(location, filesystem, [info], image_column, id_column, chunk_rows)
    files = list_files(location, filesystem, info.path)
    if not files:
        raise UsageError(f"{location} holds no files; pass a folder with images")
    if all(file.path.endswith(".parquet") for file in files):
        return _ParquetSource(location, filesystem, files, image_column, id_column, chunk_rows)
    if image_column or id_column:
        raise UsageError(f"{location} is a folder of images: ingest.image_column and ingest.id_column are for tables")
    return _FolderSource(location, info.path, files, chunk_rows)


class _FolderSource(Source):
    kind = "folder"
    carries_bytes = False

    def __init__(self, location: str, root: str, files: list[pafs.FileInfo], chunk_rows: int) -> None:
        self.location, self.count = location, len(files)
        self._root, self._signature = root, files_signature(files)
        self.chunks: list[Chunk] = []
        first, size = 0, 0
        for position, info in enumerate(files):
            if position - first == chunk_rows or (position > first and size + info.size > CHUNK_BYTES):
                self._add(files[first:position])
                first, size = position, 0
            size += info.size
        self._add(files[first:])

    def _add(self, files: list[pafs.FileInfo]) -> None:
        first = self.chunks[-1].first + self.chunks[-1].rows if self.chunks else 0
        self.chunks.append(Chunk(len(self.chunks), first, len(files), tuple(info.path for info in files)))

    def signature(self) -> str:
        return self._signature

    def read(self, chunk: Chunk) -> pa.Table:
        uris = [storage.uri_of(path, self.location) for path in chunk.paths]
        ids = [path[len(self._root) :].lstrip("/") for path in chunk.paths]
        return _table(chunk, ids, uris, _read_files(uris, self.location))


class _ParquetSource(Source):
    kind = "parquet"

    def __init__(
        self,
        location: str,
        filesystem: pafs.FileSystem,
        files: list[pafs.FileInfo],
        image_column: str | None,
        id_column: str | None,
        chunk_rows: int,
    ) -> None:
        self.location, self._filesystem, self._signature = location, filesystem, files_signature(files)
        self.chunks, self.count = [], 0
        for info in files:
            self._add_file(info.path, chunk_rows)
        if self.count == 0:
            raise UsageError(f"{location} holds no rows; pass a table with images")
        schema = open_parquet(files[0].path, filesystem).schema_arrow
        self._id_column = _find_column(location, schema, id_column, "ingest.id_column", ID_COLUMNS, _is_id)
        wanted = _find_column(location, schema, image_column, "ingest.image_column", BYTES_COLUMNS, _is_bytes)
        if wanted is None:
            wanted = _find_column(location, schema, image_column, "ingest.image_column", PATH_COLUMNS, _is_text)
        if wanted is None:
            raise UsageError(
                f"{location} has no column that looks like images (columns: {', '.join(schema.names)}); "
                "name it with --set ingest.image_column=NAME"
            )
        self._image_column = wanted
        self.carries_bytes = not _is_text(schema.field(wanted).type)

    def _add_file(self, path: str, chunk_rows: int) -> None:
        metadata = open_parquet(path, self._filesystem).metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            row_bytes = metadata.row_group(group).total_byte_size // max(rows, 1)
            most = max(1, min(chunk_rows, CHUNK_BYTES // max(row_bytes, 1)))
            for offset in range(0, rows, most):
                size = min(most, rows - offset)
                self.chunks.append(Chunk(len(self.chunks), self.count, size, (path,), group, offset))
                self.count += size

    def signature(self) -> str:
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
        return next(self.read_group([chunk]))

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk, from one pass over their row group that holds few of its rows."""
        path, columns = chunks[0].paths[0], [self._image_column, *([self._id_column] if self._id_column else [])]
        with reading_parquet(path):
            file, group = open_parquet(path, self._filesystem), chunks[0].row_group
            batches = file.iter_batches(chunks[0].rows, row_groups=[group], columns=columns)
            held, start = pa.Table.from_batches([next(batches)]), 0
            for chunk in chunks:
                while start + held.num_rows < chunk.offset + chunk.rows:
                    passed = max(0, min(chunk.offset - start, held.num_rows))
                    held = pa.concat_tables([held.slice(passed), pa.Table.from_batches([next(batches)])])
                    start += passed
                yield self._table_of(chunk, path, held.slice(chunk.offset - start, chunk.rows))

    def _table_of(self, chunk: Chunk, path: str, rows: pa.Table) -> pa.Table:
        name = path.rsplit("/", 1)[-1]
        numbers = range(chunk.first, chunk.first + chunk.rows)
        ids = [f"{name}#{number}" for number in numbers]
        if self._id_column:
            column = rows[self._id_column]
            if column.null_count:
                raise UsageError(f"column {self._id_column!r} of {path} holds nulls; every image needs an id")
            ids = column.cast(pa.string()).to_pylist()
        images = rows[self._image_column]
        if not self.carries_bytes:
            uris = [_beside(path, self.location, text) for text in images.to_pylist()]
            return _table(chunk, ids, uris, _read_files(uris, self.location))
        if pa.types.is_struct(images.type):  # Hugging Face: {bytes, path}
            images = pc.struct_field(images, "bytes")
        encoded = [(data, None if data else "the image is empty (0 bytes)") for data in images.to_pylist()]
        uri = storage.uri_of(path, self.location)
        return _table(chunk, ids, [f"{uri}#{number}" for number in numbers], encoded)


def _find_column(
    location: str, schema: pa.Schema, asked: str | None, option: str, names: tuple[str, ...], fits: object
) -> str | None:
    """The column asked for, or the first known name of a fitting type."""
    if asked is not None:
        if asked not in schema.names:
            close = difflib.get_close_matches(asked, schema.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(schema.names)}"
            raise UsageError(f"{option}={asked}: {location} has no such column; {hint}")
        names = (asked,)
    return next((name for name in names if name in schema.names and fits(schema.field(name).type)), None)  # type: ignore[operator]


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _beside(table_path: str, location: str, text: str | None) -> str:
    """A path in a table: absolute, a URI, or relative to the table's folder."""
    if text is None or "://" in text or text.startswith("/"):
        return text or ""
    return storage.uri_of(f"{table_path.rsplit('/', 1)[0]}/{text}", location)


def _read_files(uris: list[str], location: str) -> list[tuple[bytes | None, str | None]]:
    """Bytes of each file, or why there are none.

    Raises:
        RunError: the store does not answer; that says nothing of the images.
    """

    def read(uri: str) -> tuple[bytes | None, str | None]:
        try:
            return read_uri(uri, location), None
        except OSError as error:
            if storage.is_outage(error):
                raise RunError(
                    f"{uri} cannot be read now ({storage.reason(error)}); run the same command again to go on from here"
                ) from None
            return None, f"the file cannot be read: {storage.reason(error)}"
        except UsageError as error:
            return None, f"the file cannot be read: {one_line(error)}"

    return list(map_files(read, location, uris))


def _table(chunk: Chunk, ids: list[str], uris: list[str], encoded: list[tuple[bytes | None, str | None]]) -> pa.Table:
    return pa.table(
        {
            "position": pa.array(range(chunk.first, chunk.first + chunk.rows), pa.int64()),
            "sample_id": pa.array(ids, pa.string()),
            "uri": pa.array(uris, pa.string()),
            "image": pa.array([data for data, _ in encoded], pa.binary()),
            "error": pa.array([error for _, error in encoded], pa.string()),
        }
    )
