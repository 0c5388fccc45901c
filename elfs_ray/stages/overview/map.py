"""Map: the embeddings as points in the plane, for the report.

Reads: `embeddings`, of a random part where there are many. Writes: `map`.
"""

import numpy as np
import pyarrow as pa
import ray

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, part_name, read_vectors_at
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.projection import neighbor_map, principal_plane
from elfs_ray.stages.stage import StageContext, StageResult
from elfs_ray.workers.on_ray.session import use_threads, worker_threads

MAP = "map"


def run(context: StageContext) -> StageResult:
    """Draw the points and place them, in one task."""
    store, options = context.store, context.config.report
    num_samples = store.count_rows("samples")
    count = min(options.map_points, num_samples)
    rows = np.sort(np.random.default_rng(context.seed()).choice(num_samples, count, replace=False))
    ray.get(_place.remote(store, context.work, rows, options.map, context.seed(0) % 2**31, context.hardware.cpus))
    return StageResult(artifacts={MAP: MAP}, chosen={"map": options.map, "map_points": count})


@ray.remote(num_cpus=1)
def _place(store: RunFolder, work: str, rows: np.ndarray, kind: str, seed: int, threads: int) -> None:
    threads = worker_threads(threads, 1)
    use_threads(threads)  # nothing else of the stage runs
    vectors = normalize_rows(read_vectors_at(store, rows))
    points = principal_plane(vectors) if kind == "pca" else neighbor_map(vectors, seed, threads)
    table = store.read_table("samples", columns=KEY).take(pa.array(rows))
    for name, values in zip("xy", points.T, strict=True):
        table = table.append_column(name, pa.array(values, pa.float32()))
    store.write_table(table, schema.MAP, work, MAP, part_name(0))
