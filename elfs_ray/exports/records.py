"""What an export called its samples, kept in the run folder: `exports/NAME.parquet`, one file for each export.

The key of an export is a hash of what it called them, so that the same export again replaces its record and another
one stands beside it. It travels with the samples where a tool has room for it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.schema import EXPORT
from elfs_ray.errors import RunError, UsageError, one_line

EXPORTS = "exports"
_METADATA = b"elfs_ray"


@dataclass(frozen=True)
class Exported:
    """One sample of an export.

    Attributes:
        name: path below the folder of all images, or the name that the format gives the picture.
        place: path or URL of the picture, as written; None where it has none of its own.
        id: COCO's of the image, CVAT's number of the frame.
    """

    sample_id: str
    index: int
    name: str
    place: str | None = None
    id: int | None = None

    @property
    def file_name(self) -> str:
        """Without folders."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class ExportRecord:
    """What one export wrote.

    Attributes:
        name: of the record.
        key: of the export.
        form: its format.
        coreset: METHOD/BUDGET.
        question: name of what annotators are asked, where the format has one.
        out: folder that was written.
        when: time in UTC.
        samples: all of the export.
    """

    name: str
    key: str
    form: str
    coreset: str
    question: str | None
    out: str
    when: str
    samples: tuple[Exported, ...]


def export_key(form: str, coreset: str, samples: Sequence[Exported]) -> str:
    """The key of an export: the same for the same samples under the same names."""
    content = json.dumps([form, coreset, *map(astuple, samples)]).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def write_record(
    store: RunFolder, form: str, coreset: str, question: str | None, out: Path, samples: Sequence[Exported]
) -> str:
    """Write the record of an export, whole or not at all; returns its name.

    Raises:
        UsageError: the run folder cannot be written to; `RunError` where its store does not answer.
    """
    key = export_key(form, coreset, samples)
    name = f"{form}-{coreset.replace('/', '-')}-{key}"
    described = {
        "key": key,
        "format": form,
        "coreset": coreset,
        "question": question,
        "out": str(out),
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    rows = [{**asdict(one), "file_name": one.file_name} for one in samples]
    layout = EXPORT.with_metadata({_METADATA: json.dumps(described)})
    try:
        store.write_table(pa.Table.from_pylist(rows, EXPORT), layout, EXPORTS, f"{name}.parquet")
    except OSError as error:
        if filesystems.is_outage(error):
            raise RunError(
                f"{store.uri} does not answer ({filesystems.reason(error)}); export again when it does"
            ) from None
        raise UsageError(
            f"{store.uri} cannot be written to ({filesystems.reason(error)}), and keeps what an export called its "
            "images; make it writable, or export from a copy"
        ) from None
    return name


def read_records(store: RunFolder) -> list[ExportRecord]:
    """Of all exports of a run folder, the oldest first.

    Raises:
        UsageError: one is damaged.
    """
    names = [name.removesuffix(".parquet") for name in store.names(EXPORTS) if name.endswith(".parquet")]
    return sorted((_read(store, name) for name in names), key=lambda record: (record.when, record.name))


def _read(store: RunFolder, name: str) -> ExportRecord:
    try:
        table = store.read_table(EXPORTS, f"{name}.parquet")
        described = json.loads(table.schema.metadata[_METADATA])
        rows = table.select([field.name for field in fields(Exported)]).to_pylist()
        samples = tuple(Exported(**row) for row in rows)
        return ExportRecord(name=name, form=described.pop("format"), samples=samples, **described)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and filesystems.is_outage(error):
            raise RunError(
                f"{store.uri} does not answer ({filesystems.reason(error)}); import again when it does"
            ) from None
        raise UsageError(
            f"{store.location(EXPORTS, f'{name}.parquet')} is damaged ({one_line(error)}); remove it, and export again"
        ) from None
