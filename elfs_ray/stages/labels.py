"""Labels: bring the true labels into the run folder, apart from everything that selection reads.

Reads: `samples`, `quarantine` and the user's labels. Writes: `labels_true` (label -1 and no class name where a sample
has none). Every label given is of a sample, or is counted and named.
Only evaluation and supervised baselines read the result.
"""

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.data.classes import FOLDER_FORMS, class_key, refuse_look_alikes
from elfs_ray.data.labels import Labels, is_file, match_labels
from elfs_ray.errors import UsageError
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.identity import true_labels
from elfs_ray.stages.parts.listed import listed_source


def run(context: StageContext) -> StageResult:
    """Align the true labels of the run's input (or of the separate test input) with the samples."""
    config = context.config
    spec = true_labels(config, context.unit.prefix)
    location = config.evaluate.test_input if context.of_test_images else config.input
    shared = _share_a_file(config)
    _refuse_folders_of_shards(context, spec)
    keys = context.table("samples").read(columns=KEY)
    others = ("samples", "quarantine") if shared and context.of_test_images else ()
    candidates = [each for name in others for each in Table(context.store, name).column("sample_id").tolist()]
    found = match_labels(
        spec,
        keys["sample_id"].to_pylist(),
        source=lambda: listed_source(context.store, config, context.unit.prefix),
        id_column=config.ingest.id_column,
        quarantined=context.table("quarantine").column("sample_id").tolist(),
        elsewhere=candidates,
    )
    images = f"{config.location} or {config.evaluate.test_input}" if shared else str(location or config.location)
    # A file of candidates and test images is judged when both are known.
    later = shared and not context.of_test_images
    if not (config.allow_unmatched or later):
        found.refuse_unmatched(images)
    for line in found.told(None if later else images):
        context.reporter.line(f"{context.unit}: {line}")
    labels, classes = found.numbers, found.classes
    unknown = _of_unknown_classes(context, found) if context.of_test_images else {}
    names = pa.array(np.array([*classes, None], dtype=object)[labels], pa.string())
    table = keys.append_column("label", pa.array(labels)).append_column("class_name", names)
    context.write("labels_true", table, schema.LABELS_TRUE)
    return StageResult(
        chosen={"labels": spec},
        metrics={"classes": list(classes), "labelled": found.labelled, **found.counts, **unknown},
        content=fingerprint(labels.tolist(), list(classes)),
    )


def _refuse_folders_of_shards(context: StageContext, spec: str) -> None:
    """Refuse folders as classes where ids begin with the name of a tar shard, as they do where keys repeat."""
    if spec not in FOLDER_FORMS:
        return
    samples = context.table("samples").read(0, 1, ["sample_id", "uri"])
    for sample_id, uri in zip(*samples.to_pydict().values(), strict=True):
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


def _of_unknown_classes(context: StageContext, found: Labels) -> dict[str, int]:
    """How many test images have a class that no candidate has, which the evaluation leaves out.

    Raises:
        UsageError: all have, or a class looks like one of the candidates and is another.
    """
    candidates: list[str] = context.records[Unit("labels")].metrics["classes"]
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
        context.reporter.line(
            f"{context.unit}: {count:,} test images are of classes that no candidate has, such as "
            f"{found.classes[unknown[0]]!r}; the evaluation leaves them out"
        )
    return {"of_unknown_classes": count}
