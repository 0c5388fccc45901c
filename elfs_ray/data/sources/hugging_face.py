"""A data set that `datasets` saved to disk: Arrow streams of record batches, read with pyarrow alone."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import (
    Wanted,
    as_text,
    check_column,
    ids_of,
    refuse_repeated,
)
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import Chunk, Facts, Source, even_runs, piece_of, settled_columns
from elfs_ray.data.sources.reading import read_cells
from elfs_ray.errors import UsageError, one_line

STATE, SPLITS = "state.json", "dataset_dict.json"
_LISTED = ("rows", "uri", "group", "row", "skip", "offset", "size")
SAVED_WITH = (STATE, SPLITS, "dataset_info.json")


class HuggingFaceSource(Source):
    """The rows of a saved data set, in its order: an entry for each run of rows of a record batch.

    Ids are a column, else the numbers of the rows.
    """

    kind = "hugging face"
    small_files, small_bytes = 100, 2**28  # on object storage, they are read
    form = "data set"

    @classmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:
        """The columns of the first file, which hold for all."""
        filesystem, _ = filesystems.resolve(location)
        return settled_columns(location, files[0].path, _schema(files[0].path, filesystem), wanted)

    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:
        """Of the heads of the record batches of one file."""
        [file] = files
        schema, batches = _list_batches(file.path, self.filesystem)
        first_path = self.about.reading["first_path"]
        if not schema.equals(_schema(first_path, self.filesystem)):
            raise UsageError(f"{file.path} has other columns than {first_path}; save the data set again as a whole")
        rows, first, uri = list[tuple[Any, ...]](), 0, filesystems.uri_of(file.path, self.location)
        for number, batch in enumerate(batches):
            for skip, size in even_runs(batch.rows, batch.size // max(1, batch.rows), self.about.reading["rows"]):
                rows.append((size, uri, number, first + skip, skip, batch.offset, batch.size))
            first += batch.rows
        columns = dict(zip(_LISTED, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
        return piece_of(columns, len(rows)), Facts(len(rows), first, len(rows), {})

    def read(self, chunk: Chunk) -> pa.Table:
        """Some rows of a record batch."""
        [entry] = self.entries.read(chunk.start, chunk.stop).to_pylist()
        path, uri, first = self.path_of(entry["uri"]), entry["uri"], entry["row"]
        image_column = self.about.reading["image_column"]
        batch = self._read_batch(path, entry, image_column).slice(0, chunk.rows)
        places, encoded = read_cells(batch[image_column], path, self.location)
        uris = [place if place is not None else f"{uri}#{first + row}" for row, place in enumerate(places)]
        return self.table_of(chunk, self._ids(batch, chunk.first).to_pylist(), uris, encoded, path)

    def columns(self) -> list[str] | None:
        """Of the data set."""
        return list(self._schema.names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """A column; of classes, their names."""
        check_column(self.location, self._schema.names, name)
        ids, values = list[pa.Array](), list[pa.Array]()
        names = _class_names(self._schema, name)
        entries = self.entries.read(columns=["position", *_LISTED])
        for entry in entries.to_pylist():
            path = self.path_of(entry["uri"])
            batch = self._read_batch(path, entry, name)
            column = batch[name]
            if names and pa.types.is_integer(column.type):
                known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
                column = pa.array(names, pa.string()).take(pc.if_else(known, column, None))  # -1 stands for none
            values.append(as_text(column, f"column {name!r} of {self.location}"))
            ids.append(self._ids(batch, entry["position"]))
        return pa.concat_arrays(ids), pa.concat_arrays(values)

    @cached_property
    def _schema(self) -> pa.Schema:
        return _schema(self.about.reading["first_path"], self.filesystem)

    def _ids(self, batch: pa.RecordBatch, first: int) -> pa.Array:
        """Ids of rows of which the first stands at that position."""
        if id_column := self.about.reading["id_column"]:
            return ids_of(batch[id_column], f"column {id_column!r} of {self.location}")
        return pa.array([str(number) for number in range(first, first + batch.num_rows)], pa.string())

    def _read_batch(self, path: str, entry: dict[str, Any], column: str) -> pa.RecordBatch:
        """A column of the rows that an entry stands for, with that of the ids."""
        columns = list(dict.fromkeys([column, self.about.reading["id_column"] or column]))
        with _open(path, self.filesystem) as file, _said_of(path):
            file.seek(entry["offset"])
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(file), self._schema).select(columns)
            batch.validate(full=True)
            size = file.tell() - entry["offset"]
        rows = batch.slice(entry["skip"], entry["rows"])
        if size != entry["size"] or rows.num_rows != entry["rows"]:
            told = f"{path} does not hold the {entry['rows']:,} rows that were listed there"
            raise UsageError(f"{told}; it has changed: run the same command again")
        return rows


def _schema(path: str, filesystem: pafs.FileSystem) -> pa.Schema:
    """Of a file."""
    with _open(path, filesystem) as file, _said_of(path):
        return _read_schema(path, file)


def _read_schema(path: str, file: pa.NativeFile) -> pa.Schema:
    schema = pa.ipc.read_schema(pa.ipc.read_message(file))
    refuse_repeated(path, _names(schema)[: len(schema)])
    return schema


class _Batch(NamedTuple):
    """A record batch: where in its file it starts (bytes), its rows, and its size in bytes."""

    offset: int
    rows: int
    size: int


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
        schema = _read_schema(path, file)
        for message, offset, size in _messages(file):
            if message.type != "record batch":
                raise UsageError(
                    f"{path} has columns coded by a dictionary, which cannot be read here; cast them to plain ones"
                )
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate()
            batches.append(_Batch(offset, batch.num_rows, size))
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
