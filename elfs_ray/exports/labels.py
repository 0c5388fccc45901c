"""Annotations brought back: from the file of a tool to a table of labels for the next run."""

import csv
import io
from collections.abc import Container
from pathlib import Path
from urllib.parse import unquote

from elfs_ray.data.annotations import read_annotations
from elfs_ray.exports.rows import coreset_names
from elfs_ray.store import Store


def write_labels(store: Store, annotations: str | Path, out: str | Path) -> int:
    """Write a CSV file with the columns sample_id and label; returns how many there are.

    Pictures are known again by their sample id, where the tool gives it back, or by the end of their path or URL.

    Raises:
        UsageError: annotations that cannot be read, or that are of other images.
    """
    ids = {sample_id for name in coreset_names(store) for sample_id in _sample_ids(store, name)}
    labels = read_annotations(annotations, lambda name: _sample_id(name, ids))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sample_id", "label"])
    writer.writerows(labels.items())
    Store(str(Path(out).parent)).write_bytes(table.getvalue().encode(), Path(out).name)
    return len(labels)


def _sample_ids(store: Store, name: str) -> list[str]:
    ids: list[str] = store.read_table(f"coresets/{name}", columns=["sample_id"])["sample_id"].to_pylist()
    return ids


def _sample_id(name: str, ids: Container[str]) -> str | None:
    """The sample that a picture's name, path or URL ends with; exports of tables have added an ending."""
    parts = unquote(name).split("/")
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        for found in (end, end.rpartition(".")[0]):
            if found in ids:
                return found
    return None
