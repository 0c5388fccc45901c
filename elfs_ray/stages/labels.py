"""Labels: bring the true labels into the run folder, apart from everything that selection reads.

Reads: `samples`, `quarantine` and the user's labels. Writes: `labels_true` (label -1 and no class name where a sample
has none). Every label given is of a sample, or is counted and named.
Only evaluation and supervised baselines read the result.
"""

import numpy as np

from elfs_ray.artifacts.record import TEST, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import image_ids
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RunConfig
from elfs_ray.data.classes import FOLDER_FORMS, class_key, refuse_look_alikes
from elfs_ray.data.labels import Labels, is_file, match_labels
from elfs_ray.errors import UsageError
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.identity import true_labels
from elfs_ray.stages.parts.listed import listed_source, location_of
from elfs_ray.stages.parts.written_labels import write_labels

LABELS = "labels_true"


def run(context: StageContext) -> StageResult:
    """Align the true labels of the run's input (or of the separate test input) with the samples, in one task."""
    config, unit = context.config, context.unit
    of_candidates = context.records[Unit("labels")].metrics["classes"] if context.of_test_images else None
    lines, result = context.workers.call(
        _bring, context.store, config, unit.prefix, context.work, of_candidates, here=True
    )
    for line in lines:
        context.reporter.line(f"  {line}")
    return result


def _bring(
    store: RunFolder, config: RunConfig, prefix: str, work: str, of_candidates: list[str] | None
) -> tuple[list[str], StageResult]:
    """Write the labels of candidates, or of test images; returns what is told of them, too.

    Args:
        store: the run folder.
        config: of the run.
        prefix: of the images.
        work: the work folder.
        of_candidates: their classes, where the labels are those of test images.
    """
    spec, location = true_labels(config, prefix), location_of(config, prefix)
    shared, samples = _share_a_file(config), Table(store, Unit("ingest", prefix).artifact("samples"))
    _refuse_folders_of_shards(samples, spec)
    others = ("samples", "quarantine") if shared and prefix == TEST else ()
    found = match_labels(
        spec,
        image_ids(samples),
        source=lambda: listed_source(store, config, prefix),
        id_column=config.ingest.id_column,
        quarantined=image_ids(Table(store, Unit("ingest", prefix).artifact("quarantine"))),
        elsewhere=image_ids(*(Table(store, name) for name in others)),
    )
    images = f"{config.location} or {config.evaluate.test_input}" if shared else str(location or config.location)
    # A file of candidates and test images is judged when both are known.
    later = shared and prefix != TEST
    if not (config.allow_unmatched or later):
        found.refuse_unmatched(images)
    lines = found.told(None if later else images)
    unknown = {} if of_candidates is None else {"of_unknown_classes": _of_unknown_classes(found, of_candidates, lines)}
    content = write_labels(found, samples, f"{work}/{LABELS}")
    metrics = {"classes": found.classes, "labelled": found.labelled, **found.counts, **unknown}
    return lines, StageResult({"labels": spec}, metrics, content)


def _refuse_folders_of_shards(samples: Table, spec: str) -> None:
    """Refuse folders as classes where ids begin with the name of a tar shard, as they do where keys repeat."""
    if spec not in FOLDER_FORMS:
        return
    for sample_id, uri in zip(*samples.read(0, 1, ["sample_id", "uri"]).to_pydict().values(), strict=True):
        _, shard, key = uri.partition(".tar#")
        if shard and sample_id != key:
            raise UsageError(
                f"labels {spec!r}: the id {sample_id!r} begins with the name of a tar shard, which is no class; pass "
                "'column:cls', or a file of labels"
            )


def _share_a_file(config: RunConfig) -> bool:
    """Whether one file has the labels of the candidates and of the separate test images."""
    options = config.evaluate
    if options.test_input is None or options.labels is None or not is_file(options.labels):
        return False
    return options.test_labels in (None, options.labels)


def _of_unknown_classes(found: Labels, candidates: list[str], lines: list[str]) -> int:
    """How many test images have a class that no candidate has, which the evaluation leaves out; adds a line on them.

    Raises:
        UsageError: all have, or a class looks like one of the candidates and is another.
    """
    refuse_look_alikes([*candidates, *found.classes], f"{found.spec} and the labels of the candidates")
    known = {class_key(name) for name in candidates}
    unknown = [number for number, name in enumerate(found.classes) if class_key(name) not in known]
    if len(unknown) == len(found.classes):
        raise UsageError(
            f"{found.spec} gives test images classes like {found.classes[0]!r}, and the candidates have classes like "
            f"{candidates[0]!r}: none is of both; name them the same"
        )
    count = int(np.isin(found.numbers, unknown).sum())
    if count:
        lines.append(
            f"{count:,} test images are of classes that no candidate has, such as {found.classes[unknown[0]]!r}; the "
            "evaluation leaves them out"
        )
    return count
