"""What the engine's work takes on a GPU, beside the limits of that GPU, measured in the same run.

    python benchmarks/gpu.py                      # all, sized for a GPU with 80 GB or more; four to five minutes
    python benchmarks/gpu.py knn temi             # some
    python benchmarks/gpu.py --json figures.json  # also as JSON, written anew after each part
    python benchmarks/gpu.py --small              # the same code in seconds on any device: shows that it works

Needs torch, timm, numpy and this package's `core`; no Ray, no faiss, no network: weights are random, which speed does
not notice. Times are medians of repeats after a first one that does not count, with the range. A part that fails, for
want of memory or otherwise, costs the others nothing; the exit status is then 1.
"""

import argparse
import io
import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # also from a checkout that is not installed
sys.path.insert(0, str(Path(__file__).parent))  # also where Python leaves out a script's own folder

from gpu_bench import Bench, measure, name_of, spread

from elfs_ray.core.augmentation import Draws, prepare_images
from elfs_ray.core.classifier import epoch_batches, sgd, train_step
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.features import unit_half
from elfs_ray.core.networks import ResNet
from elfs_ray.core.product_index import ProductIndex, best_columns
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from elfs_ray.data.card_decoding import CardDecoder, can_decode
from elfs_ray.data.images import decode, to_uint8
from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.forward import AdaptiveForward, Lane

MEAN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Multiplications and additions of a forward pass of ResNet-18 on an image of 32 pixels; a training step takes three.
RESNET18_OPERATIONS = 2 * 0.5566e9
DEFAULT_GIB = 2  # of products at once, in the search for neighbours
LANES = 2  # batches under way at once, as in the embed stage
STEPS_OF_PAPER, ROWS_OF_PAPER = 40_000, 256  # ELFS, section 5.1


def limits(bench: Bench) -> None:
    """Copy bandwidth and matrix rates: what nothing can go beyond."""
    values = torch.empty(bench.size(2**30, 2**20), dtype=torch.float32, device=bench.device)
    seconds = bench.timed(values.clone, 10)
    bench.bandwidth = 2 * values.nbytes / statistics.median(seconds)
    bench.add("copy, read and write", bench.bandwidth / 1e9, "GB/s", spread(seconds))
    pinned = torch.empty(bench.size(2**28, 2**20), dtype=torch.uint8, pin_memory=bench.device.type == "cuda")
    seconds = bench.timed(lambda: pinned.to(bench.device, non_blocking=True, copy=True), 10)
    bench.add("copy to the device, pinned", pinned.nbytes / statistics.median(seconds) / 1e9, "GB/s", spread(seconds))
    side = bench.size(8192, 256)
    for name, dtype, precision in (
        ("bfloat16", torch.bfloat16, "highest"),
        ("TF32", torch.float32, "high"),
        ("float32", torch.float32, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = bench.timed(lambda a=a, b=b: a @ b, 20)
        rate = 2 * side**3 / statistics.median(seconds)
        bench.matrix_rate = bench.matrix_rate or rate
        bench.add(f"matrix product of {side:,} rows, {name}", rate / 1e12, "TFLOP/s", spread(seconds))


def embed(bench: Bench) -> None:
    """Encoders as the embed stage runs them, two batches under way, beside the bare network; decoding by itself."""
    count, batches = bench.size(256, 2), bench.size(8, 2)
    for name in ("vit_base_patch16_224", "resnet50"):
        module = timm.create_model("resnet18" if bench.small else name, num_classes=0)
        module = module.to(bench.device, memory_format=torch.channels_last)
        encoder = Encoder(name, module, Preprocessing(224, *MEAN_STD), module.num_features, "random")
        pixels = bench.images(count, 224).numpy()
        inputs = torch.randn(count, 3, 224, 224, device=bench.device).to(memory_format=torch.channels_last)
        forward = AdaptiveForward(encoder, bench.device, bench.half, count)
        lanes = [Lane(bench.device) for _ in range(LANES)]
        bench.wait()  # the weights were copied on a stream that no lane waits for

        @torch.inference_mode()
        def bare(module: torch.nn.Module = module, inputs: Tensor = inputs) -> None:
            with torch.autocast(bench.device.type, bench.half, enabled=bench.half != torch.float32):
                for _ in range(batches):
                    module(inputs)

        def of_lane(lane: Lane, forward: AdaptiveForward = forward, pixels: np.ndarray = pixels) -> None:
            for _ in range(batches // LANES):
                with forward.turn(), lane.used():
                    unit_half(lane.off_device(forward(lane.onto_device(pixels, count))))

        def staged(lanes: list[Lane] = lanes, of_lane: Callable[[Lane], None] = of_lane) -> None:
            with ThreadPoolExecutor(len(lanes)) as pool:
                list(pool.map(of_lane, lanes))

        reference, ours = bench.timed(bare, 10), bench.timed(staged, 10)
        rate, bare_rate = (count * batches / statistics.median(seconds) for seconds in (ours, reference))
        note = f"{rate / bare_rate:.3f} of the bare model's {bare_rate:,.0f}; {spread(ours)}"
        bench.add(f"embed, {name}, 224 px, {name_of(bench.half)}", rate, "images/s", note,
                  goal="0.9 of the bare model", met=rate >= 0.9 * bare_rate)  # fmt: skip
    decoding(bench, count)


def decoding(bench: Bench, count: int) -> None:
    """Squares of JPEGs as large as those of ImageNet: by the device, and by one core with Pillow."""
    rng, jpegs, (width, height) = np.random.default_rng(0), list[bytes](), (500, 375)
    for _ in range(count):
        file = io.BytesIO()
        coarse = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        jpegs.append(file.getvalue())
    if can_decode(bench.device):
        decoder = CardDecoder(bench.device, 224, 0.875, "bicubic")
        seconds = bench.timed(lambda: decoder(jpegs, [1] * count, [width * height] * count), 5)
        rate = count / statistics.median(seconds)
        bench.add(f"JPEGs of {width} x {height} decoded on the device", rate, "images/s", spread(seconds))
    some = jpegs[:32]
    seconds = bench.timed(lambda: [to_uint8(decode(jpeg, max_pixels=10**8), 224, 0.875) for jpeg in some], 5)
    rate = len(some) / statistics.median(seconds)
    bench.add(f"JPEGs of {width} x {height} decoded by one core", rate, "images/s", spread(seconds))


def knn(bench: Bench) -> None:
    """Exact neighbours by rounded products: a share of the queries against all rows, its recall, where time goes."""
    count, dim, k, queries = bench.size(1_280_000, 4096), 768, 50, bench.size(32_768, 512)
    halves = crowded_rows(bench, count, dim)
    index = ProductIndex(count, dim, bench.device)
    for part in halves.split(65_536):
        index.add(part.cpu().numpy())
    wanted = torch.nn.functional.normalize(halves[:queries].float(), dim=1).cpu().numpy()
    parts = [wanted[start : start + 4096] for start in range(0, queries, 4096)]
    for gigabytes in (1, 4, DEFAULT_GIB):  # the last one is the index that is looked at below
        index.block_bytes = gigabytes * 2**30 - 1
        seconds = bench.timed(lambda: [index.search(part, k) for part in parts], 3)
        rate = 2 * queries * count * dim / statistics.median(seconds)
        note = f"{rate / 1e12:.4g} TFLOP/s, {bench.share(rate):.2f} of the matrix rate; from {queries:,} queries"
        what = f"k-NN, {count:,} x {dim}, k {k}, blocks of {gigabytes} GiB"
        goal = {"goal": "0.5 of the matrix rate", "met": bench.share(rate) >= 0.5} if gigabytes == DEFAULT_GIB else {}
        bench.add(what, statistics.median(seconds) * count / queries, "s", note, **goal)
    found = index.search(wanted[:512], k)[1]
    recall = recall_of(found, halves, bench.device)
    bench.add("k-NN, recall against float32", recall, "", "512 queries", goal="0.999", met=recall >= 0.999)
    knn_breakdown(bench, index, halves, wanted[:4096], k)


def crowded_rows(bench: Bench, count: int, dim: int) -> Tensor:
    """A thousand blobs on the device, rows of unit length, float16 [n, d]."""
    generator = torch.Generator(bench.device).manual_seed(0)
    centres = torch.randn(1000, dim, generator=generator, device=bench.device)
    rows = torch.empty(count, dim, dtype=torch.float16, device=bench.device)
    for start in range(0, count, 100_000):
        stop = min(start + 100_000, count)
        some = centres[torch.arange(start, stop, device=bench.device) % 1000]
        some = some + 0.7 * torch.randn(some.shape, generator=generator, device=bench.device)
        rows[start:stop] = torch.nn.functional.normalize(some, dim=1)
    return rows


def recall_of(found: np.ndarray, halves: Tensor, device: torch.device) -> float:
    """Share of the neighbours by float32 products that were found; the queries are the first rows."""
    k, wanted = found.shape[1], torch.nn.functional.normalize(halves[: len(found)].float(), dim=1)
    similarity = [wanted @ torch.nn.functional.normalize(part.float(), dim=1).T for part in halves.split(200_000)]
    exact = torch.cat(similarity, dim=1).topk(k, dim=1).indices
    return float((torch.from_numpy(found).to(device)[:, :, None] == exact[:, None, :]).any(dim=2).float().mean())


def knn_breakdown(bench: Bench, index: ProductIndex, halves: Tensor, wanted: np.ndarray, k: int) -> None:
    """Parts of a search by themselves; products and maxima of a block of 768 queries, times the number of blocks."""
    count, queries = index.candidates_of(k), torch.tensor(wanted, device=bench.device)
    some = queries[:768].to(halves.dtype if bench.device.type == "cuda" else torch.float32)
    rows, blocks = halves.to(some.dtype), len(wanted) / len(some)
    products = some @ rows.T
    with torch.inference_mode():
        candidates = index.candidates(queries, count)
        actions = {
            "the search": (lambda: index.search(wanted, k), 1.0),
            "products": (lambda: some @ rows.T, blocks),
            "maxima of groups": (lambda: products.view(len(some), 64, -1).amax(dim=1), blocks),
            "maxima and the best in them": (lambda: best_columns(products, count), blocks),
            "all of the candidates": (lambda: index.candidates(queries, count), 1.0),
            "ranking": (lambda: index.rank(queries, candidates, k), 1.0),
        }
        for what, (action, times) in actions.items():
            seconds = [times * each for each in bench.timed(action, 10)]
            bench.add(f"k-NN, {len(wanted):,} queries: {what}", 1e3 * statistics.median(seconds), "ms", spread(seconds))


def temi(bench: Bench) -> None:
    """Steps of 50 heads with 1000 clusters, on embeddings that rest on the device; an epoch over 1.28 million pairs."""
    torch.set_float32_matmul_precision("high")  # as the workers of the stage
    heads, dim, classes, samples = bench.size(50, 4), 768, bench.size(1000, 20), bench.size(1_280_000, 2000)
    embeddings = torch.nn.functional.normalize(torch.randn(min(samples, 100_000), dim, device=bench.device), dim=1)
    generator = torch.Generator(bench.device).manual_seed(0)
    small, large, steps = bench.size(512, 32), bench.size(4096, 64), bench.size(20, 1)
    half = bench.half
    ways = [(small, half, True), (large, half, True), (small, half, False), (small, torch.float32, False)]
    for number, (pairs, dtype, compiled) in enumerate(ways):
        training = TemiTraining(
            TemiOptions(heads, classes, dtype=dtype), dim, 0, bench.device,
            compiled=compiled and bench.device.type == "cuda",
        )  # fmt: skip
        # As the stage holds them there.
        rows = DeviceRows(embeddings, Room(bench.device), torch.float16 if dtype == torch.bfloat16 else None)

        def some_steps(training: TemiTraining = training, rows: DeviceRows = rows, pairs: int = pairs) -> None:
            for _ in range(steps):
                chosen = torch.randint(len(rows), (2 * pairs,), generator=generator, device=bench.device)
                training.step(rows.take(chosen), 1e-4)

        warm = bench.once(some_steps)  # with compilation
        seconds = [value / steps for value in bench.timed(some_steps, 10)]
        median = statistics.median(seconds)
        weights = heads * (dim * 512 + 512 * 256 + 256 * classes)
        operations = 2 * 2 * pairs * weights * 4  # two views; the student forth and back, the teacher forth
        # AdamW reads and writes weights and two moments and reads gradients, written before; the teacher follows.
        moved = weights * 4 * (8 + 3) / bench.bandwidth if bench.bandwidth else float("nan")
        note = (
            f"{bench.share(operations / median):.2f} of the matrix rate; a step {spread(seconds)}, "
            f"{moved:.2g} s of it to move weights and moments; first {steps} steps {warm:.0f} s"
        )
        name = f"{name_of(dtype)}{', compiled' if compiled else ''}"
        goal = {"goal": "0.4 of the matrix rate", "met": bench.share(operations / median) >= 0.4} if not number else {}
        bench.add(f"TEMI epoch, {heads} heads, C {classes}, {samples:,} in batches of {pairs}, {name}",
                  median * samples / pairs, "s", note, **goal)  # fmt: skip


def resnet(bench: Bench) -> None:
    """Training steps of the ResNet-18 proxy at 32 pixels as the proxy takes them, with dynamics and without."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    count, batch, steps = bench.size(50_000, 64), bench.size(ROWS_OF_PAPER, 8), bench.size(100, 1)
    pixels = DeviceRows(bench.images(count, 32), Room(bench.device))
    labels = torch.randint(10, (count,), device=bench.device)
    network = ResNet("resnet18", 32, 10, generator=torch.Generator().manual_seed(0)).train()
    network.to(bench.device, memory_format=torch.channels_last)
    optimizer, dynamics = sgd(network, 0.1, 0.9, 5e-4), DynamicsAccumulator(count, device=bench.device)
    generator = torch.Generator(bench.device).manual_seed(0)

    def train(record: bool) -> None:
        batches = epoch_batches(count, batch, 2, generator)[:steps]
        for rows, inputs in zip(batches, pixels.batches(batches), strict=True):
            prepared = prepare_images(inputs, Draws(0, 0, rows))
            logits = train_step(network, optimizer, prepared, labels[rows], 0.01, dtype=bench.half)
            if record:
                dynamics.update(rows, logits, labels[rows], 20)  # an epoch with full windows, the dearest kind

    # In turns: what the device's clock does, it does to both.
    seconds = {False: list[float](), True: list[float]()}
    for record in (False, True):
        train(record)
    for _ in range(bench.size(10, 1)):
        for record, taken in seconds.items():
            taken.append(bench.once(lambda record=record: train(record)))
    alone, recorded = (statistics.median(taken) for taken in seconds.values())
    for record, median in ((False, alone), (True, recorded)):
        rate = batch * steps / median
        minutes = STEPS_OF_PAPER * ROWS_OF_PAPER / rate / 60
        note = (
            f"{STEPS_OF_PAPER:,} steps of {ROWS_OF_PAPER}: {minutes:.1f} min; "
            f"{bench.share(3 * RESNET18_OPERATIONS * rate):.2f} of the matrix rate; {spread(seconds[record])}"
        )
        bench.add(f"ResNet-18, 32 px, {'with dynamics' if record else 'training alone'}", rate, "images/s", note,
                  goal=f"{STEPS_OF_PAPER:,} steps under 6 min", met=minutes < 6)  # fmt: skip
    cost = recorded / alone - 1
    bench.add("dynamics, of a step of ResNet-18", 100 * cost, "%", "", goal="at most 3 %", met=cost <= 0.03)


PARTS = {"limits": limits, "embed": embed, "knn": knn, "temi": temi, "resnet": resnet}


def main() -> int:
    """Measure, and print a Markdown table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    bench = Bench(options.small, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "timm": timm.__version__}
    print(f"{name}, {versions}", flush=True)

    def save(failed: dict[str, str], seconds: dict[str, float]) -> None:
        if options.json:
            figures = {
                "device": name,
                "versions": versions,
                "small": bench.small,
                "seconds": seconds,
                "failed": failed,
                "rows": [asdict(row) for row in bench.rows],
            }
            options.json.write_text(json.dumps(figures, indent=1))

    # All else is told beside the limits.
    parts = list(dict.fromkeys(["limits", *(options.parts or PARTS)]))
    failed = measure(bench, {part: PARTS[part] for part in parts}, save)
    print(f"\n| {name} | measured | goal | note |\n|---|---:|---|---|")
    for row in bench.rows:
        goal = row.goal and f"{row.goal}: {'yes' if row.met else 'no'}"
        print(f"| {row.what} | {row.value:,.4g} {row.unit} | {goal} | {row.note} |")
    for part, error in failed.items():
        print(f"| {part} | failed | | {error} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
