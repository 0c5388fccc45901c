"""A data set that `datasets` saved to disk: Arrow streams of record batches, read with pyarrow alone.

The files are listed once, with the place of each batch, so that any process can read any of them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import (
    Wanted,
    as_text,
    check_column,
    find_ids,
    find_images,
    ids_of,
    is_text,
    refuse_repeated,
)
from elfs_ray.data.files import files_signature, map_files
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import FILES_IN_A_CHUNK, Chunk, Source, even_runs, read_cells, table_of
from elfs_ray.data.sources.found import Found, counted
from elfs_ray.errors import UsageError, one_line

STATE, SPLITS = "state.json", "dataset_dict.json"
SAVED_WITH = (STATE, SPLITS, "dataset_info.json")


class _Batch(NamedTuple):
    """A record batch: its file, where in the file it starts (bytes), and its rows."""

    path: str
    offset: int
    rows: int
    size: int


class HuggingFaceSource(Source):
    """The rows of a saved data set, in its order. Ids are a column, else the numbers of the rows."""

    kind = "hugging face"

    def __init__(self, location: str, filesystem: pafs.FileSystem, files: Sequence[Entry], wanted: Wanted) -> None:
        self.location, self._filesystem, self._signature = location, filesystem, files_signature(files)
        paths = [file.path for file in files]
        listed = list(map_files(lambda path: _list_batches(path, filesystem), location, paths))
        self._schema: pa.Schema = listed[0][0]
        for path, (schema, _) in zip(paths, listed, strict=True):
            if not schema.equals(self._schema):
                raise UsageError(f"{path} has other columns than {paths[0]}; save the data set again as a whole")
        self._batches = [batch for _, batches in listed for batch in batches]
        self._id_column = find_ids(location, self._schema, wanted.id_column)
        self._image_column = find_images(location, self._schema, wanted.image_column)
        self.carries_bytes = not is_text(self._schema.field(self._image_column).type)
        self.chunks, self.count = [], 0
        self._firsts = dict[str, int]()  # of each file
        names_files = pa.types.is_struct(self._schema.field(self._image_column).type) or not self.carries_bytes
        most = min(wanted.chunk_rows, FILES_IN_A_CHUNK) if names_files else wanted.chunk_rows
        for number, batch in enumerate(self._batches):
            self._firsts.setdefault(batch.path, self.count)
            for offset, rows in even_runs(batch.rows, batch.size // max(1, batch.rows), most):
                self.chunks.append(Chunk(len(self.chunks), self.count, rows, (batch.path,), number, offset))
                self.count += rows
        if self.count == 0:
            raise UsageError(f"{location} holds no rows; pass a data set with images")
        self.found = Found(counted("rows", self.count))

    def signature(self) -> str:
        """Of the files."""
        return self._signature

    def read(self, chunk: Chunk) -> pa.Table:
        """Some rows of a record batch."""
        batch = self._read_batch(self._batches[chunk.row_group], self._image_column).slice(chunk.offset, chunk.rows)
        path = chunk.paths[0]
        uri, first = filesystems.uri_of(path, self.location), chunk.first - self._firsts[path]
        places, encoded = read_cells(batch[self._image_column], path, self.location)
        uris = [place if place is not None else f"{uri}#{first + row}" for row, place in enumerate(places)]
        return table_of(chunk, self._ids(batch, chunk.first).to_pylist(), uris, encoded)

    def columns(self) -> list[str] | None:
        """Of the data set."""
        return list(self._schema.names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """A column; of classes, their names."""
        check_column(self.location, self._schema.names, name)
        ids, values, first = list[pa.Array](), list[pa.Array](), 0
        names = _class_names(self._schema, name)
        for place in self._batches:
            batch = self._read_batch(place, name)
            column = batch[name]
            if names and pa.types.is_integer(column.type):
                known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
                column = pa.array(names, pa.string()).take(pc.if_else(known, column, None))  # -1 stands for none
            values.append(as_text(column, f"column {name!r} of {self.location}"))
            ids.append(self._ids(batch, first))
            first += batch.num_rows
        return pa.concat_arrays(ids), pa.concat_arrays(values)

    def _ids(self, batch: pa.RecordBatch, first: int) -> pa.Array:
        """Ids of rows of which the first stands at that position."""
        if self._id_column:
            return ids_of(batch[self._id_column], f"column {self._id_column!r} of {self.location}")
        return pa.array([str(number) for number in range(first, first + batch.num_rows)], pa.string())

    def _read_batch(self, place: _Batch, column: str) -> pa.RecordBatch:
        """A column of a record batch, with that of the ids."""
        columns = list(dict.fromkeys([column, self._id_column or column]))
        with _open(place.path, self._filesystem) as file, _said_of(place.path):
            file.seek(place.offset)
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(file), self._schema).select(columns)
            batch.validate(full=True)
        if batch.num_rows != place.rows:
            raise UsageError(
                f"{place.path} gave {batch.num_rows:,} rows where {place.rows:,} were listed; it has changed: run again"
            )
        return batch


def refuse_splits(location: str, filesystem: pafs.FileSystem, path: str) -> None:
    """Refuse a folder of several splits.

    Raises:
        UsageError: it is one.
    """
    splits = _read_json(filesystem, f"{path}/{SPLITS}").get("splits")
    names = [str(one) for one in splits] if isinstance(splits, list) else []
    root, _, options = location.partition("?")
    remedy = f"{root.rstrip('/')}/{names[0] if names else 'train'}{'?' + options if options else ''}"
    raise UsageError(
        f"{location} holds a DatasetDict with the splits {', '.join(names) or '(none named)'}; "
        f"pass one of them, such as --input {remedy}"
    )


def in_order(
    location: str, filesystem: pafs.FileSystem, files: Sequence[Entry], states: Sequence[Entry]
) -> list[Entry]:
    """The Arrow files of a data set in its order, or by path where it does not say.

    Args:
        location: of the data set, as the user named it.
        filesystem: that holds it.
        files: its Arrow files; those that it does not name, such as caches, are left out.
        states: its `state.json`, if it has one.

    Raises:
        UsageError: there are several data sets, or a file of one is missing.
    """
    if len(states) > 1:
        folder = filesystems.uri_of(states[0].path.rpartition("/")[0], location)
        raise UsageError(f"{location} holds {len(states)} saved data sets; pass one of them, such as --input {folder}")
    named = _read_json(filesystem, states[0].path).get("_data_files") if states else None
    if not isinstance(named, list) or not named:
        return list(files)
    folder, by_path = states[0].path.rpartition("/")[0], {file.path: file for file in files}
    names = [one.get("filename") if isinstance(one, dict) else None for one in named]
    missing = [name for name in names if f"{folder}/{name}" not in by_path]
    if missing:
        raise UsageError(f"{states[0].path} names the file {missing[0]}, which is not there; save the data set again")
    return [by_path[f"{folder}/{name}"] for name in names]


def _read_json(filesystem: pafs.FileSystem, path: str) -> dict[str, Any]:
    """An object in a file; empty where it is none."""
    with filesystem.open_input_stream(path) as stream:
        data = stream.read(2**24)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is damaged, no JSON; save the data set again") from None
    return content if isinstance(content, dict) else {}


def _list_batches(path: str, filesystem: pafs.FileSystem) -> tuple[pa.Schema, list[_Batch]]:
    """Schema and record batches of one file. Of a local file only the heads of the batches are looked at."""
    batches = list[_Batch]()
    with _open(path, filesystem) as file, _said_of(path):
        schema = pa.ipc.read_schema(pa.ipc.read_message(file))
        refuse_repeated(path, _names(schema)[: len(schema)])
        for message, offset, size in _messages(file):
            if message.type != "record batch":
                raise UsageError(
                    f"{path} has columns coded by a dictionary, which cannot be read here; cast them to plain ones"
                )
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate()
            batches.append(_Batch(path, offset, batch.num_rows, size))
    return schema, batches


def _names(fields: Iterable[pa.Field]) -> list[str]:
    """Names of columns, then of the parts of structs; raises `UnicodeDecodeError` for one that is no text."""
    held = list(fields)
    inner = [name for field in held if pa.types.is_struct(field.type) for name in _names(field.type)]
    return [field.name for field in held] + inner


def _messages(file: pa.NativeFile) -> Iterator[tuple[pa.Message, int, int]]:
    """Each message up to the end of the stream, with its place and size in bytes."""
    while True:
        offset = file.tell()
        try:
            message = pa.ipc.read_message(file)
        except EOFError:
            return
        yield message, offset, file.tell() - offset


def _open(path: str, filesystem: pafs.FileSystem) -> pa.NativeFile:
    """Mapped into memory if it is local, so that only what is used is read."""
    return pa.memory_map(path) if isinstance(filesystem, pafs.LocalFileSystem) else filesystem.open_input_file(path)


@contextmanager
def _said_of(path: str) -> Iterator[None]:
    """Say what Arrow finds wrong with a file; the store's own failures pass."""
    try:
        yield
    except (pa.ArrowException, EOFError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and filesystems.is_outage(error):
            raise
        raise UsageError(
            f"{path} is damaged, or no Arrow stream ({one_line(error)}); save the data set again"
        ) from None


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Names of the classes, where `datasets` says that the column holds numbers of classes."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
