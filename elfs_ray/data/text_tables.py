"""Tables of text that the user names: CSV, TSV and JSON lines."""

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson

from elfs_ray import storage
from elfs_ray.data.columns import refuse_repeated
from elfs_ray.errors import UsageError, one_line

MANIFESTS = ("csv", "tsv", "jsonl", "ndjson")
ENDINGS = (*MANIFESTS, "txt", "json")


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
        UsageError: the file is damaged, or two columns have one name; `OSError` where the store does not answer.
    """
    return _read(what, filesystem, info, columns, schema_alone=False)


def text_table_schema(what: str, filesystem: pafs.FileSystem, info: pafs.FileInfo) -> pa.Schema:
    """The columns of such a file, from its beginning if it is CSV; raises as `read_text_table`."""
    return _read(what, filesystem, info, None, schema_alone=True).schema


def _read(
    what: str, filesystem: pafs.FileSystem, info: pafs.FileInfo, columns: list[str] | None, *, schema_alone: bool
) -> pa.Table:
    try:
        with filesystem.open_input_file(info.path) as file:
            if info.extension.lower() in ("jsonl", "ndjson", "json"):
                return _read_json(what, file, columns)
            return _read_csv(what, file, "\t" if info.extension.lower() == "tsv" else ",", columns, schema_alone)
    except UnicodeDecodeError:
        raise UsageError(f"{what} cannot be read: it is not UTF-8 text; save it as such") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and storage.is_outage(error):
            raise
        told = storage.reason(error) if isinstance(error, OSError) else one_line(error)
        raise UsageError(f"{what} cannot be read: {told}") from None


def _read_csv(
    what: str, file: pa.NativeFile, delimiter: str, columns: list[str] | None, schema_alone: bool
) -> pa.Table:
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    names = pacsv.open_csv(file, parse_options=parse).schema.names
    refuse_repeated(what, names)
    as_text = pa.schema([(name, pa.string()) for name in names])
    if schema_alone:
        return as_text.empty_table()
    file.seek(0)
    convert = pacsv.ConvertOptions(column_types=as_text, include_columns=columns)
    return pacsv.read_csv(file, parse_options=parse, convert_options=convert)


def _read_json(what: str, file: pa.NativeFile, columns: list[str] | None) -> pa.Table:
    table = pajson.read_json(file)
    # What looks like a time, such as an id 2024-01-01, is text.
    times = [(field.name, pa.string()) for field in table.schema if pa.types.is_temporal(field.type)]
    if times:
        file.seek(0)
        table = pajson.read_json(file, parse_options=pajson.ParseOptions(explicit_schema=pa.schema(times)))
    refuse_repeated(what, table.column_names)
    table.validate(full=True)  # that texts are UTF-8, which the reader does not
    return table if columns is None else table.select(columns)
