"""A handle on an artifact: reads ranges and positions of rows, and opens only the parts that hold them.

A part index (`_index.json`) lies beside the parts of each artifact and is published with them. It says which columns
there are, which rows each part holds, its size, and the hash of its bytes. Rows are numbered from 0 over all parts;
where an artifact has a row for each sample, this number is the sample's `index`.
"""

import base64
import contextlib
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from elfs_ray.artifacts.mapped import machine_array
from elfs_ray.artifacts.parquet import ROW_GROUP_ROWS
from elfs_ray.artifacts.run_folder import INDEX_FILE, RunFolder
from elfs_ray.errors import UsageError

KEY = ["sample_id", "index"]
PARTS_AT_ONCE = 4
"""Are read at the same time; each may be large."""
T = TypeVar("T")


class Part(NamedTuple):
    """One file of an artifact.

    Attributes:
        first: number of its first row.
        rows: how many it holds.
        group: rows of each of its row groups but the last.
        bytes: size of the file.
        digest: hash of its bytes.
        name: of the file.
    """

    first: int
    rows: int
    group: int
    bytes: int
    digest: str
    name: str


class _Rows(NamedTuple):
    """Rows of one part that are asked for: all from `low` to `high` - 1, or some of these.

    Attributes:
        target: of the rows asked for, the number of the first that is in this part.
        some: numbers within the part, ascending; None for all.
    """

    part: Part
    target: int
    low: int
    high: int
    some: np.ndarray | None = None

    @property
    def size(self) -> int:
        return self.high - self.low if self.some is None else len(self.some)


@dataclass(frozen=True)
class Table:
    """An artifact. Cheap to send to another process, which reads the part index itself.

    Every reading raises `UsageError` if the parts are not what the index says.

    Attributes:
        store: the run folder.
        name: of the artifact, such as `samples` or `coresets/elfs/5000`.
    """

    store: RunFolder
    name: str

    def __reduce__(self) -> "tuple[type[Table], tuple[RunFolder, str]]":
        return type(self), (self.store, self.name)

    @cached_property
    def _index(self) -> tuple[pa.Schema, tuple[Part, ...]]:
        try:
            found = self.store.read_json(self.name, INDEX_FILE)
        except FileNotFoundError:
            raise self._damaged(f"it has no {INDEX_FILE}") from None
        with contextlib.suppress(TypeError, ValueError, KeyError, pa.ArrowException):
            layout = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(found["schema"])))
            if parts := tuple(Part(**part) for part in found["parts"]):
                return layout, parts
        raise self._damaged(f"{INDEX_FILE} is no part index")

    @property
    def schema(self) -> pa.Schema:
        """Names and types of its columns."""
        return self._index[0]

    def parts(self) -> Sequence[Part]:
        """Its parts, in order."""
        return self._index[1]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        last = self.parts()[-1]
        return last.first + last.rows

    @property
    def digest(self) -> str:
        """Changes when any of its bytes does."""
        told = "\n".join(f"{part.rows} {part.digest}" for part in self.parts())
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def read(self, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows start..stop-1 that are there: all columns, or some in the order in which they are named."""
        return self._joined(self._range(start, stop), columns)

    def take(self, positions: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of these numbers, int64 [n] in ascending order.

        Raises:
            IndexError: a number is none of a row.
            ValueError: they are not in order.
        """
        return self._joined(self._some(positions), columns)

    def column(self, name: str) -> np.ndarray:
        """One scalar column [rows]."""
        return self.read(columns=[name])[name].to_numpy()

    def matrix(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The rows start..stop-1 of a column of lists, or bytes, of one size, [stop - start, width]."""
        return self._filled(self._range(start, stop), name)

    def matrix_at(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Some rows of such a column, [n, width]; `positions` as for `take`."""
        return self._filled(self._some(positions), name)

    def batches(self, columns: Sequence[str] | None = None, positions: np.ndarray | None = None) -> Iterator[pa.Table]:
        """All rows in order, or those that `take` would give, one row group in memory at a time."""
        for rows in self._range(0, None) if positions is None else self._some(positions):
            yield from self._groups(rows, columns)

    def ranges(self, rows: int, most_bytes: int) -> list[tuple[int, int]]:
        """Ranges start, stop of at most `rows` rows and about `most_bytes` on storage; none crosses the end of a part.

        Of encoded images no row group is in two ranges, which may make a range larger.
        """
        found = []
        for part in self.parts():
            step = max(1, min(rows, most_bytes * part.rows // part.bytes))
            if part.group < ROW_GROUP_ROWS:
                step = max(1, step // part.group) * part.group
            stop = part.first + part.rows
            found += [(start, min(start + step, stop)) for start in range(part.first, stop, step)]
        return found

    def mapped(self, name: str) -> np.ndarray:
        """A column as an array [rows] or [rows, width] that all processes of this machine share.

        Whoever asks first writes it; it is there until the run ends or the artifact changes.
        """
        if pa.types.is_fixed_size_list(self.schema.field(name).type):
            return self.derived(name, lambda: (fixed_size_matrix(batch[name]) for batch in self.batches([name])))
        return self.derived(name, lambda: (batch[name].to_numpy() for batch in self.batches([name])))

    def derived(self, name: str, blocks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
        """An array that is made from this artifact and shared in the same way.

        Args:
            name: of the array; says all that it depends on beside the artifact.
            blocks: its rows, a block at a time; the trailing dimensions of all blocks are the same.
        """
        return machine_array(self.store.uri, f"{self.name}.{name}", self.digest, blocks, self.rows)

    def _range(self, start: int, stop: int | None) -> list[_Rows]:
        stop = self.rows if stop is None else min(stop, self.rows)
        return [
            _Rows(part, low - start, low - part.first, min(part.first + part.rows, stop) - part.first)
            for part in self.parts()[self._at(start) :]
            if (low := max(part.first, start)) < min(part.first + part.rows, stop)
        ]

    def _some(self, positions: np.ndarray) -> list[_Rows]:
        if not len(positions):
            return []
        if positions[0] < 0 or positions[-1] >= self.rows:
            raise IndexError(
                f"{self.name} has {self.rows:,} rows, none of the number {positions[0]} or {positions[-1]}"
            )
        if (positions[1:] < positions[:-1]).any():
            raise ValueError("positions must be in ascending order")
        first = np.array([part.first for part in self.parts()])
        of_part = np.searchsorted(first, positions, side="right") - 1
        found = []
        for number in np.unique(of_part):
            low, high = np.searchsorted(of_part, [number, number + 1])
            some = positions[low:high] - first[number]
            found.append(_Rows(self.parts()[number], int(low), int(some[0]), int(some[-1]) + 1, some))
        return found

    def _at(self, row: int) -> int:
        """Number of the part that holds a row."""
        return max(0, bisect_right(self.parts(), row, key=lambda part: part.first) - 1)

    def _joined(self, wanted: Sequence[_Rows], columns: Sequence[str] | None) -> pa.Table:
        if not wanted:
            return _selected(self.schema.empty_table(), columns)
        return pa.concat_tables(_each(lambda rows: self._read_part(rows, columns), wanted))

    def _filled(self, wanted: Sequence[_Rows], name: str) -> np.ndarray:
        width, kind = _row_of(self.schema.field(name).type)
        matrix: np.ndarray = np.empty((sum(rows.size for rows in wanted), width), kind)

        def fill(rows: _Rows) -> None:
            matrix[rows.target : rows.target + rows.size] = fixed_size_matrix(self._read_part(rows, [name])[name])

        _each(fill, wanted)
        return matrix

    def _read_part(self, rows: _Rows, columns: Sequence[str] | None) -> pa.Table:
        if rows.some is not None:
            return pa.concat_tables(self._groups(rows, columns))
        group = rows.part.group
        first, last = rows.low // group, (rows.high - 1) // group
        with self._opened(rows.part) as file:
            found = file.read_row_groups(list(range(first, last + 1)), columns=columns)
        return _selected(found, columns).slice(rows.low - first * group, rows.size)

    def _groups(self, rows: _Rows, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        """The rows by row group."""
        group = rows.part.group
        some = np.arange(rows.low, rows.high) if rows.some is None else rows.some
        with self._opened(rows.part) as file:
            for number in np.unique(some // group).tolist():
                found = _selected(file.read_row_group(number, columns=columns), columns)
                inside = some[np.searchsorted(some, number * group) : np.searchsorted(some, (number + 1) * group)]
                yield found if len(inside) == len(found) and rows.some is None else found.take(inside - number * group)

    @contextlib.contextmanager
    def _opened(self, part: Part) -> Iterator[pq.ParquetFile]:
        try:
            file = self.store.filesystem.open_input_file(self.store.path(self.name, part.name))
        except FileNotFoundError:
            raise self._damaged(f"{part.name} is missing") from None
        with file:
            if file.size() != part.bytes:
                raise self._damaged(f"{part.name} has {file.size():,} bytes, not {part.bytes:,}")
            yield pq.ParquetFile(file, pre_buffer=not self.store.is_local)

    def _damaged(self, what: str) -> UsageError:
        where = self.store.location(self.name)
        return UsageError(f"{where} is damaged: {what}; remove the run folder, or restore what is missing")


def fixed_size_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of lists of one size, or of as many bytes (uint8), as a matrix [rows, width]."""
    width, kind = _row_of(column.type)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_values(chunk).reshape(-1, width) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty((0, width), kind)


def matrix_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """A matrix [rows, width] as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def bytes_column(array: np.ndarray) -> pa.FixedSizeBinaryArray:
    """A contiguous array uint8 [rows, ...] as a column of bytes, which Parquet keeps far faster than lists of them."""
    kind = pa.binary(array[:1].size)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(array), [None, pa.py_buffer(array)])


def _row_of(kind: pa.DataType) -> tuple[int, type]:
    """Width and type of the rows of a matrix."""
    if pa.types.is_fixed_size_binary(kind):
        return kind.byte_width, np.uint8
    return kind.list_size, kind.value_type.to_pandas_dtype()


def _values(chunk: pa.Array) -> np.ndarray:
    """Of a column of lists or bytes that has rows, one after another."""
    if pa.types.is_fixed_size_binary(chunk.type):
        width = chunk.type.byte_width
        return np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
    return chunk.flatten().to_numpy(zero_copy_only=False)


def _selected(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    return table if columns is None else table.select(columns)


def _each(read: Callable[[_Rows], T], wanted: Sequence[_Rows]) -> list[T]:
    """What is read of each part, in order."""
    if len(wanted) == 1:
        return [read(wanted[0])]
    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        return list(pool.map(read, wanted))
