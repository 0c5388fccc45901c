"""Tables with a column `sample_id` and one of labels: what the table exports become, or a tool's own table."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from elfs_ray.data.annotations.base import EXPORT_KEY, ID_COLUMN, NO_ANSWER, Annotations, Answer, Picture, chosen
from elfs_ray.data.columns import listed, refuse_repeated
from elfs_ray.errors import UsageError

PLACE_COLUMNS = ("uri", "image", "filepath")
"""One that names the picture; it must then be the one with the id."""
_NO_LABELS = frozenset((ID_COLUMN, EXPORT_KEY, *PLACE_COLUMNS))
_CHOICES = '{"choices":'


def read_rows(where: str, rows: Iterable[Mapping[str, Any]]) -> Annotations:
    """The questions are the columns; each row is an answer, so that several annotators may have one each.

    Raises:
        UsageError: there is no column `sample_id`.
    """
    pictures, columns, with_id = list[Picture](), dict[str, None](), False
    for number, row in enumerate(rows, start=1):
        columns.update(dict.fromkeys(row))
        with_id = with_id or ID_COLUMN in row
        pictures.append(_picture(row, number))
    if pictures and not with_id:
        raise UsageError(
            f"annotations {where} have no column {ID_COLUMN!r}; their columns: {listed(list(map(str, columns)))}; "
            "keep that of the export"
        )
    return Annotations(where, "table", tuple(pictures))


def read_table(where: str, table: pa.Table) -> Annotations:
    """The same, from an Arrow table."""
    refuse_repeated(where, table.column_names)
    if ID_COLUMN not in table.column_names and not table.num_rows:
        raise UsageError(f"annotations {where} have no column {ID_COLUMN!r} and no rows; keep those of the export")
    return read_rows(where, table.to_pylist())


def _picture(row: Mapping[str, Any], number: int) -> Picture:
    place = next((row[name] for name in PLACE_COLUMNS if isinstance(row.get(name), str)), None)
    labels = ((name, _labels(value)) for name, value in row.items() if name not in _NO_LABELS)
    answer = Answer({name: found for name, found in labels if found})
    return Picture.of_row(row, place, f"row {number}", answer if answer.given else NO_ANSWER)


def _labels(value: Any) -> tuple[str, ...]:
    """Of one cell: Label Studio's own tables write several choices as an object, in CSV as the text of one."""
    if isinstance(value, str) and value.startswith(_CHOICES):
        value = json.loads(value)
    if isinstance(value, dict):
        value = value.get("choices")
    if isinstance(value, list):
        return chosen([one for one in value if isinstance(one, str)])
    if isinstance(value, float):  # pandas makes whole numbers fractions where some are missing
        if math.isnan(value):
            return ()
        value = int(value) if value.is_integer() else str(value)
    if isinstance(value, bool):
        return (str(value),)
    return chosen([value]) if isinstance(value, (str, int)) else ()
