"""Coresets as one table."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from elfs_ray.exports.records import Exported
from elfs_ray.exports.rows import Coreset

SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("score", pa.float32()),
        ("pseudo_label", pa.int32()),
        ("labeled", pa.bool_()),
    ]
)


def _write_json_lines(table: pa.Table, path: Path) -> None:
    table.to_pandas().to_json(path, orient="records", lines=True)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "csv": pacsv.write_csv,
    "parquet": pq.write_table,
    "jsonl": _write_json_lines,
}


def write_table(form: str, coreset: Coreset, folder: Path) -> list[Exported]:
    """`coreset.FORM`: with a header line, or an object on each line."""
    exported = coreset.exported(folder)
    rows = [
        {**{name: getattr(sample, name) for name in SCHEMA.names}, "uri": one.place}
        for sample, one in zip(coreset.samples, exported, strict=True)
    ]
    WRITERS[form](pa.Table.from_pylist(rows, SCHEMA), folder / f"coreset.{form}")
    return exported
