"""What all sources of images share: chunks, the table that a chunk is read into, and reading files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import beside, is_text
from elfs_ray.data.files import map_files, read_uri
from elfs_ray.data.sources.found import Found
from elfs_ray.errors import RunError, UsageError, one_line

CHUNK_BYTES = 64 * 2**20
"""A chunk of large images holds fewer of them: all are in memory at once."""
FILES_IN_A_CHUNK = 256
"""... of files that a table names: nothing says how large they are."""

T = TypeVar("T")
Encoded = tuple[bytes | None, str | None]
"""The bytes of an image, or why there are none."""


@dataclass(frozen=True)
class Chunk:
    """A run of inputs that is read at once.

    Attributes:
        number: of the chunk, from 0.
        first: position of its first input.
        rows: inputs in it.
        paths: the files (folder), or the one table, archive or Arrow file.
        row_group: Parquet: which row group; Arrow: which record batch.
        offset: Parquet, Arrow: first row within it.
    """

    number: int
    first: int
    rows: int
    paths: tuple[str, ...]
    row_group: int = 0
    offset: int = 0


class Source(ABC):
    """A listed source of images.

    Attributes:
        kind: a word for it.
        location: as the user named it.
        count: inputs.
        carries_bytes: whether images have no files of their own, so that the run folder keeps their bytes.
        has_images: False for embeddings alone.
        chunks: of all inputs, in order.
        found: what is read of the location and what is passed over.
    """

    kind: str
    location: str
    count: int
    carries_bytes: bool
    has_images = True
    chunks: list[Chunk]
    found: Found

    @abstractmethod
    def signature(self) -> str:
        """Hash of the names, sizes and times of the files: changes when the inputs change."""

    @abstractmethod
    def read(self, chunk: Chunk) -> pa.Table:
        """Position int64, sample_id, uri, image (encoded bytes) and error (null, or why there are no bytes)."""

    def columns(self) -> list[str] | None:
        """What labels may be read from by `read_column`; None where only reading everything tells."""
        return []

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """Ids of all inputs, and what a column says of them as text, null where nothing.

        Raises:
            UsageError: there is no such column.
        """
        raise UsageError(f"{self.location} has no column {name!r}; pass a file of labels, or `folders`")

    def ids(self) -> Iterator[str]:
        """Of the inputs, as far as they are known without reading anything."""
        return iter(())

    def groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """The chunks, in order, with those together that are cheaper to read together."""
        return [[chunk] for chunk in chunks]

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk of a group, one in memory at a time."""
        return map(self.read, chunks)


def runs(sizes: Iterable[int], most: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each run of at most `most` rows and, unless of one row, `CHUNK_BYTES` bytes."""
    first, held, position = 0, 0, 0
    for position, size in enumerate(sizes):
        if position - first == most or (position > first and held + size > CHUNK_BYTES):
            yield first, position - first
            first, held = position, 0
        held += size
    yield first, position + 1 - first


def even_runs(rows: int, row_bytes: int, most: int) -> Iterator[tuple[int, int]]:
    """The same for rows of which only the mean size is known."""
    step = max(1, min(most, CHUNK_BYTES // max(row_bytes, 1)))
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


def read_files(uris: Sequence[str], location: str) -> list[Encoded]:
    """Bytes of each file, or why there are none; raises as `attempt`."""

    def read(uri: str) -> Encoded:
        if not uri:
            return None, "the row names no file"
        return attempt(lambda: read_uri(uri, location), uri)

    return list(map_files(read, location, uris))


def attempt(read: Callable[[], T], name: str) -> tuple[T | None, str | None]:
    """What a call reads or opens, or why it does not.

    Raises:
        RunError: the store does not answer; that says nothing of the images.
    """
    try:
        return read(), None
    except OSError as error:
        if filesystems.is_outage(error):
            raise RunError(
                f"{name} cannot be read now ({filesystems.reason(error)}); "
                "run the same command again to go on from here"
            ) from None
        return None, f"the file cannot be read: {filesystems.reason(error)}"
    except (ValueError, pa.ArrowInvalid) as error:  # such as a path that cannot be one
        return None, f"the file cannot be read: {one_line(error)}"


def read_cells(column: pa.ChunkedArray | pa.Array, table: str, location: str) -> tuple[list[str | None], list[Encoded]]:
    """The images of a column of bytes, of paths, or of structs of both, as Hugging Face writes them.

    Args:
        column: a value for each image.
        table: path of the table that holds it.
        location: the input.

    Returns:
        Places of the images that are files, None for those in the table; and their bytes. Bytes in the table come
        before a path.
    """
    if is_text(column.type):
        uris = [beside(table, location, text) for text in column.to_pylist()]
        return list(uris), read_files(uris, location)
    nothing, held = "the image is empty (0 bytes)", column
    paths: list[str | None] = [None] * len(column)
    if pa.types.is_struct(column.type):
        nothing, parts = "the row holds neither the bytes of an image nor a path", [one.name for one in column.type]
        paths = pc.struct_field(column, "path").to_pylist() if "path" in parts else paths
        held = pc.struct_field(column, "bytes") if "bytes" in parts else pa.nulls(len(column))
    places, encoded = list[str | None](), list[Encoded]()
    for data, path in zip(held.to_pylist(), paths, strict=True):
        if data or not path:
            empty = "the image is empty (0 bytes)" if data is not None else nothing
            places.append(None)
            encoded.append((data or None, None if data else empty))
        else:
            places.append(beside(table, location, path))
            encoded += read_files([str(places[-1])], location)
    return places, encoded


def table_of(chunk: Chunk, ids: Sequence[str], uris: Sequence[str], encoded: Sequence[Encoded]) -> pa.Table:
    """What `Source.read` gives.

    Raises:
        UsageError: there are more or fewer rows than were listed.
    """
    for rows in (ids, uris, encoded):
        if len(rows) != chunk.rows:
            raise UsageError(
                f"{chunk.paths[0]} gave {len(rows):,} rows where {chunk.rows:,} were listed; it is damaged or has "
                "changed: check it, and run the same command again"
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
