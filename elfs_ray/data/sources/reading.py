"""Reading the images that files, or the columns of tables, hold: their bytes, or why there are none."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import beside, is_text
from elfs_ray.data.files import map_files, read_uri
from elfs_ray.errors import RunError, one_line

T = TypeVar("T")
Encoded = tuple[bytes | None, str | None]
"""The bytes of an image, or why there are none."""


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
