"""Setting images aside that a later stage could not read: `samples` without them, and the embeddings of the others.

Indices are dense, so those behind a removed image move up. What is left has the content that ingest would have found
without these images: later stages that rest on the same images stand, the others run again. Nothing is visible before
`samples` is published; a kill before that leaves the run as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import join_contents, part_name, samples_content
from elfs_ray.data.unusable import Unusable, UnusableImagesError, refuse_many
from elfs_ray.stages.parts.embed_rows import SAVED, saved_name
from elfs_ray.stages.stage import CHOSEN
from elfs_ray.workers.base import Workers

TASKS_IN_FLIGHT = 16


@dataclass(frozen=True)
class Smaller:
    """Samples without some of them, ready to be published.

    Attributes:
        removed: indices of the samples that go, int64 in ascending order.
        artifacts: as `RunFolder.publish` takes them.
        record: of the ingest unit, as the manifest shall hold it.
    """

    removed: np.ndarray
    artifacts: dict[str, str]
    record: dict[str, Any]


def without(
    store: RunFolder,
    workers: Workers,
    work: str,
    found: UnusableImagesError,
    record: dict[str, Any],
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
    samples, quarantine = (found.prefix + name for name in ("samples", "quarantine"))
    numbers = record["metrics"]
    first = found.images[0]
    bad = numbers["quarantined"] + len(found.images)
    refuse_many(bad, numbers["inputs"], (first.sample_id, first.reason), max_bad_fraction)
    removed = np.array([image.index for image in found.images], dtype=np.int64)
    parts = ((path, part_name(number)) for number, path in enumerate(store.part_paths(samples)))
    given = store, workers.share(removed), f"{work}/samples"
    kept = [part for part in workers.map(_keep_part, parts, *given, cpus=0.5, at_once=TASKS_IN_FLIGHT) if part]
    rows = pa.concat_tables([store.read_table(quarantine), _rows_of(store, samples, found.images, stage)])
    store.write_table(rows, schema.QUARANTINE, work, "quarantine", part_name(0))
    changed = {
        **record,
        "content": join_contents(content for _, content in kept),
        "rows": {samples: sum(count for count, _ in kept), quarantine: len(rows)},
        "metrics": {**numbers, "samples": sum(count for count, _ in kept), "quarantined": bad},
    }
    return Smaller(removed, {samples: "samples", quarantine: "quarantine"}, changed)


def _rows_of(store: RunFolder, samples: str, images: Sequence[Unusable], stage: str) -> pa.Table:
    """Rows of `quarantine` for samples."""
    indices = pa.array([image.index for image in images])
    found = store.read_table(samples, columns=["index", "sample_id", "uri"], rows=pc.field("index").isin(indices))
    reasons = {image.index: image.reason for image in images}
    told = pa.array([reasons[index] for index in found["index"].to_pylist()], pa.string())
    table = found.append_column("reason", told).append_column("stage", pa.array([stage] * len(found), pa.string()))
    return table.select(schema.QUARANTINE.names).cast(schema.QUARANTINE)


def _keep_part(store: RunFolder, removed: np.ndarray, target: str, path: str, name: str) -> tuple[int, int] | None:
    """Write the samples of one part that stay; returns how many and their content, as ingest says it."""
    kept = _renumbered(pq.read_table(path, filesystem=store.filesystem), removed)
    if not len(kept):
        return None
    store.write_table(kept, kept.schema, target, name)
    return len(kept), samples_content(kept)


def carry_embeddings(
    store: RunFolder, workers: Workers, prefix: str, old_work: str, new_work: str, removed: np.ndarray
) -> None:
    """Bring finished embeddings of the samples that stay, saved or published, into the work folder of another step.

    Args:
        store: the run folder.
        workers: write the files.
        prefix: `test/` for those of separate test images.
        old_work: the work folder in which they may be; else they are published.
        new_work: where embed looks for finished rows.
        removed: indices of the samples that go, int64 in ascending order; empty: none.
    """
    unit = prefix.replace("/", "_") + "embed"
    record = store.record(unit)
    if store.exists(old_work):
        chosen = store.read_json(old_work, CHOSEN) if store.exists(old_work, CHOSEN) else None
        paths = store.part_paths(old_work, SAVED)
    elif record is not None:
        chosen, paths = record["chosen"], store.part_paths(prefix + "embeddings")
    else:
        return
    if chosen is not None:
        store.write_json(chosen, new_work, CHOSEN)
    given = store, workers.share(removed), f"{new_work}/{SAVED}"
    for _ in workers.map(_carry_part, ((path,) for path in paths), *given, cpus=0.5, at_once=TASKS_IN_FLIGHT):
        pass


def _carry_part(store: RunFolder, removed: np.ndarray, target: str, path: str) -> None:
    """Save the embeddings of one file under the indices that their samples have now."""
    kept = _renumbered(pq.read_table(path, filesystem=store.filesystem), removed)
    if len(kept):
        store.write_table(kept, kept.schema, target, saved_name(kept["index"].to_numpy()))


def _renumbered(table: pa.Table, removed: np.ndarray) -> pa.Table:
    """The rows that stay, those behind a removed one moved up."""
    index = table["index"].to_numpy()
    kept = table.filter(pa.array(~np.isin(index, removed)))
    stays = kept["index"].to_numpy()
    moved = pa.array(stays - np.searchsorted(removed, stays))
    return kept.set_column(kept.schema.get_field_index("index"), kept.schema.field("index"), moved)
