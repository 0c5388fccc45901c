"""What several of these scripts need: tiny images in tables, a driver's memory, stages run without a pipeline."""

import contextlib
import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from elfs_ray.artifacts.record import Record, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.stages import listing, stage_named
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.workers.base import Workers
from elfs_ray.workers.usage import sampling

TINY_SIDE, TINY_KINDS = 8, 64
SAMPLE_SECONDS = 0.2


def write_tiny_images(folder: Path, rows: int, *, file_rows: int = 500_000, group_rows: int = 8192) -> None:
    """Real PNG images of 8 x 8 pixels, a few distinct ones repeated, with ids: a folder of Parquet files.

    Args:
        folder: new, or one that holds these rows already.
        rows: images.
        file_rows: images in each file.
        group_rows: images in each row group.
    """
    if folder.is_dir() and sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")) == rows:
        return
    folder.mkdir(parents=True)
    kinds = tiny_images()
    for number, first in enumerate(range(0, rows, file_rows)):
        ids = np.arange(first, min(first + file_rows, rows))
        images = pa.array(kinds, pa.binary()).take(pa.array(ids % len(kinds)))
        names = pa.array(ids).cast(pa.string())
        table = pa.table({"sample_id": names, "image": images})
        pq.write_table(table, folder / f"images-{number:04d}.parquet", row_group_size=group_rows)


def tiny_images() -> list[bytes]:
    """A few distinct PNG images."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(TINY_KINDS):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(TINY_SIDE, TINY_SIDE, 3), dtype=np.uint8)).save(sink, "PNG")
        encoded.append(sink.getvalue())
    return encoded


class DriverMemory:
    """Memory of this process alone while a block ran, MB.

    Attributes:
        start: resident when the block began.
        peak: most that was resident.
        peak_own: most that was resident and not shared; shared are the libraries' files and Ray's object store.
    """

    start: int = 0
    peak: int = 0
    peak_own: int = 0


@contextlib.contextmanager
def driver_memory() -> Iterator[DriverMemory]:
    """Sample the memory of this process from a thread while the block runs."""
    found, process = DriverMemory(), psutil.Process()
    found.start = process.memory_info().rss >> 20

    def look() -> None:
        memory = process.memory_info()
        found.peak = max(found.peak, memory.rss >> 20)
        found.peak_own = max(found.peak_own, (memory.rss - getattr(memory, "shared", 0)) >> 20)

    with sampling(look, SAMPLE_SECONDS):
        yield found


def stage_context(config: RunConfig, store: RunFolder, unit: str, workers: Workers, **options: Any) -> StageContext:
    """What a stage is given, in a work folder that no pipeline knows."""
    return StageContext(config, store, Unit(unit), f".work/{unit}-benchmark", workers, Reporter(), **options)


def publish(context: StageContext, result: StageResult) -> None:
    """Bring what a stage made to its place, with a record that no run takes for its own."""
    unit = context.unit
    folders = {unit.artifact(name): name for name in stage_named(unit.stage).outputs}
    record = Record(unit, 0, "benchmark", "benchmark", artifacts=tuple(folders), metrics=result.metrics)
    context.store.publish(context.work, record, folders)


def publish_listing(config: RunConfig, store: RunFolder, workers: Workers) -> None:
    """List the input, which checking the images needs."""
    context = stage_context(config, store, "listing", workers)
    result = listing.run(context)
    if result is not None:
        publish(context, result)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a new process, which ends with it: nothing of an earlier call is left in its memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
