"""Annotations as tools give them back: one reader for each form, all giving the same.

A reader says what stands in a file, and no more. Which sample each picture is, and which label it gets, is decided by
`elfs_ray.exports.matching`, from what the exports wrote down.
"""

import codecs
import io
import json
from pathlib import Path
from typing import Any
from xml.parsers import expat

import pyarrow as pa
import pyarrow.parquet as pq

from elfs_ray.data.annotations.base import EXPORT_KEY, ID_COLUMN, LABEL_CONTROL, Annotations, Answer, Picture
from elfs_ray.data.annotations.class_folders import read_class_folders
from elfs_ray.data.annotations.coco import read_coco
from elfs_ray.data.annotations.cvat import read_cvat
from elfs_ray.data.annotations.fiftyone import read_fiftyone
from elfs_ray.data.annotations.label_studio import read_label_studio
from elfs_ray.data.annotations.tables import read_rows, read_table
from elfs_ray.data.files import existing
from elfs_ray.data.text_tables import read_text_table
from elfs_ray.errors import UsageError, one_line

__all__ = ["EXPORT_KEY", "LABEL_CONTROL", "Annotations", "Answer", "Picture", "read_annotations", "read_content"]

FORMS = (
    "a Label Studio export (JSON), CVAT for images 1.1 (XML), COCO (JSON), samples.json of FiftyOne, a table "
    "(.csv, .tsv, .jsonl, .parquet) or a folder of class folders"
)
_TEXT_TABLES = (".csv", ".tsv")
_LINES = (".jsonl", ".ndjson")
_PARQUET = b"PAR1"
# What reading a file of another form, or a damaged one, leads to.
_WRONG_FORM = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError, StopIteration,
    OSError, pa.ArrowException, expat.ExpatError,
)  # fmt: skip


def read_annotations(path: str | Path) -> Annotations:
    """What stands in a file, or in a folder of class folders.

    Raises:
        UsageError: unreadable, damaged or of no known form.
    """
    path, where = Path(path), str(path)
    try:
        if path.is_dir():
            return read_class_folders(where, path)
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"annotations {path} cannot be read: {one_line(error)}; check the path") from None
    except ValueError as error:
        raise _wrong_form(where, error) from None
    if path.suffix.lower() in _TEXT_TABLES:
        try:
            return read_table(where, read_text_table(f"annotations {path}", *existing(where)))
        except _WRONG_FORM as error:
            raise _wrong_form(where, error) from None
    return read_content(where, data, lines=path.suffix.lower() in _LINES)


def read_content(where: str, data: bytes, *, lines: bool = False) -> Annotations:
    """What stands in the content of a file that is no CSV or TSV.

    Args:
        where: the file, for messages.
        data: its bytes.
        lines: whether it has an object on each line.

    Raises:
        UsageError: damaged or of no known form.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        if lines:
            return read_rows(where, [_row(line) for line in data.split(b"\n") if line.strip()])
        if data.startswith(_PARQUET):
            return read_table(where, _parquet(data))
        if data.lstrip()[:1] == b"<":
            return read_cvat(where, data)
        return _from_json(where, json.loads(data))
    except _WRONG_FORM as error:
        raise _wrong_form(where, error) from None


def _from_json(where: str, content: Any) -> Annotations:
    """Label Studio exports a list of tasks, or of rows with what the tasks hold; COCO and FiftyOne an object."""
    if isinstance(content, list):
        if content and all("data" not in one and ID_COLUMN in one for one in content):
            return read_rows(where, content)
        return read_label_studio(where, content)
    return read_fiftyone(where, content["samples"]) if "samples" in content else read_coco(where, content)


def _row(line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError(f"{found!r:.50} is no object")
    return found


def _parquet(data: bytes) -> pa.Table:
    """Columns that can hold ids, places or labels; pictures themselves are left where they are."""
    file = pq.ParquetFile(io.BytesIO(data))
    kinds = {field.name: field.type for field in file.schema_arrow}
    wanted = [name for name, kind in kinds.items() if not pa.types.is_nested(kind) and not pa.types.is_binary(kind)]
    return file.read(columns=wanted)


def _wrong_form(where: str, error: BaseException) -> UsageError:
    if isinstance(error, UsageError):
        return error
    return UsageError(
        f"annotations {where} are of no known form ({type(error).__name__}: {one_line(error)}); pass {FORMS}"
    )
