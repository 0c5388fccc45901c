"""Embeddings that the user has already: Parquet tables of ids and vectors, or the matrix of an .npy file."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.core.features import UnitRows, undirected_rows, unit_half
from elfs_ray.data.columns import ID_COLUMNS, as_text, check_column, ids_of, listed
from elfs_ray.data.files import existing, files_signature, list_files, open_parquet, reading_parquet
from elfs_ray.errors import UsageError, one_line

VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "feature", "features")
GROUP_BYTES = 64 * 2**20
"""Of a matrix that are read at once."""


@dataclass(frozen=True)
class Group:
    """Rows that are read at once.

    Attributes:
        path: of the file.
        number: Parquet: of the row group in the file.
        first: position of the first row.
        rows: in it.
    """

    path: str
    number: int
    first: int
    rows: int


class Vectors(ABC):
    """Listed embeddings; any process can read one of their groups.

    Attributes:
        location: a file, or a folder of Parquet files, as the user named it.
        dim: width of the vectors.
        groups: of all rows, in order.
        has_ids: whether the rows have ids; else they go by the order of the samples.
    """

    location: str
    dim: int
    groups: tuple[Group, ...]
    has_ids: bool

    @property
    def rows(self) -> int:
        """Of all groups."""
        return self.groups[-1].first + self.groups[-1].rows

    @abstractmethod
    def ids(self, number: int) -> pa.Array:
        """Ids of one group as text; the numbers of the rows where they have none.

        Raises:
            UsageError: one is missing.
        """

    @abstractmethod
    def read(self, number: int) -> tuple[pa.Array, UnitRows]:
        """Ids of one group, and its vectors scaled to unit length.

        Raises:
            UsageError: an id or a vector is missing, or a vector is of another width, not finite, zero or constant.
        """

    def columns(self) -> list[str]:
        """Names of the columns that `column` reads."""
        return []

    def column(self, name: str) -> pa.Array:
        """A column of labels of all rows, as text.

        Raises:
            UsageError: there is none of this name.
        """
        raise UsageError(f"{self.location} has no column {name!r}; pass a file of labels")


class VectorTable(Vectors):
    """Parquet tables with a column of ids and one of lists of numbers."""

    has_ids = True

    def __init__(self, location: str, filesystem: pafs.FileSystem, paths: list[str], id_column: str | None) -> None:
        self.location = location
        groups, first = list[Group](), 0
        for path in paths:
            file = open_parquet(path, filesystem)
            found = _find_columns(location if len(paths) == 1 else path, file.schema_arrow, id_column)
            if path == paths[0]:
                self._id_column, self._vector_column = found
            elif found != (self._id_column, self._vector_column):
                raise UsageError(
                    f"{path} has its ids and vectors in the columns {listed(list(found))}, and {paths[0]} in "
                    f"{self._id_column}, {self._vector_column}; give them the same names, or take one file"
                )
            for number in range(file.metadata.num_row_groups):
                groups.append(Group(path, number, first, file.metadata.row_group(number).num_rows))
                first += groups[-1].rows
        if not first:
            raise UsageError(f"{location} holds no rows; pass a table with vectors")
        self.groups = tuple(groups)
        width = _first_width(filesystem, paths, self._vector_column)
        if width is None:
            raise UsageError(f"{location} is damaged: no vector of {first:,} rows is there; copy it again")
        if not width:
            raise UsageError(f"{location}: no vector of column {self._vector_column!r} has a value; fill them in")
        self.dim = width

    def ids(self, number: int) -> pa.Array:
        """Of a row group."""
        return self._ids(*self._read(number, [self._id_column]))

    def read(self, number: int) -> tuple[pa.Array, UnitRows]:
        """A row group."""
        where, table = self._read(number, [self._id_column, self._vector_column])
        ids, lists = self._ids(where, table), _storage(table[self._vector_column].combine_chunks())
        missing = np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))
        if len(missing):
            raise UsageError(f"{where}: {_told('missing', missing, ids)}; fill in or remove what is wrong")
        widths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        others = np.flatnonzero(widths != self.dim)
        if len(others):
            some = ", ".join(map(str, np.unique(widths[others])[:5]))
            told = _told(f"of another width ({some} values)", others, ids)
            raise UsageError(f"{where}: {told}; all must have {self.dim}, as the first one has")
        # A value that is missing becomes NaN.
        values = lists.flatten()
        if pa.types.is_decimal(values.type):
            values = values.cast(pa.float64(), safe=False)
        matrix = values.to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        return ids, _scaled(matrix, ids, where)

    def columns(self) -> list[str]:
        """Of the first table."""
        return list(open_parquet(self.groups[0].path, filesystems.resolve(self.location)[0]).schema_arrow.names)

    def column(self, name: str) -> pa.Array:
        """Of all tables."""
        parts = list[pa.Array]()
        for number in range(len(self.groups)):
            path, filesystem = self.groups[number].path, filesystems.resolve(self.location)[0]
            check_column(path, open_parquet(path, filesystem).schema_arrow.names, name)
            where, table = self._read(number, [name])
            parts.append(as_text(table[name], f"column {name!r} of {where}").combine_chunks())
        return pa.concat_arrays(parts)

    def _ids(self, where: str, table: pa.Table) -> pa.Array:
        ids = ids_of(table[self._id_column], f"column {self._id_column!r} of {where}")
        return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids

    def _read(self, number: int, columns: list[str]) -> tuple[str, pa.Table]:
        group = self.groups[number]
        with reading_parquet(group.path):
            file = open_parquet(group.path, filesystems.resolve(self.location)[0])
            table = file.read_row_group(group.number, columns=columns)
            table.validate(full=True)  # what a damaged file holds may be no text, or lie outside of the memory read
        where = group.path if len(self.groups) == 1 else f"{group.path}, row group {group.number}"
        if table.num_rows != group.rows:
            raise UsageError(f"{where} is damaged: {table.num_rows:,} of {group.rows:,} rows are there; copy it again")
        return where, table


class Matrix(Vectors):
    """An .npy file of numbers [rows, dim], of which only the rows asked for are read, and perhaps its NAME.ids.txt."""

    def __init__(self, location: str, filesystem: pafs.FileSystem, path: str) -> None:
        self.location = location
        with filesystem.open_input_file(path) as file:
            shape, self._dtype = _header(location, file)
            self._start, size = file.tell(), file.size()
        rows, self.dim = shape
        row_bytes = self.dim * self._dtype.itemsize
        if size < self._start + rows * row_bytes:
            raise UsageError(f"{location} is cut off: {size:,} bytes for {rows:,} x {self.dim} values; copy it again")
        step = max(1, GROUP_BYTES // row_bytes)
        self.groups = tuple(
            Group(path, number, first, min(step, rows - first)) for number, first in enumerate(range(0, rows, step))
        )
        self._ids = _ids_beside(location, filesystem, path, rows)
        self.has_ids = self._ids is not None

    def ids(self, number: int) -> pa.Array:
        """Those beside the file, else the numbers of the rows."""
        group = self.groups[number]
        if self._ids is not None:
            return self._ids.slice(group.first, group.rows)
        return pa.array([str(row) for row in range(group.first, group.first + group.rows)], pa.string())

    def read(self, number: int) -> tuple[pa.Array, UnitRows]:
        """Some rows."""
        group, row_bytes = self.groups[number], self.dim * self._dtype.itemsize
        with filesystems.resolve(self.location)[0].open_input_file(group.path) as file:
            data = file.read_at(group.rows * row_bytes, self._start + group.first * row_bytes)
        if len(data) < group.rows * row_bytes:
            raise UsageError(f"{self.location} became shorter while it was read; run the same command again")
        ids = self.ids(number)
        matrix = np.frombuffer(data, self._dtype).reshape(-1, self.dim)
        where = self.location if len(self.groups) == 1 else f"{self.location}, rows from {group.first:,} on"
        return ids, _scaled(matrix, ids, where)


def open_vectors(location: str, id_column: str | None = None) -> Vectors:
    """List embeddings.

    Args:
        location: Parquet file or folder, or .npy file.
        id_column: of ids, if it is there and none of the usual.

    Raises:
        UsageError: nothing there, of no known form, or no column of ids or of vectors.
    """
    filesystem, files = _list_files(location)
    if _is_matrix(files[0]):
        return Matrix(location, filesystem, files[0].path)
    return VectorTable(location, filesystem, [file.path for file in files], id_column)


def vectors_signature(location: str) -> str:
    """Changes when the files of the embeddings do; looks into none of them."""
    filesystem, files = _list_files(location)
    if _is_matrix(files[0]):
        beside = filesystem.get_file_info(_ids_path(files[0].path))
        files += [beside] if beside.type == pafs.FileType.File else []
    return files_signature(files)


def _list_files(location: str) -> tuple[pafs.FileSystem, list[pafs.FileInfo]]:
    filesystem, info = existing(location)
    if info.type == pafs.FileType.File and _is_matrix(info):
        return filesystem, [info]
    files = [info] if info.type == pafs.FileType.File else list_files(location, filesystem, info.path)
    files = [file for file in files if file.extension.lower() == "parquet"]
    if not files:
        raise UsageError(
            f"{location} holds no .parquet file; pass a table with a column of ids and one of vectors, or an .npy file"
        )
    return filesystem, files


def _is_matrix(info: pafs.FileInfo) -> bool:
    return str(info.extension).lower() == "npy"


def undirected(vectors: np.ndarray, ids: np.ndarray | pa.Array, *, constant: bool = True) -> str:
    """What is wrong with rows that have no direction, how many they are, and the id of one; empty if none is.

    Args:
        vectors: numbers [rows, dim].
        ids: of the rows.
        constant: whether rows of equal values count.
    """
    found = undirected_rows(vectors)
    faults = [("not finite", found.not_finite), ("zero", found.zero), ("constant", found.constant)]
    return "; ".join(_told(what, rows, ids) for what, rows in faults if len(rows) and (constant or what != "constant"))


def _scaled(matrix: np.ndarray, ids: pa.Array, where: str) -> UnitRows:
    """Of unit length, if each row has a direction."""
    told = undirected(matrix, ids)
    if told:
        raise UsageError(f"{where}: {told}; cosine cannot compare them: leave them out, or embed these images again")
    return unit_half(matrix)


def _told(what: str, rows: np.ndarray, ids: Any) -> str:
    """Of how many vectors something is true, and the id of the first."""
    name = ids[int(rows[0])]
    name = name.as_py() if isinstance(name, pa.Scalar) else str(name)
    return f"{len(rows):,} of {len(ids):,} vectors {'is' if len(rows) == 1 else 'are'} {what}, such as {name!r}"


def _find_columns(location: str, schema: pa.Schema, id_column: str | None) -> tuple[str, str]:
    """The columns of ids and of vectors."""
    found = next((name for name in (id_column, *ID_COLUMNS) if name in schema.names), None)
    named = [name for name in VECTOR_COLUMNS if name in schema.names]
    vectors = next((name for name in named if _is_vector(schema.field(name).type)), None)
    if found is not None and vectors is not None:
        return found, vectors
    if found is not None and named:
        raise UsageError(
            f"{location} holds {schema.field(named[0]).type} in column {named[0]!r}; vectors are lists of numbers"
        )
    missing, usual = ("ids", ID_COLUMNS) if found is None else ("vectors (lists of numbers)", VECTOR_COLUMNS)
    raise UsageError(
        f"{location} has no column of {missing}; call it {' or '.join(usual)} (its columns: {listed(schema.names)})"
    )


def _storage(column: pa.Array) -> pa.Array:
    """The lists of a column, which may be wrapped in a type of its own, as tensors are."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _is_vector(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    if not any(getattr(pa.types, test)(kind) for test in tests):
        return False
    value = kind.value_type
    return pa.types.is_floating(value) or pa.types.is_integer(value) or pa.types.is_decimal(value)


def _first_width(filesystem: pafs.FileSystem, paths: list[str], column: str) -> int | None:
    """Values of the first vector that has any; 0 if none has, None if no row is there to look at."""
    width = None
    for path in paths:
        with reading_parquet(path):
            for batch in open_parquet(path, filesystem).iter_batches(1, columns=[column]):
                width = pc.list_value_length(_storage(batch[column]))[0].as_py() or 0
                if width:
                    return width
    return width


def _header(location: str, file: pa.NativeFile) -> tuple[tuple[int, int], np.dtype]:
    """Shape and type of an .npy file, which is left where the values begin. Nothing in it is ever unpickled."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (ValueError, EOFError, SyntaxError, TokenError) as error:
        raise UsageError(f"{location} is no .npy file, or is damaged ({one_line(error)}); save it again") from None
    if len(shape) != 2 or 0 in shape or dtype.kind not in "fiu" or dtype.itemsize > 8 or by_columns:
        order = ", column by column" if by_columns else ""
        raise UsageError(
            f"{location} holds {dtype} of shape {shape}{order}; save a matrix of numbers, a row for each image: "
            "np.save(path, np.ascontiguousarray(vectors, dtype=np.float32))"
        )
    return shape, dtype


def _ids_beside(location: str, filesystem: pafs.FileSystem, path: str, rows: int) -> pa.Array | None:
    """Ids on the lines of NAME.ids.txt, if that is there."""
    beside = _ids_path(path)
    if filesystem.get_file_info(beside).type != pafs.FileType.File:
        return None
    with filesystem.open_input_stream(beside) as stream:
        data = stream.read()
    try:
        lines = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"{beside} is not UTF-8 text; write an id on each line") from None
    if len(lines) != rows:
        raise UsageError(f"{beside} has {len(lines):,} lines, and {location} {rows:,} rows; write the id of each row")
    return ids_of(pa.array([line.removesuffix("\r") for line in lines], pa.string()), beside)


def _ids_path(path: str) -> str:
    return f"{path.removesuffix('.npy')}.ids.txt"
