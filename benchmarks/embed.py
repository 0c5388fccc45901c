"""The embed stage beside the bare model, on one processor and on two, and the memory of the driver as rows grow.

    python benchmarks/embed.py                                  # digits; about half an hour on 2 cores
    python benchmarks/embed.py rate --input images.parquet      # one part, with images of your own (table or folder)
    python benchmarks/embed.py decoding                         # a minute
    python benchmarks/embed.py --memory                         # 10,000 and 100,000 tiny images; a minute and a half
    python benchmarks/embed.py --memory --rows 1000000          # six minutes more

rate: the encoder fed from memory (uint8 pixels, the same batches, threads and normalisation) beside the stage, which
reads a Parquet file, decodes, encodes and saves on the same processors. `steady` leaves out start and end: the second
and third quarter of the rows, as the stage counts them; or the difference between twice the images and once. A part
that ingest wrote is decoded and encoded as a block or with others, so the parts here are small: `--chunk-rows`.
scaling: one and two encoder actors, and one and two index shards, each with one thread; beside the same bare work in
one process and in two at once, which is what the machine gives. Ray is told of spare processors, so that decoding and
saving never wait for a slot. decoding: large JPEGs (scikit-learn's photographs, enlarged) to squares, in processor
time. memory: ingest and embed of 8 x 8 pixels, enlarged to 32 x 32, with the smallest network of timm. (Batches of
pixels below 100 KB would wait in the driver, where Ray keeps small objects; real ones are larger.) Every measurement
has processes of its own; medians and ranges of the repeats. For machines without a GPU.
"""

import argparse
import contextlib
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from common import driver_memory, in_fresh_process, publish, publish_listing, stage_context, write_tiny_images
from PIL import Image
from scale import write_embeddings
from sklearn.datasets import load_sample_image

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import EmbedConfig, NeighborsConfig, RayConfig, RunConfig
from elfs_ray.config_loading import load_config
from elfs_ray.console import Meter, Reporter
from elfs_ray.core.knn import shard_ranges
from elfs_ray.data.digits import write_digits
from elfs_ray.data.images import decode, to_square, to_uint8
from elfs_ray.data.sources import open_source
from elfs_ray.encoders import load_encoder
from elfs_ray.stages import embed, ingest, neighbors
from elfs_ray.stages.parts.embed_rows import TIMED
from elfs_ray.stages.parts.shard_index import Queries, build_index
from elfs_ray.workers.on_ray.session import ray_session
from elfs_ray.workers.usage import measured

QUERY_ROWS, HELD_IMAGES, MAX_PIXELS = 2048, 1024, 10**8
SPARE_CPUS = 2
TINY_ENCODER, TINY_SIDE = "timm:test_resnet", 32


def write_table(location: str, count: int, path: Path) -> None:
    """The first so many images of a source, from the start again where it has fewer, as a Parquet file with ids."""
    source, images = open_source(location), list[bytes]()
    for chunk in source.chunks:
        images += [data for data in source.read(chunk)["image"].to_pylist() if data]
        if len(images) >= count:
            break
    every = list(itertools.islice(itertools.cycle(images), count))
    table = pa.table({"sample_id": [str(number) for number in range(count)], "image": pa.array(every, pa.binary())})
    pq.write_table(table, path, row_group_size=1024)


def configured(location: Path, **options: Any) -> RunConfig:
    """A run's options; names have `__` for the point."""
    values = {name.replace("__", "."): value for name, value in options.items()}
    return load_config({"input": str(location), "num_classes": 2, "budgets": [1], **values})


def encoder_options(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The encoder that is asked for; one of timm with random weights, which take as long as trained ones."""
    chosen = {"embed__encoder": options.encoder, "embed__batch_size": options.batch_size}
    if not options.encoder.startswith("timm:"):
        return chosen
    weights = folder / "weights.pt"
    torch.save(timm.create_model(options.encoder.removeprefix("timm:"), num_classes=0).state_dict(), weights)
    return {**chosen, "embed__weights": str(weights)}


def prepared(config: RunConfig, run_dir: Path) -> None:
    """Ingest into a run folder, in a process of its own."""
    store = RunFolder(str(run_dir))
    with ray_session(RayConfig(num_cpus=os.cpu_count())) as workers:
        publish_listing(config, store, workers)
        context = stage_context(config, store, "ingest", workers)
        publish(context, ingest.run(context))


def staged(config: RunConfig, run_dir: Path, unit: str, cpus: int, ray_cpus: int) -> dict[str, Any]:
    """Run embed or neighbours; returns seconds with and without Ray's start, the steady rate, options and metrics."""
    store, module, begun = RunFolder(str(run_dir)), {"embed": embed, "neighbors": neighbors}[unit], time.time()
    timeline = Timeline()
    with ray_session(RayConfig(num_cpus=ray_cpus)) as workers:
        planned = replace(workers, planned=replace(workers.planned, cpus=cpus))
        context = replace(stage_context(config, store, unit, planned), reporter=timeline)
        store.delete(context.work)
        started = time.time()
        result = module.run(context)
        ended = time.time()
        store.delete(context.work)
    return {
        "seconds": ended - started, "with_ray": ended - begun, "steady": timeline.steady(), "chosen": result.chosen,
        "metrics": result.metrics,
    }  # fmt: skip


class Timeline(Reporter, Meter):
    """Notes when the stage says that so many rows are done, which it does twice a second."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    @contextlib.contextmanager
    def meter(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:  # noqa: ARG002 - as above it
        """This object counts."""
        yield self

    def update(self, done: int) -> None:
        """One more point."""
        self._points.append((time.time(), done))

    def steady(self) -> float:
        """Rows a second while the second and third quarter of the rows were done; NaN where that went too quickly."""
        done, first = np.unique([rows for _, rows in self._points], return_index=True)
        times = np.array([at for at, _ in self._points])[first]
        inside = np.flatnonzero((done >= done[-1] / 4) & (done <= done[-1] * 3 / 4))
        if len(inside) < 2:
            return float("nan")
        return float((done[inside[-1]] - done[inside[0]]) / (times[inside[-1]] - times[inside[0]]))


def meet(folder: Path, number: int, together: int) -> None:
    """Wait until so many processes are ready."""
    (folder / f"ready-{number}").touch()
    while len(list(folder.glob("ready-*"))) < together:
        time.sleep(0.001)


def bare_encoding(
    chosen: dict[str, Any], table: Path, count: int, threads: int, number: int, together: int, folder: Path
) -> tuple[float, float, float]:
    """Encode images from memory; returns when it began and ended, and the seconds that decoding one image took."""
    torch.set_num_threads(threads)
    options = EmbedConfig.model_validate(chosen)
    encoder = load_encoder(options.encoder, weights=options.weights, image_size=int(options.image_size))
    encoder.module.to(memory_format=torch.channels_last)
    how, dtype, size = encoder.preprocessing, getattr(torch, options.dtype), int(options.batch_size)
    encoded = pq.read_table(table, columns=["image"])["image"].slice(0, HELD_IMAGES).to_pylist()
    started = time.perf_counter()
    square = {"crop_fraction": how.crop_fraction, "interpolation": how.interpolation, "max_pixels": MAX_PIXELS}
    pixels = np.stack([to_square(data, how.size, **square) for data in encoded])
    decoding = (time.perf_counter() - started) / len(encoded)
    batches = [batch for batch in torch.from_numpy(pixels).split(size) if len(batch) == size]
    encoder.encode(batches[0], dtype)
    meet(folder, number, together)
    begun = time.time()
    for batch in itertools.islice(itertools.cycle(batches), count // size):
        encoder.encode(batch, dtype).numpy().astype(np.float16)
    return begun, time.time(), decoding


def bare_search(
    chosen: dict[str, Any], run_dir: Path, number: int, together: int, folder: Path
) -> tuple[float, float, float]:
    """Search one shard's rows for all queries with one thread; returns when it began and ended, and 0."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    store, options = RunFolder(str(run_dir)), NeighborsConfig.model_validate(chosen)
    count = Embeddings(store).rows
    start, stop = shard_ranges(count, together)[number]
    index = build_index(store, start, stop, options, None, on_gpu=False)
    blocks = [Embeddings(store).unit_vectors(start=row, stop=min(row + QUERY_ROWS, count))
              for row in range(0, count, QUERY_ROWS)]  # fmt: skip
    meet(folder, number, together)
    begun = time.time()
    for block in blocks:
        index.search(Queries(block), options.k + 1)
    return begun, time.time(), 0.0


def at_once(processes: int, function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Run a function in so many processes at once; returns seconds from the first begin to the last end, decoding."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        running = [
            pool.submit(in_fresh_process, function, *arguments, number, processes, Path(folder))
            for number in range(processes)
        ]
        found = [future.result() for future in running]
    return max(end for _, end, _ in found) - min(begin for begin, _, _ in found), found[0][2]


class Table:
    """Rows that are printed as they come, and as Markdown at the end."""

    def __init__(self) -> None:
        self._rows: list[str] = []

    def add(self, what: str, values: list[float], note: str = "", digits: int = 1) -> float:
        """One row: the median and the range of the repeats; returns the median."""
        middle = statistics.median(values)
        spread = f"{min(values):,.{digits}f} - {max(values):,.{digits}f}" if len(values) > 1 else ""
        self._rows.append(f"| {what} | {middle:,.{digits}f} | {spread} | {note} |")
        print(self._rows[-1], flush=True)
        return middle

    def show(self) -> None:
        """Print all rows."""
        print(f"\nload at the end {os.getloadavg()[0]:.1f}\n\n| what | median | range | note |\n|---|---:|---|---|")
        print("\n".join(self._rows))


def rate(table: Table, options: argparse.Namespace, folder: Path) -> None:
    """The stage beside the bare model, with as many threads."""
    cpus, count, runs = os.cpu_count() or 1, options.images, dict[int, list[dict[str, Any]]]()
    bare, decoding, encoder = [], [], encoder_options(options, folder)
    sizes = (count, 2 * count)
    for images in sizes:
        write_table(options.input, images, folder / f"{images}.parquet")
        config = configured(folder / f"{images}.parquet", ingest__chunk_rows=options.chunk_rows)
        in_fresh_process(prepared, config, folder / f"run-{images}")
    for _ in range(options.repeats):
        for images in sizes:
            config = configured(folder / f"{images}.parquet", embed__checkpoint_rows=options.chunk_rows, **encoder)
            ran = in_fresh_process(staged, config, folder / f"run-{images}", "embed", cpus, cpus)
            runs.setdefault(images, []).append(ran)
        arguments = ran["chosen"], folder / f"{count}.parquet", count, cpus
        seconds, each = at_once(1, bare_encoding, *arguments)
        rows = count // ran["chosen"]["batch_size"] * ran["chosen"]["batch_size"]
        bare.append(rows / seconds)
        decoding.append(each)
    chosen, long = ran["chosen"], runs[2 * count]
    print(f"{chosen['encoder']}, {chosen['image_size']} px, {chosen['dtype']}, batch {chosen['batch_size']}, "
          f"{cpus} threads, {count:,} and {2 * count:,} images", flush=True)  # fmt: skip
    table.add("bare model, from memory, images/s", bare)
    both = [1 / (1 / one + each / cpus) for one, each in zip(bare, decoding, strict=True)]
    table.add("the same after decoding on the same processors", both, "1 / (1 / bare + decoding / processors)")
    steady = [run["steady"] for run in long]
    table.add("embed stage, steady, images/s", steady)
    pairs = zip(runs[count], long, strict=True)
    difference = [count / (b["seconds"] - a["seconds"]) for a, b in pairs]
    table.add("embed stage, 2N less N images, images/s", difference)
    for images in sizes:
        name = f"embed stage, whole, {images:,} images, images/s"
        table.add(name, [images / run["seconds"] for run in runs[images]], "without Ray's start")
        table.add(name, [images / run["with_ray"] for run in runs[images]], "with Ray's start and end")
    ratios = [ours / theirs for ours, theirs in zip(steady, bare, strict=True)]
    table.add("embed stage, steady / bare model", ratios, "goal: at least 0.9", 2)
    ratios = [ours / theirs for ours, theirs in zip(difference, bare, strict=True)]
    table.add("embed stage, 2N less N / bare model", ratios, "goal: at least 0.9", 2)
    ratios = [ours / theirs for ours, theirs in zip(steady, both, strict=True)]
    table.add("embed stage, steady / bare model with decoding", ratios, "", 2)
    for name in (name for name in TIMED if name in long[0]["metrics"]):
        table.add(f"{name.replace('_', ' ')} of all workers", [run["metrics"][name] for run in long])


def scaling(table: Table, options: argparse.Namespace, folder: Path) -> None:
    """One and two workers with one thread each, beside the bare work in one process and in two at once."""
    count, images, encoder = options.images, folder / "scaling.parquet", encoder_options(options, folder)
    write_table(options.input, count, images)
    in_fresh_process(prepared, configured(images, ingest__chunk_rows=options.chunk_rows), folder / "run-scaling")
    vectors = argparse.Namespace(rows=options.scaling_rows, dim=512, intrinsic=32, spread=1.0)
    write_embeddings(RunFolder(str(folder / "vectors")), vectors)

    def run(unit: str, workers: int) -> dict[str, Any]:
        if unit == "embed":
            config = configured(images, embed__actors=workers, embed__checkpoint_rows=options.chunk_rows, **encoder)
            return in_fresh_process(staged, config, folder / "run-scaling", unit, workers, workers + SPARE_CPUS)
        config = configured(images, neighbors__shards=workers, neighbors__query_rows=QUERY_ROWS,
                            neighbors__search="faiss")  # fmt: skip
        return in_fresh_process(staged, config, folder / "vectors", unit, workers, workers + SPARE_CPUS)

    def bare(unit: str, workers: int, chosen: dict[str, Any]) -> float:
        if unit == "embed":
            rows = count // workers // chosen["batch_size"] * chosen["batch_size"]
            return workers * rows / at_once(workers, bare_encoding, chosen, images, rows, 1)[0]
        return options.scaling_rows / at_once(workers, bare_search, chosen, folder / "vectors")[0]

    names = {"embed": "encoder actors", "neighbors": "index shards"}
    for unit, what in ((unit, names[unit]) for unit in options.units):
        found: dict[str, list[float]] = {}
        for _ in range(options.repeats):
            once, twice = run(unit, 1), run(unit, 2)
            ceiling = bare(unit, 2, once["chosen"]) / bare(unit, 1, once["chosen"])
            ratio = twice["steady"] / once["steady"]
            row = once["steady"], twice["steady"], once["seconds"] / twice["seconds"], ratio, ceiling, ratio / ceiling
            for name, value in zip(("one", "two", "whole", "ratio", "ceiling", "share"), row, strict=True):
                found.setdefault(name, []).append(value)
        for name, text, digits in (("one", "1 of 1 thread, rows/s", 1), ("two", "2 of 1 thread, rows/s", 1),
                                   ("whole", "2 / 1, the whole stage", 2), ("ratio", "2 / 1, steady", 2),
                                   ("ceiling", "2 / 1, bare work in as many processes", 2),
                                   ("share", "share of what the machine gives", 2)):  # fmt: skip
            table.add(f"{what}: {text}", found[name], "goal: at least 1.8" if name == "ratio" else "", digits)


def memory_of(rows: int, folder: Path, weights: Path) -> dict[str, Any]:
    """Ingest and embed so many tiny images, in a process of its own; returns seconds and memory of both stages."""
    images, store = folder / f"images-{rows}", RunFolder(str(folder / f"run-{rows}"))
    write_tiny_images(images, rows)
    config = configured(images, embed__encoder=TINY_ENCODER, embed__weights=str(weights), embed__image_size=TINY_SIDE,
                        embed__batch_size=256)  # fmt: skip
    found: dict[str, Any] = {"rows": rows}
    with ray_session(RayConfig(num_cpus=os.cpu_count())) as workers:
        publish_listing(config, store, workers)
        for unit, module in {"ingest": ingest, "embed": embed}.items():
            context = stage_context(config, store, unit, workers)
            with driver_memory() as driver, measured() as usage:
                result = module.run(context)
            publish(context, result)
            found[unit] = (usage.seconds, driver.start, driver.peak, driver.peak_own, usage.peak_memory_mb)
            print(f"{rows:,} rows, {unit}: {usage.seconds:.1f} s, driver {driver.start} -> {driver.peak} MB "
                  f"({driver.peak_own} own), all {usage.peak_memory_mb} MB", flush=True)  # fmt: skip
    return found


def memory(options: argparse.Namespace, folder: Path) -> None:
    """The driver's memory at several sizes, as a table of its own."""
    weights = folder / "weights.pt"
    torch.save(timm.create_model(TINY_ENCODER.removeprefix("timm:"), num_classes=0).state_dict(), weights)
    found = [in_fresh_process(memory_of, rows, folder, weights) for rows in options.rows]
    print("\n| rows | stage | seconds | driver before, MB | driver at most, MB | not shared, MB | "
          "more than with the fewest rows, bytes a row | all processes, MB |")  # fmt: skip
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for one in found:
        for unit in ("ingest", "embed"):
            seconds, start, peak, own, every = one[unit]
            more = (own - found[0][unit][3]) * 2**20 / max(1, one["rows"] - found[0]["rows"])
            growth = f"{more:,.0f}" if one is not found[0] else ""
            print(
                f"| {one['rows']:,} | {unit} | {seconds:.0f} | {start:,} | {peak:,} | {own:,} | {growth} | {every:,} |"
            )


def decoding(table: Table, options: argparse.Namespace, _folder: Path) -> None:
    """Squares of large photographs, decoded whole and at a reduced scale in turn."""
    for side, size in itertools.product((160, 224), ((2000, 1500), (4000, 3000))):
        files = [io.BytesIO(), io.BytesIO()]
        for name, file in zip(("china.jpg", "flower.jpg"), files, strict=True):
            Image.fromarray(load_sample_image(name)).resize(size).save(file, "JPEG", quality=88)
        encoded, found = [file.getvalue() for file in files], []
        for _ in range(options.repeats):
            times = [time.process_time()]
            [to_uint8(decode(data, max_pixels=MAX_PIXELS), side) for data in encoded]
            times.append(time.process_time())
            [to_square(data, side, max_pixels=MAX_PIXELS) for data in encoded]
            found.append(len(files) / np.diff([*times, time.process_time()]))
        for how, rates in zip(("whole", "reduced"), zip(*found, strict=True), strict=True):
            table.add(f"{size[0]} x {size[1]} JPEG to {side} px, decoded {how}, images/s of a core", list(rates))
        table.add("ratio", [reduced / whole for whole, reduced in found])


PARTS = {"rate": rate, "scaling": scaling, "decoding": decoding}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure; default: all")
    parser.add_argument("--input", help="images of your own; default: the handwritten digits")
    parser.add_argument("--encoder", default="efficientnet-lite0", help="one of timm gets random weights")
    parser.add_argument("--batch-size", default="auto", help="images in one forward pass; auto: as a run chooses")
    parser.add_argument("--images", type=int, default=2048, help="to embed; and twice as many")
    parser.add_argument(
        "--chunk-rows", type=int, default=128, help="rows of a block: of ingest's chunks, saved at once"
    )
    parser.add_argument("--scaling-rows", type=int, default=60_000, help="synthetic embeddings for the index shards")
    parser.add_argument("--units", nargs="+", default=["embed", "neighbors"], help="for scaling")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure the driver's memory instead")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="for --memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            memory(options, Path(folder))
            return
        if options.input is None:
            options.input = str(write_digits(f"{folder}/digits")[0])
        table = Table()
        for part in options.parts or PARTS:
            (Path(folder) / part).mkdir()
            PARTS[part](table, options, Path(folder) / part)
        table.show()


if __name__ == "__main__":
    main()
