"""Tables of text that the user names: CSV, TSV and JSON lines.

A table has as many rows as its file says, counted apart from whatever reads it (`text_lines.scan`), or it is refused.
pyarrow reads what leaves no doubt, fast: CSV and TSV without a quotation mark, JSON with an object on each line. All
else takes the readings of `text_lines` and `json_rows`, which know what each line is.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import refuse_repeated
from elfs_ray.data.json_rows import column_of, parse_objects
from elfs_ray.data.text_lines import (
    AmbiguousError,
    Row,
    TextError,
    header,
    plain_rows,
    quoted_rows,
    read_lines,
    scan,
)
from elfs_ray.errors import UsageError, one_line

MANIFESTS = ("csv", "tsv", "jsonl", "ndjson")
ENDINGS = (*MANIFESTS, "txt", "json")
_BLOCK_BYTES, _HEADER_BLOCK_BYTES = 8 * 2**20, 64 * 2**10
_ROWS_AT_ONCE = 65_536
T = TypeVar("T")


def read_text_table(
    what: str, filesystem: pafs.FileSystem, info: pafs.FileInfo, columns: list[str] | None = None
) -> pa.Table:
    """All columns of a file with one of `ENDINGS`, or some. Those of CSV are text, so that an id 007 stays what it is.

    Args:
        what: the file, for messages.
        filesystem: that holds it.
        info: of the file.
        columns: to read; must be there.

    Raises:
        UsageError: the file is damaged, does not say how many rows it has, or two columns have one name; `OSError`
            where the store does not answer.
    """
    read = partial(_read_json if _is_json(info) else _read_delimited, columns=columns)
    return _reading(what, filesystem, info, read)


def text_table_schema(what: str, filesystem: pafs.FileSystem, info: pafs.FileInfo) -> pa.Schema:
    """The columns of such a file, from its beginning if it is CSV; raises as `read_text_table`."""
    if _is_json(info):
        return _reading(what, filesystem, info, partial(_read_json, columns=None)).schema
    return pa.schema([(name, pa.string()) for name in _reading(what, filesystem, info, _names)])


def _is_json(info: pafs.FileInfo) -> bool:
    return info.extension.lower() in ("jsonl", "ndjson", "json")


def _reading(
    what: str, filesystem: pafs.FileSystem, info: pafs.FileInfo, read: Callable[[str, pa.NativeFile, str], T]
) -> T:
    """What `read` makes of the opened file; what is wrong with the file is one line that names it."""
    try:
        with filesystem.open_input_file(info.path) as file:
            return read(what, file, "\t" if info.extension.lower() == "tsv" else ",")
    except TextError as error:
        raise UsageError(f"{what} cannot be read: {error}") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and filesystems.is_outage(error):
            raise
        told = filesystems.reason(error) if isinstance(error, OSError) else one_line(error)
        raise UsageError(f"{what} cannot be read: {told}") from None


def _blocks(file: pa.NativeFile, size: int = _BLOCK_BYTES) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(size):
        yield block


def _names(what: str, file: pa.NativeFile, delimiter: str) -> list[str]:
    names = header(_blocks(file, _HEADER_BLOCK_BYTES), delimiter)
    refuse_repeated(what, names)
    return names


def _read_delimited(what: str, file: pa.NativeFile, delimiter: str, columns: list[str] | None) -> pa.Table:
    names = _names(what, file, delimiter)
    wanted = names if columns is None else columns
    found = scan(_blocks(file))
    if not found.quoted:
        table = _without_quotes(file, delimiter, names, wanted)
        if table is not None and table.num_rows == found.lines - 1:
            return table
    width = len(names)
    plain = partial(plain_rows, delimiter=delimiter, width=width, quotes_first=delimiter == ",")
    quoted = partial(quoted_rows, delimiter=delimiter, width=width, newline=found.newline)
    # A line of TSV is a row, unless that cannot be: most programs that write it know no quotation marks.
    readings: list[Callable[[Iterable[str]], Iterator[Row]]]
    readings = [plain, quoted] if delimiter == "\t" and width > 1 else [quoted, plain]
    errors: list[TextError] = []
    for reading in readings:
        try:
            table, lines = _collect(reading(read_lines(_blocks(file), found.newline)), names, wanted)
        except AmbiguousError:
            raise
        except TextError as error:
            errors.append(error)
            continue
        if lines != found.lines - 1:
            raise TextError(f"{lines:,} of its {found.lines - 1:,} lines were read; it may have changed: try again")
        return table
    raise errors[0]


def _without_quotes(file: pa.NativeFile, delimiter: str, names: list[str], wanted: list[str]) -> pa.Table | None:
    """The rows of a file without quotation marks; None where pyarrow does not see why some line is a row."""
    file.seek(0)
    types = {name: pa.string() for name in names}
    try:
        return pacsv.read_csv(
            file,
            parse_options=pacsv.ParseOptions(delimiter=delimiter, quote_char=False, newlines_in_values=False),
            convert_options=pacsv.ConvertOptions(column_types=types, include_columns=wanted),
        )
    except pa.ArrowException:
        return None


def _collect(rows: Iterable[Row], names: list[str], wanted: list[str]) -> tuple[pa.Table, int]:
    """The wanted columns of all rows, and how many lines these took."""
    schema = pa.schema([(name, pa.string()) for name in wanted])
    positions = [names.index(name) for name in wanted]
    batches, lines, remaining = [], 0, iter(rows)
    while some := list(islice(remaining, _ROWS_AT_ONCE)):
        lines += sum(row.lines for row in some)
        arrays = [pa.array([row.fields[at] for row in some], pa.string()) for at in positions]
        batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema), lines


def _read_json(what: str, file: pa.NativeFile, _: str, columns: list[str] | None) -> pa.Table:
    lines = scan(_blocks(file)).lines
    table = _one_object_a_line(file)
    if table is None or table.num_rows != lines:
        rows = parse_objects(b"".join(_blocks(file)).decode("utf-8-sig"))
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.table({name: column_of(name, [row.get(name) for row in rows]) for name in names})
    refuse_repeated(what, table.column_names)
    return table if columns is None else table.select(columns)


def _one_object_a_line(file: pa.NativeFile) -> pa.Table | None:
    """What pyarrow reads; None where it cannot."""
    try:
        file.seek(0)
        table = pajson.read_json(file)
        # What looks like a time, such as an id 2024-01-01, is text.
        times = [(field.name, pa.string()) for field in table.schema if pa.types.is_temporal(field.type)]
        if times:
            file.seek(0)
            table = pajson.read_json(file, parse_options=pajson.ParseOptions(explicit_schema=pa.schema(times)))
        table.validate(full=True)  # that texts are UTF-8, which the reader does not
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    return table
