"""Coresets as one table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

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


def write_csv(coreset: Coreset, folder: Path) -> None:
    """`coreset.csv` with a header line."""
    pacsv.write_csv(_table(coreset, folder), folder / "coreset.csv")


def write_parquet(coreset: Coreset, folder: Path) -> None:
    """`coreset.parquet`."""
    pq.write_table(_table(coreset, folder), folder / "coreset.parquet")


def write_jsonl(coreset: Coreset, folder: Path) -> None:
    """`coreset.jsonl`, an object on each line."""
    _table(coreset, folder).to_pandas().to_json(folder / "coreset.jsonl", orient="records", lines=True)


def _table(coreset: Coreset, folder: Path) -> pa.Table:
    rows = [
        {**{name: getattr(sample, name) for name in SCHEMA.names}, "uri": place}
        for sample, place in coreset.places(folder)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)
