"""Map: the embeddings as points in the plane, for the report.

Reads: `embeddings`, of a random part where there are many. Writes: `map`.
"""

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, part_name, read_vectors_at
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.projection import neighbor_map, principal_plane
from elfs_ray.stages.stage import StageContext, StageResult
from elfs_ray.workers.base import Threads
from elfs_ray.workers.compute import use_threads

MAP = "map"


def run(context: StageContext) -> StageResult:
    """Draw the points and place them, in one task."""
    store, options = context.store, context.config.report
    num_samples = store.count_rows("samples")
    count = min(options.map_points, num_samples)
    rows = np.sort(np.random.default_rng(context.seed()).choice(num_samples, count, replace=False))
    workers, seed = context.workers, context.seed(0) % 2**31
    workers.call(_place, store, context.work, rows, options.map, seed, workers.threads())
    return StageResult(artifacts={MAP: MAP}, chosen={"map": options.map, "map_points": count})


def _place(store: RunFolder, work: str, rows: np.ndarray, kind: str, seed: int, threads: Threads) -> None:
    count = threads()  # nothing else of the stage runs
    use_threads(count)
    vectors = normalize_rows(read_vectors_at(store, rows))
    points = principal_plane(vectors) if kind == "pca" else neighbor_map(vectors, seed, count)
    table = store.read_table("samples", columns=KEY).take(pa.array(rows))
    for name, values in zip("xy", points.T, strict=True):
        table = table.append_column(name, pa.array(values, pa.float32()))
    store.write_table(table, schema.MAP, work, MAP, part_name(0))
