"""Labels: bring the true labels into the run folder, apart from everything that selection reads.

Reads: `samples` and the user's labels. Writes: `labels_true` (label -1 and no class name where a sample has none).
Only evaluation and supervised baselines read the result.
"""

import numpy as np
import pyarrow as pa

from elfs_ray import schema
from elfs_ray.config import fingerprint
from elfs_ray.data.labels import read_labels
from elfs_ray.data.sources import open_input
from elfs_ray.engine.artifacts import part_name, read_keys
from elfs_ray.engine.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Align the true labels of the run's input (or of the separate test input) with the samples."""
    config = context.config
    spec, location = config.evaluate.labels, config.input
    if context.prefix:
        spec, location = config.evaluate.test_labels or spec, config.evaluate.test_input
    keys = read_keys(context.store, context.artifact("samples"))
    labels, classes = read_labels(
        str(spec),
        keys["sample_id"].to_pylist(),
        source=lambda: open_input(config, location),
        id_column=config.ingest.id_column,
    )
    names = pa.array(np.array([*classes, None], dtype=object)[labels], pa.string())
    table = keys.append_column("label", pa.array(labels)).append_column("class_name", names)
    context.store.write_table(table, schema.LABELS_TRUE, context.work, "labels_true", part_name(0))
    return StageResult(
        artifacts={context.artifact("labels_true"): "labels_true"},
        chosen={"labels": spec},
        metrics={"classes": list(classes), "labelled": int((labels >= 0).sum())},
        content=fingerprint(labels.tolist(), list(classes)),
    )
