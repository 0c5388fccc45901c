"""Annotations brought back: from the file of a tool to a table of labels for the next run."""

import csv
import io
from pathlib import Path

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.data.annotations import read_annotations
from elfs_ray.errors import UsageError, one_line
from elfs_ray.exports.matching import Matched, match
from elfs_ray.exports.records import EXPORTS, ExportRecord, read_records


def write_labels(
    store: RunFolder,
    annotations: str | Path,
    out: str | Path,
    *,
    question: str | None = None,
    export: str | None = None,
    prefix: str = "",
    strict: bool = False,
) -> Matched:
    """Write a CSV file with the columns sample_id and label, from what annotators did with an export.

    Pictures are known again by exactly the names that the export gave them; what is ambiguous is refused.

    Args:
        store: the run folder.
        annotations: file that the tool exported, or folder of class folders.
        out: CSV file to write.
        question: the control, field or column whose answers are the labels; None: the one that was exported.
        export: name of the export that it is of, for names that several exports gave.
        prefix: what the tool has put before the path of each image below the input, such as a folder of its own.
        strict: refuse if any exported image has no label, or any picture is unknown.

    Returns:
        The labels, and what has none.

    Raises:
        UsageError: annotations that cannot be read, or whose pictures are ambiguous or all unknown; an `out` that
            cannot be written.
    """
    out = Path(out).expanduser().resolve()
    if out.is_dir():
        raise UsageError(f"{out} is a folder; pass the CSV file to write as --out")
    found = read_annotations(annotations)
    matched = match(found, _records(store, export), question=question, prefix=prefix)
    if not matched.labels:
        raise UsageError(f"{matched.summary(f'annotations {annotations}')}; finish some images first")
    if strict and not matched.is_complete:
        raise UsageError(f"{matched.summary(f'annotations {annotations}')}; --strict takes nothing less than all")
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sample_id", "label"])
    writer.writerows(matched.labels.items())
    try:
        RunFolder(str(out.parent)).write_bytes(table.getvalue().encode(), out.name)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({one_line(error)}); choose another --out") from None
    return matched


def _records(store: RunFolder, export: str | None) -> list[ExportRecord]:
    records = read_records(store)
    if not records:
        raise UsageError(
            f"{store.uri} has no record of an export, as earlier versions wrote none; export again: the names are the "
            "same"
        )
    if export is None:
        return records
    wanted = export.removeprefix(f"{EXPORTS}/").removesuffix(".parquet")
    chosen = [record for record in records if record.name == wanted]
    if not chosen:
        raise UsageError(f"{store.uri} has no export {export!r}; it has {', '.join(record.name for record in records)}")
    return chosen
