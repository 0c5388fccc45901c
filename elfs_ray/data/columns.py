"""Which columns of a table hold the images and the ids: those that the user names, else the usual names.

A column is what its values are, in whatever form Arrow holds them: plain, large, as views, or coded by a dictionary.
"""

import difflib
import uuid
from collections import Counter
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts import filesystems
from elfs_ray.errors import UsageError
from elfs_ray.locations import from_file_uri, plain_path, without_dots

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
    """The column of ids: the one asked for, else the first with a usual name; None if there is none.

    Raises:
        UsageError: not the one asked for, or it holds what cannot be ids.
    """
    name = _named(location, schema, asked, "ingest.id_column")
    name = name or next((usual for usual in ID_COLUMNS if usual in schema.names), None)
    if name is None or is_id(schema.field(name).type):
        return name
    kind = schema.field(name).type
    if asked is not None:
        raise UsageError(f"ingest.id_column={asked}: {location} holds {kind} there; ids are text or whole numbers")
    raise UsageError(
        f"{location} holds {kind} in its id column {listed([name])!r}, and ids are text or whole numbers; "
        "write it as text, or name another column with --set ingest.id_column=NAME"
    )


def find_images(location: str, schema: pa.Schema, asked: str | None, *, paths_alone: bool = False) -> str:
    """The column of encoded images, else that of paths.

    Raises:
        UsageError: there is none, or not the one asked for.
    """
    name = _named(location, schema, asked, "ingest.image_column")
    if name is not None:
        kind = schema.field(name).type
        if is_text(kind) or (holds_bytes(kind) and not paths_alone):
            return name
        raise UsageError(
            f"ingest.image_column={name}: {location} holds {kind} there; images are bytes, paths, "
            "or both as {bytes, path}"
        )
    pairs = [] if paths_alone else [(usual, holds_bytes) for usual in BYTES_COLUMNS]
    pairs += [(usual, is_text) for usual in PATH_COLUMNS]
    for usual, fits in pairs:
        if usual in schema.names and fits(schema.field(usual).type):
            return usual
    raise UsageError(
        f"{location} has no column that looks like images (columns: {listed(schema.names)}); "
        "name it with --set ingest.image_column=NAME"
    )


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
    """A column of ids as text, as they are.

    Raises:
        UsageError: some are missing, or are no text.
    """
    if not is_id(column.type):
        raise UsageError(f"{where} holds {column.type}; ids are text or whole numbers: write them as text")
    try:
        ids = as_strings(column)
    except pa.ArrowInvalid:
        ids = None
    if ids is None or (_is_binary(_values(column.type)) and _any(pc.match_substring(ids, "\0"))):
        raise UsageError(f"{where} holds bytes ({column.type}) that are no UTF-8 text; write the ids as text")
    if ids.null_count or _any(pc.equal(ids, "")):
        raise UsageError(f"{where} holds nulls or empty texts; every image needs an id")
    return ids


def as_text(column: pa.ChunkedArray | pa.Array, where: str) -> pa.ChunkedArray | pa.Array:
    """A column of labels as text; null where there is none, as which pandas writes NaN in a column of numbers.

    Raises:
        UsageError: it holds lists or the like.
    """
    try:
        column = _decoded(column)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        return as_strings(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UsageError(f"{where} holds {column.type}; labels are text or numbers") from None


def as_strings(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """The values of a column as text; raises Arrow's errors for what has none."""
    column = _decoded(column)
    if column.type == pa.uuid():  # whose bytes Arrow would take for text
        texts = [None if value is None else str(uuid.UUID(bytes=value)) for value in _storage(column).to_pylist()]
        made = pa.array(texts, pa.string())
        return pa.chunked_array([made]) if isinstance(column, pa.ChunkedArray) else made
    return column.cast(pa.string())


def composed(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Texts in Unicode's composed form (NFC)."""
    is_plain = pc.all(pc.string_is_ascii(texts)).as_py()
    return texts if is_plain else pc.utf8_normalize(texts, "NFC")


def numbered(values: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Values by number, in order of their first row.

    Returns:
        The number of each value, int32 [n], -1 for null; and the first row of each number, int64.
    """
    encoded = values.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    numbers = pc.fill_null(encoded.indices, -1).to_numpy()
    return numbers, np.flatnonzero(np.diff(np.maximum.accumulate(numbers), prepend=-1))


def listed(names: list[str]) -> str:
    """Names of columns, on one line."""
    return ", ".join(" ".join(name.split()) for name in names)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, as paths are."""
    kind = _values(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_id(kind: pa.DataType) -> bool:
    """Whether what a column holds can be ids; of bytes, only their values tell."""
    whole = pa.types.is_integer(_values(kind)) or (pa.types.is_decimal(kind) and kind.scale == 0)
    return is_text(kind) or whole or _is_binary(_values(kind)) or kind == pa.uuid()


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images: bytes, or structs of `bytes`, of a `path`, or of both."""
    if pa.types.is_struct(kind):
        parts = {part.name: part.type for part in kind}
        return _is_binary(_values(parts.get("bytes", pa.null()))) or is_text(parts.get("path", pa.null()))
    return _is_binary(_values(kind))


def beside(table_path: str, location: str, text: str | None) -> str:
    """Where a path in a table leads: it is absolute, a URI, or relative to the table's folder.

    Returns:
        An absolute local path or a URI, without `.` and `..`; of a `file:` URI, the path.
    """
    if not text:
        return ""
    try:
        text = from_file_uri(text)
    except ValueError:
        return text  # which reading refuses
    if "://" in text:
        return _plain_uri(text)
    if text.startswith("/"):
        return plain_path(text)
    path = f"{table_path.rpartition('/')[0]}/{text}"
    if "://" not in location:
        return plain_path(path)
    bucket, slash, key = path.partition("/")
    return filesystems.uri_of(bucket + slash + without_dots(key), location)


def _plain_uri(text: str) -> str:
    place, mark, options = text.partition("?")
    scheme, _, path = place.partition("://")
    bucket, slash, key = path.partition("/")
    if scheme == "s3":  # where `%20` is a space, which may be written as such
        key = unquote(key)
    return f"{filesystems.uri_of(bucket + slash + without_dots(key), f'{scheme}://')}{mark}{options}"


def _named(location: str, schema: pa.Schema, asked: str | None, option: str) -> str | None:
    """The column asked for, which must be there."""
    if asked is not None and asked not in schema.names:
        close = difflib.get_close_matches(asked, schema.names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"columns: {listed(schema.names)}"
        raise UsageError(f"{option}={asked}: {location} has no such column; {hint}")
    return asked


def _decoded(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    return column.cast(_values(column.type)) if pa.types.is_dictionary(column.type) else column


def _values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _storage(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column.storage


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary
    return any(fits(kind) for fits in types)


def _any(found: pa.ChunkedArray | pa.Array) -> bool:
    return bool(pc.any(found).as_py())
