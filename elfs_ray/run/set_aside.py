"""Setting images aside that a later stage could not read: `samples` without them, and the embeddings of the others.

Indices are dense, so those behind a removed image move up. What is left has the content that ingest would have found
without these images: later stages that rest on the same images stand, the others run again. Nothing is visible before
`samples` is published; a kill before that leaves the run as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Record, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import facts_of, join_contents, samples_content
from elfs_ray.artifacts.table import Part, Table
from elfs_ray.artifacts.writing import write_index, write_part, write_table
from elfs_ray.data.unusable import Unusable, UnusableImagesError, refuse_many
from elfs_ray.stages.context import CHOSEN
from elfs_ray.stages.parts.embed_rows import SAVED, saved_name
from elfs_ray.workers.base import Workers

TASKS_IN_FLIGHT = 16


@dataclass(frozen=True)
class Smaller:
    """Samples without some of them, ready to be published.

    Attributes:
        removed: indices of the samples that go, int64 in ascending order.
        folders: as `RunFolder.publish` takes them.
        record: of the ingest unit, as the manifest shall hold it.
    """

    removed: np.ndarray
    folders: dict[str, str]
    record: Record


def without(
    store: RunFolder,
    workers: Workers,
    work: str,
    found: UnusableImagesError,
    record: Record,
    stage: str,
    max_bad_fraction: float,
) -> Smaller:
    """Write `samples` without the images, and `quarantine` with them, into a work folder.

    Args:
        store: the run folder.
        workers: write the parts.
        work: an empty work folder of the ingest unit.
        found: the images.
        record: of the ingest unit.
        stage: that met them.
        max_bad_fraction: the largest share of the inputs that may be unusable.

    Raises:
        UsageError: too many inputs are unusable now.
    """
    samples, quarantine = (record.unit.artifact(name) for name in ("samples", "quarantine"))
    numbers = record.metrics
    first = found.images[0]
    bad = numbers["quarantined"] + len(found.images)
    refuse_many(bad, numbers["inputs"], (first.sample_id, first.reason), max_bad_fraction)
    removed = np.array([image.index for image in found.images], dtype=np.int64)
    before, given = Table(store, samples), (workers.share(removed), f"{work}/samples")
    numbers_of_parts = ((number,) for number in range(len(before.parts())))
    kept = list(workers.map(_keep_part, numbers_of_parts, before, *given, cpus=1, at_once=TASKS_IN_FLIGHT))
    left = write_index(store, f"{work}/samples", (part for part, _ in kept), before.schema)
    rows = pa.concat_tables([Table(store, quarantine).read(), _rows_of(before, removed, found.images, stage)])
    write_table(store, f"{work}/quarantine", rows, schema.QUARANTINE)
    changed = replace(
        record,
        content=join_contents(content for _, content in kept),
        rows={samples: left.rows, quarantine: len(rows)},
        metrics={**numbers, "quarantined": bad, **workers.call(facts_of, left)},
    )
    return Smaller(removed, {samples: "samples", quarantine: "quarantine"}, changed)


def _rows_of(samples: Table, removed: np.ndarray, images: Sequence[Unusable], stage: str) -> pa.Table:
    """Rows of `quarantine` for samples."""
    found = samples.take(removed, ["index", "sample_id", "uri"])
    reasons = {image.index: image.reason for image in images}
    told = pa.array([reasons[index] for index in found["index"].to_pylist()], pa.string())
    table = found.append_column("reason", told).append_column("stage", pa.array([stage] * len(found), pa.string()))
    return table.select(schema.QUARANTINE.names).cast(schema.QUARANTINE)


def _keep_part(samples: Table, removed: np.ndarray, target: str, number: int) -> tuple[Part, int]:
    """Write the samples of one part that stay, if only none; returns the part and its content, as ingest says it."""
    part = samples.parts()[number]
    kept = _renumbered(samples.read(part.first, part.first + part.rows), removed)
    first = part.first - int(np.searchsorted(removed, part.first))
    return write_part(samples.store, target, number, first, kept, samples.schema), samples_content(kept)


def carry_embeddings(
    store: RunFolder,
    workers: Workers,
    unit: Unit,
    record: Record | None,
    old_work: str,
    new_work: str,
    removed: np.ndarray,
) -> None:
    """Bring finished embeddings of the samples that stay, saved or published, into the work folder of another unit.

    Args:
        store: the run folder.
        workers: write the files.
        unit: that embeds them.
        record: of it, if it is finished.
        old_work: the work folder in which they may be; else they are published.
        new_work: where embed looks for finished rows.
        removed: indices of the samples that go, int64 in ascending order; empty: none.
    """
    if store.exists(old_work):
        chosen = store.read_json(old_work, CHOSEN) if store.exists(old_work, CHOSEN) else None
        folder, names = f"{old_work}/{SAVED}", store.names(old_work, SAVED)
    elif record is not None:
        folder = unit.artifact("embeddings")
        chosen, names = record.chosen, [part.name for part in Table(store, folder).parts()]
    else:
        return
    if chosen is not None:
        store.write_json(chosen, new_work, CHOSEN)
    given, files = (store, workers.share(removed), f"{new_work}/{SAVED}"), ((folder, name) for name in names)
    for _ in workers.map(_carry_file, files, *given, cpus=0.5, at_once=TASKS_IN_FLIGHT):
        pass


def _carry_file(store: RunFolder, removed: np.ndarray, target: str, folder: str, name: str) -> None:
    """Save the embeddings of one file under the indices that their samples have now."""
    kept = _renumbered(store.read_table(folder, name), removed)
    if len(kept):
        store.write_table(kept, kept.schema, target, saved_name(kept["index"].to_numpy()))


def _renumbered(table: pa.Table, removed: np.ndarray) -> pa.Table:
    """The rows that stay, those behind a removed one moved up."""
    index = table["index"].to_numpy()
    kept = table.filter(pa.array(~np.isin(index, removed)))
    stays = kept["index"].to_numpy()
    moved = pa.array(stays - np.searchsorted(removed, stays))
    return kept.set_column(kept.schema.get_field_index("index"), kept.schema.field("index"), moved)
