"""Map: the embeddings as points in the plane, for the report.

Reads: `embeddings`, of a random part where there are many. Writes: `map`.
"""

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.table import KEY
from elfs_ray.core.projection import neighbor_map, principal_plane
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.workers.base import Threads
from elfs_ray.workers.threads import use_threads

MAP = "map"


def run(context: StageContext) -> StageResult:
    """Draw the points and place them, in one task."""
    options, num_samples = context.config.report, context.embeddings.rows
    count = min(options.map_points, num_samples)
    rows = np.sort(np.random.default_rng(context.seed()).choice(num_samples, count, replace=False))
    workers, seed = context.workers, context.seed(0) % 2**31
    points = workers.call(_place, context.embeddings, rows, options.map, seed, workers.threads())
    table = context.table("samples").take(rows, KEY)
    for name, values in zip("xy", points.T, strict=True):
        table = table.append_column(name, pa.array(values, pa.float32()))
    context.write(MAP, table, schema.MAP)
    return StageResult(chosen={"map": options.map, "map_points": count})


def _place(embeddings: Embeddings, rows: np.ndarray, kind: str, seed: int, threads: Threads) -> np.ndarray:
    """Points in the plane [n, 2]."""
    count = threads()  # nothing else of the stage runs
    use_threads(count)
    vectors = embeddings.unit_vectors_at(rows)
    return principal_plane(vectors) if kind == "pca" else neighbor_map(vectors, seed, count)
