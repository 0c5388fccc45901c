"""Neighbours and selection at scale: a million synthetic embeddings on one machine; and ingest of many images.

    python benchmarks/scale.py                                   # 1,000,000 x 256
    python benchmarks/scale.py --rows 100000 --search ivf_pq     # smaller, and with product codes
    python benchmarks/scale.py --ingest 10000000                 # ingest alone, of ten million images

Writes clustered embeddings as a run folder's artifact (in `--out`, or a temporary folder), runs the neighbours stage as
a run does, and then every selection method that ranks by scores of the training dynamics, and D2 on the neighbours, on
synthetic dynamics. Prints seconds, peak memory and recall. Each blob of the mixture lies in `--intrinsic` dimensions of
its own choice, as embeddings do; `--spread` says how far blobs reach into each other.

With `--ingest`, writes real PNG images of 8 x 8 pixels into Parquet files of 500,000 rows and runs the ingest stage
over them. Prints seconds, rows a second, the driver's memory and that of all processes. `--group-rows` is the size of
their row groups: the larger, the more a chunk of the stage reads beside its own rows.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import driver_memory, publish_listing, stage_context, write_tiny_images

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table, matrix_column
from elfs_ray.artifacts.writing import write_index, write_part
from elfs_ray.config import RayConfig
from elfs_ray.config_loading import load_config
from elfs_ray.console import ConsoleReporter
from elfs_ray.methods import Needs, SelectionInputs, available_methods, get_method, select_coreset
from elfs_ray.stages import ingest, neighbors
from elfs_ray.stages.context import StageContext
from elfs_ray.workers.on_ray.session import ray_session
from elfs_ray.workers.usage import measured

BLOBS, PART_ROWS, CLASSES = 1000, 50_000, 100


def main() -> None:
    """Read the options and run both parts."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--intrinsic", type=int, default=32)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--search", default="ivf_flat")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of neighbors, or of ingest")
    parser.add_argument("--ingest", type=int, metavar="ROWS", help="ingest so many tiny images instead")
    parser.add_argument("--group-rows", type=int, default=8192, help="of the tables to ingest")
    parser.add_argument("--budget", type=float, default=0.1)
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = RunFolder(options.out or folder)
        if options.ingest:
            ingest_tiny_images(store, options)
            return
        if not store.exists("embeddings") or Table(store, "embeddings").rows != options.rows:
            write_embeddings(store, options)
        overrides = [f"neighbors.{one}" for one in [f"search={options.search}", *options.set]]
        config = load_config({"input": "/none", "num_classes": CLASSES, "budgets": [options.budget]}, None, overrides)
        with ray_session(RayConfig(num_cpus=options.cpus)) as workers, measured() as usage:
            context = StageContext(config, store, Unit("neighbors"), ".work/scale", workers, ConsoleReporter(Console()))
            result = neighbors.run(context)
        print(f"neighbors: {usage.seconds:.0f} s, peak {usage.peak_memory_mb:,} MB, load {os.getloadavg()[0]:.1f}")
        print("  " + ", ".join(f"{name} {value}" for name, value in result.metrics.items()))
        print("  " + ", ".join(f"{name}={value}" for name, value in result.chosen.items()), flush=True)
        table = Table(store, f"{context.work}/{neighbors.FOUND}")
        ids, similarity = table.matrix("ids"), table.matrix("similarity")
        select_by_every_rank(ids, similarity, options)
        store.delete(context.work)


def ingest_tiny_images(store: RunFolder, options: argparse.Namespace) -> None:
    """Run the ingest stage over many images, and print a Markdown table."""
    started, folder = time.monotonic(), Path(store.path(f"images-{options.ingest}-{options.group_rows}"))
    write_tiny_images(folder, options.ingest, group_rows=options.group_rows)
    print(f"{options.ingest:,} images in {time.monotonic() - started:.0f} s", flush=True)
    overrides = [f"ingest.{one}" for one in options.set]
    config = load_config({"input": str(folder), "num_classes": CLASSES, "budgets": [1]}, None, overrides)
    with ray_session(RayConfig(num_cpus=options.cpus)) as workers:
        publish_listing(config, store, workers)
        context = stage_context(config, store, "ingest", workers)
        store.delete(context.work)
        begun = time.time()
        with driver_memory() as driver, measured() as usage:
            result = ingest.run(context)
    checked = Path(store.path(context.work, ingest.CHECKED)).iterdir()
    checking = max(path.stat().st_mtime for path in checked) - begun
    store.delete(context.work)
    print("  " + ", ".join(f"{name} {value}" for name, value in result.metrics.items()))
    print(f"load {os.getloadavg()[0]:.1f}\n\n| images | row group | seconds | checking, s | numbering, s | "
          "images/s | driver before, MB | driver at most, MB | not shared, MB | all processes, MB |")  # fmt: skip
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    spent = (
        f"{usage.seconds:.0f} | {checking:.0f} | {usage.seconds - checking:.0f} | {options.ingest / usage.seconds:,.0f}"
    )
    print(f"| {options.ingest:,} | {options.group_rows:,} | {spent} | {driver.start:,} | {driver.peak:,} | "
          f"{driver.peak_own:,} | {usage.peak_memory_mb:,} |")  # fmt: skip


def write_embeddings(store: RunFolder, options: argparse.Namespace) -> None:
    """A mixture of blobs, each flat: float16 parts of an `embeddings` artifact."""
    started, rng = time.monotonic(), np.random.default_rng(0)
    axes = rng.normal(size=(options.intrinsic, options.dim)) / np.sqrt(options.dim)
    centres = rng.normal(size=(BLOBS, options.intrinsic))
    store.delete("embeddings")
    layout, parts = schema.embeddings(options.dim), []
    for number, start in enumerate(range(0, options.rows, PART_ROWS)):
        index = np.arange(start, min(start + PART_ROWS, options.rows))
        blob = rng.integers(BLOBS, size=len(index))
        low = centres[blob] + options.spread * rng.normal(size=(len(index), options.intrinsic))
        vectors = (low @ axes + 0.05 * rng.normal(size=(len(index), options.dim))).astype(np.float16)
        table = pa.table(
            {
                "sample_id": index.astype(str),
                "index": index,
                "vector": matrix_column(vectors),
                "norm": np.ones(len(vectors)),
            }
        )
        parts.append(write_part(store, "embeddings", number, start, table, layout))
    write_index(store, "embeddings", parts, layout)
    print(f"embeddings: {options.rows:,} x {options.dim} in {time.monotonic() - started:.0f} s", flush=True)


def synthetic_dynamics(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A number for each score, with the ties that counts have."""
    dynamics = {}
    for name, kind in {**schema.DYNAMICS_TYPES, "tdds": pa.float32()}.items():
        if kind == pa.float32():
            dynamics[name] = rng.random(count, dtype=np.float32)
        else:
            dynamics[name] = rng.integers(2 if kind == pa.bool_() else 30, size=count).astype(kind.to_pandas_dtype())
    return dynamics


def select_by_every_rank(ids: np.ndarray, similarity: np.ndarray, options: argparse.Namespace) -> None:
    """Seconds of each method that needs neither embeddings nor a training."""
    rng = np.random.default_rng(0)
    inputs = SelectionInputs(
        ids=np.arange(len(ids)),
        neighbor_ids=ids,
        neighbor_similarity=similarity,
        pseudo_labels=rng.integers(CLASSES, size=len(ids)).astype(np.int32),
        dynamics=synthetic_dynamics(len(ids), rng),
    )
    budget = round(options.budget * len(ids))
    for name, kind in sorted(available_methods().items()):
        if Needs.EMBEDDINGS in kind.needs or name == "auto":
            continue
        started = time.monotonic()
        selection = select_coreset(get_method(name), inputs, budget, np.random.default_rng(0))
        if len(np.unique(selection.positions)) != budget:
            raise AssertionError(f"{name} selected {len(np.unique(selection.positions))} of {budget}")
        print(f"  select {name:12} {time.monotonic() - started:6.2f} s", flush=True)
    print(f"this process: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MB")


if __name__ == "__main__":
    main()
