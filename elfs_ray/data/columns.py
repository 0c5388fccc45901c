"""Which columns of a table hold the images and the ids: those that the user names, else the usual names."""

import difflib
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray import storage
from elfs_ray.errors import UsageError

ID_COLUMNS = ("sample_id", "image_id", "id", "filename", "file_name", "path")
BYTES_COLUMNS = ("image", "bytes", "image_bytes", "img", "jpg", "jpeg", "png")
PATH_COLUMNS = ("uri", "path", "image_path", "file", "filename", "file_name", "image")


class Wanted(NamedTuple):
    """What the user says of a table.

    Attributes:
        image_column: with images or paths; None: the first with a usual name.
        id_column: with ids; None: the first with a usual name.
        chunk_rows: at most, of one chunk.
    """

    image_column: str | None
    id_column: str | None
    chunk_rows: int


def find_ids(location: str, schema: pa.Schema, asked: str | None) -> str | None:
    """The column of ids, if there is one.

    Raises:
        UsageError: not the one asked for, or it holds neither text nor whole numbers.
    """
    found = _find(location, schema, asked, "ingest.id_column", ID_COLUMNS, _is_id)
    if asked is not None and found is None:
        kind = schema.field(asked).type
        raise UsageError(f"ingest.id_column={asked}: {location} holds {kind} there; ids are text or whole numbers")
    return found


def find_images(location: str, schema: pa.Schema, asked: str | None, *, paths_alone: bool = False) -> str:
    """The column of encoded images, else that of paths.

    Raises:
        UsageError: there is none, or not the one asked for.
    """
    wanted = None
    if not paths_alone:
        wanted = _find(location, schema, asked, "ingest.image_column", BYTES_COLUMNS, _is_bytes)
    if wanted is None:
        wanted = _find(location, schema, asked, "ingest.image_column", PATH_COLUMNS, is_text)
    if wanted is None:
        raise UsageError(
            f"{location} has no column that looks like images (columns: {listed(schema.names)}); "
            "name it with --set ingest.image_column=NAME"
        )
    return wanted


def check_column(location: str, names: list[str], name: str) -> None:
    """Refuse a column of labels that is not there.

    Raises:
        UsageError: it is not.
    """
    if name not in names:
        raise UsageError(f"{location} has no label column {name!r}; its columns: {listed(names)}")


def refuse_repeated(location: str, names: list[str]) -> None:
    """Refuse columns that have one name.

    Raises:
        UsageError: two have.
    """
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise UsageError(f"{location} has {count} columns called {listed([name])!r}; rename all but one")


def ids_of(column: pa.ChunkedArray | pa.Array, where: str) -> pa.ChunkedArray | pa.Array:
    """A column of ids as text.

    Raises:
        UsageError: some are missing.
    """
    ids = column.cast(pa.string())
    if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
        raise UsageError(f"{where} holds nulls or empty texts; every image needs an id")
    return ids


def as_text(column: pa.ChunkedArray | pa.Array, where: str) -> pa.ChunkedArray | pa.Array:
    """A column of labels as text.

    Raises:
        UsageError: it holds lists or the like.
    """
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UsageError(f"{where} holds {column.type}; labels are text or numbers") from None


def listed(names: list[str]) -> str:
    """Names of columns, on one line."""
    return ", ".join(" ".join(name.split()) for name in names)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, as paths are."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def beside(table_path: str, location: str, text: str | None) -> str:
    """A path in a table: absolute, a URI, or relative to the table's folder."""
    if not text or "://" in text or text.startswith("/"):
        return text or ""
    return storage.uri_of(f"{table_path.rsplit('/', 1)[0]}/{text}", location)


def _find(
    location: str,
    schema: pa.Schema,
    asked: str | None,
    option: str,
    names: tuple[str, ...],
    fits: Callable[[pa.DataType], bool],
) -> str | None:
    """The column asked for, or the first known name of a fitting type."""
    if asked is not None:
        if asked not in schema.names:
            close = difflib.get_close_matches(asked, schema.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"columns: {listed(schema.names)}"
            raise UsageError(f"{option}={asked}: {location} has no such column; {hint}")
        names = (asked,)
    return next((name for name in names if name in schema.names and fits(schema.field(name).type)), None)


def _is_id(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
