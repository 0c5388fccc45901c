"""Coresets as one table."""

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


def write_csv(coreset: Coreset, folder: Path) -> list[Exported]:
    """`coreset.csv` with a header line."""
    table, exported = _table(coreset, folder)
    pacsv.write_csv(table, folder / "coreset.csv")
    return exported


def write_parquet(coreset: Coreset, folder: Path) -> list[Exported]:
    """`coreset.parquet`."""
    table, exported = _table(coreset, folder)
    pq.write_table(table, folder / "coreset.parquet")
    return exported


def write_jsonl(coreset: Coreset, folder: Path) -> list[Exported]:
    """`coreset.jsonl`, an object on each line."""
    table, exported = _table(coreset, folder)
    table.to_pandas().to_json(folder / "coreset.jsonl", orient="records", lines=True)
    return exported


def _table(coreset: Coreset, folder: Path) -> tuple[pa.Table, list[Exported]]:
    exported = coreset.exported(folder)
    rows = [
        {**{name: getattr(sample, name) for name in SCHEMA.names}, "uri": one.place}
        for sample, one in zip(coreset.samples, exported, strict=True)
    ]
    return pa.Table.from_pylist(rows, SCHEMA), exported
