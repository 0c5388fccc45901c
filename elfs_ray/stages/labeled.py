"""Labeled: bring the labels that some images have already into the run folder, where selection reads them.

Reads: `samples`, `quarantine` and the user's labels. Writes: `labels_known` (label -1 and no class name where a sample
has none). Labels of no image are refused before the long stages.
"""

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import image_ids
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RunConfig
from elfs_ray.data.labels import match_labels
from elfs_ray.errors import UsageError
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.listed import listed_source
from elfs_ray.stages.parts.written_labels import write_labels

KNOWN = "labels_known"


def run(context: StageContext) -> StageResult:
    """Align the labels with the samples, in one task."""
    lines, result = context.workers.call(_bring, context.store, context.config, context.work, here=True)
    for line in lines:
        context.reporter.line(f"  {line}")
    return result


def _bring(store: RunFolder, config: RunConfig, work: str) -> tuple[list[str], StageResult]:
    spec, samples = config.select.labeled, Table(store, "samples")
    if spec is None:
        raise UsageError("no labels are there already; pass those of some images with --labeled")
    found = match_labels(
        spec,
        image_ids(samples),
        source=lambda: listed_source(store, config),
        id_column=config.ingest.id_column,
        quarantined=image_ids(Table(store, "quarantine")),
    )
    if not config.allow_unmatched:
        found.refuse_unmatched(config.location)
    content = write_labels(found, samples, f"{work}/{KNOWN}")
    metrics = {"labelled": found.labelled, **found.counts}
    return found.told(config.location), StageResult({"labeled": spec}, metrics, content)
