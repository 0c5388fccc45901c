"""What all kinds of input share: how they are listed, and how the images of a chunk are read.

A listing has a row for each *entry*: a file, a member of a tar shard, or a run of rows of a table. It is made once, in
pieces that tasks write side by side, and kept in the run folder; any process can read any chunk of it.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.schema import LISTING
from elfs_ray.config import fingerprint
from elfs_ray.data.columns import Wanted, find_ids, find_images, is_text
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.found import Found, counted
from elfs_ray.data.sources.reading import Encoded
from elfs_ray.errors import UsageError

CHUNK_BYTES = 64 * 2**20
"""A chunk of large images holds fewer of them: all are in memory at once."""
FILES_IN_A_CHUNK = 256
"""... of files that a table names: nothing says how large they are."""
PIECE = pa.schema([column for column in LISTING if column.name not in ("position", "chunk")])
"""The listing of some files, before it is known what stands before them."""
_HOW_IT_IS_CUT = ("chunk_entries", "rows")


class Entries(Protocol):
    """A listing, wherever it is kept."""

    def read(self, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The entries start..stop-1, with all columns or some."""


@dataclass(frozen=True)
class Held:
    """A listing in memory."""

    table: pa.Table

    def read(self, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """As `Table.read`."""
        some = self.table.slice(start, None if stop is None else stop - start)
        return some if columns is None else some.select(columns)


class Chunk(NamedTuple):
    """A run of inputs that is read at once.

    Attributes:
        number: of the chunk, from 0.
        first: position of its first input.
        rows: inputs in it.
        start: number of its first entry.
        stop: number of the entry after its last.
        group: the same for chunks that are cheaper to read together.
    """

    number: int
    first: int
    rows: int
    start: int
    stop: int
    group: int


class Facts(NamedTuple):
    """What a piece of a listing holds.

    Attributes:
        entries: its rows.
        inputs: that its entries stand for.
        readable: entries of which nothing is known to be wrong.
        passed_over: what is no input -> how often.
        endings: of the members of tar shards.
    """

    entries: int
    inputs: int
    readable: int
    passed_over: dict[str, int]
    endings: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What is known of an input as a whole: plain values, which the manifest keeps.

    Attributes:
        kind: a word for it.
        location: as the user named it.
        root: the folder in its file system below which ids are paths.
        signature: of the names, sizes and times of the files: changes when the inputs change.
        count: inputs, once they are listed.
        reading: what its kind reads it by, such as names of columns.
        found: what is read of it and what is passed over.
    """

    kind: str
    location: str
    root: str
    signature: str
    count: int = 0
    reading: dict[str, Any] = field(default_factory=dict)
    found: Found = field(default_factory=lambda: Found(""))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        found = {**vars(self.found), "passed_over": dict(self.found.passed_over)}
        return {**vars(self), "found": found}

    def identity(self) -> str:
        """Changes when the inputs, or what is read of them, do; not when they are reached or cut in another way."""
        reading = {name: value for name, value in self.reading.items() if name not in _HOW_IT_IS_CUT}
        return fingerprint(self.kind, filesystems.without_options(self.location), self.signature, reading)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "About":
        """What `as_json` gave."""
        found = {**values["found"], "passed_over": Counter(values["found"]["passed_over"])}
        return cls(**{**values, "found": Found(**found)})


class Source(ABC):
    """An input, listed or about to be. Cheap to send where its listing is an artifact.

    Attributes:
        kind: a word for it.
        has_images: False for embeddings alone.
        files_at_once: are listed as one piece.
        chunks_end_with_files: whether no chunk has entries of two files.
        small_files, small_bytes: up to which an input is listed in a moment.
        form: what it is, and
        unit: what its inputs are, for messages.
        about: the input as a whole.
        entries: its listing; None: not yet listed.
    """

    kind: ClassVar[str]
    has_images: ClassVar[bool] = True
    files_at_once: ClassVar[int] = 1
    chunks_end_with_files: ClassVar[bool] = False
    small_files: ClassVar[int] = 10_000
    small_bytes: ClassVar[int] = 2**62
    form: ClassVar[str] = "table"
    unit: ClassVar[str] = "rows"

    def __init__(self, about: About, entries: Entries | None = None) -> None:
        self.about, self._entries = about, entries

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.about, self._entries)

    @property
    def location(self) -> str:
        """As the user named it."""
        return self.about.location

    @property
    def count(self) -> int:
        """Inputs."""
        return self.about.count

    @property
    def found(self) -> Found:
        """What is read of the location and what is passed over."""
        return self.about.found

    @property
    def carries_bytes(self) -> bool:
        """Whether images have no files of their own, so that the run folder keeps their bytes."""
        return bool(self.about.reading.get("carries_bytes", False))

    @property
    def entries(self) -> Entries:
        """Of the listed input."""
        if self._entries is None:
            raise ValueError(f"{self.location} is not listed yet")
        return self._entries

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """What holds its files."""
        return filesystems.resolve(self.location)[0]

    @classmethod
    @abstractmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:
        """What the input is read by, from as few of its files as tell: plain values for `About.reading`.

        `chunk_entries`, the most of one chunk, is among them.

        Raises:
            UsageError: there is no such column, or it holds what cannot be read.
        """

    @abstractmethod
    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:
        """The entries of some files, in order, with the columns of `PIECE`.

        Raises:
            UsageError: a file is damaged, or unlike the first.
        """

    def joined(self, facts: Sequence[Facts], ids: Callable[[], Iterator[pa.ChunkedArray]]) -> About:  # noqa: ARG002
        """The whole input, from what its pieces hold.

        Args:
            facts: of all pieces.
            ids: reads the ids of each piece.

        Raises:
            UsageError: there is nothing in it.
        """
        count = sum(each.inputs for each in facts)
        if count == 0:
            raise UsageError(f"{self.location} holds no rows; pass a {self.form} with images")
        # Of a folder, the files are told; of a single file, what is in it.
        found = replace(self.found, passed_over=Counter(self.found.passed_over))
        found.read = found.read or counted(self.unit, count)
        for each in facts:
            found.passed_over.update(each.passed_over)
        return replace(self.about, count=count, found=found)

    def with_ids(self, piece: pa.Table) -> pa.Table:
        """A piece with its ids as they are, now that all pieces are known."""
        return piece

    @abstractmethod
    def read(self, chunk: Chunk) -> pa.Table:
        """Position int64, sample_id, uri, image (encoded bytes) and error (null, or why there are no bytes)."""

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk of a group, one in memory at a time."""
        return map(self.read, chunks)

    def columns(self) -> list[str] | None:
        """What labels may be read from by `read_column`; None where only reading everything tells."""
        return []

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """Ids of all inputs, and what a column says of them as text, null where nothing.

        Raises:
            UsageError: there is no such column.
        """
        raise UsageError(f"{self.location} has no column {name!r}; pass a file of labels, or `folders`")

    def ids(self) -> pa.ChunkedArray:
        """Of the inputs, text [n], as far as they are known without reading anything."""
        return pa.chunked_array([], pa.string())

    @cached_property
    def chunks(self) -> list[Chunk]:
        """Of all inputs, in order."""
        table = self.entries.read(columns=["position", "rows", "chunk", "uri", "group"])
        number = table["chunk"].to_numpy()
        starts = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1])
        stops = [*starts[1:].tolist(), len(number)]
        rows = np.add.reduceat(table["rows"].to_numpy(), starts)
        groups = self._groups(table.select(["uri", "group"]).take(starts))
        columns = number[starts], table["position"].to_numpy()[starts], rows, starts, stops, groups
        return [Chunk(*map(int, values)) for values in zip(*columns, strict=True)]

    def _groups(self, first_entries: pa.Table) -> Sequence[int]:
        """What chunks that are cheaper to read together share, given the first entry of each."""
        return range(len(first_entries))

    def table_of(
        self, chunk: Chunk, ids: Sequence[str], uris: Sequence[str], encoded: Sequence[Encoded], path: str = ""
    ) -> pa.Table:
        """What `read` gives.

        Raises:
            UsageError: there are more or fewer rows than were listed.
        """
        for rows in (ids, uris, encoded):
            if len(rows) != chunk.rows:
                raise UsageError(
                    f"{path or self.location} gave {len(rows):,} rows where {chunk.rows:,} were listed; it is damaged "
                    "or has changed: check it, and run the same command again"
                )
        return pa.table(
            {
                "position": pa.array(range(chunk.first, chunk.first + chunk.rows), pa.int64()),
                "sample_id": pa.array(ids, pa.string()),
                "uri": pa.array(uris, pa.string()),
                "image": pa.array([data for data, _ in encoded], pa.binary()),
                "error": pa.array([error for _, error in encoded], pa.string()),
            }
        )

    def path_of(self, uri: str) -> str:
        """Where a file of the listing is in its file system."""
        return filesystems.resolve(filesystems.with_options_of(uri, self.location))[1]


def settled_columns(where: str, path: str, schema: pa.Schema, wanted: Wanted) -> dict[str, Any]:
    """What tables are read by: the columns of ids and images of the first one, each run of rows an entry and a chunk.

    Args:
        where: the table, for messages.
        path: of the table, in its file system.
        schema: of the table.
        wanted: what the user says of it.

    Raises:
        UsageError: there is no such column, or it holds what cannot be read.
    """
    id_column = find_ids(where, schema, wanted.id_column)
    image_column = find_images(where, schema, wanted.image_column)
    kind = schema.field(image_column).type
    names_files = pa.types.is_struct(kind) or is_text(kind)
    return {
        "first_path": path,
        "id_column": id_column,
        "image_column": image_column,
        "carries_bytes": not is_text(kind),
        "rows": min(wanted.chunk_rows, FILES_IN_A_CHUNK) if names_files else wanted.chunk_rows,
        "chunk_entries": 1,
    }


def piece_of(columns: dict[str, Any], rows: int) -> pa.Table:
    """Entries with some columns of `PIECE`; the others are null, but `rows`, which is 1."""
    arrays = {"rows": pa.array(np.ones(rows, np.int64)), **columns}
    absent = pa.nulls(rows)
    return pa.table([pa.array(arrays.get(one.name, absent)).cast(one.type) for one in PIECE], schema=PIECE)


def numbered(source: Source, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The pieces of a listing, in order, with positions and chunks: with the columns of `LISTING`.

    A chunk has at most `chunk_entries` entries and, unless it is of one entry, `CHUNK_BYTES` bytes.
    """
    most = source.about.reading["chunk_entries"]
    position, chunk, entries, held = 0, -1, most, 0
    for piece in pieces:
        if source.chunks_end_with_files:
            entries = most
        numbers = np.empty(len(piece), np.int32)
        for row, size in enumerate(pc.fill_null(piece["size"], 0).to_numpy().tolist()):
            if entries == most or held + size > CHUNK_BYTES:
                chunk, entries, held = chunk + 1, 0, 0
            entries, held, numbers[row] = entries + 1, held + size, chunk
        rows = piece["rows"].to_numpy()
        first = position + np.cumsum(rows) - rows
        position += int(rows.sum())
        columns = {"position": pa.array(first), "chunk": pa.array(numbers)}
        columns.update(zip(PIECE.names, source.with_ids(piece).columns, strict=True))
        yield pa.table([columns[name] for name in LISTING.names], schema=LISTING)


def together(chunks: Iterable[Chunk]) -> list[list[Chunk]]:
    """The chunks, in order, with those in one list that are cheaper to read together."""
    return [list(group) for _, group in groupby(chunks, key=lambda chunk: chunk.group)]


def even_runs(rows: int, row_bytes: int, most: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each run of rows of which only the mean size is known; `most` rows at most."""
    step = max(1, min(most, CHUNK_BYTES // max(row_bytes, 1)))
    for first in range(0, rows, step):
        yield first, min(step, rows - first)
