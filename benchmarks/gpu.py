"""What the engine's work takes on a GPU, beside the limits of that GPU, measured in the same run.

    python benchmarks/gpu.py                   # all, sized for a GPU with 80 GB or more; about 8 minutes
    python benchmarks/gpu.py knn temi          # some
    python benchmarks/gpu.py --small           # the same code in seconds on any device: shows that it works

Needs torch, timm, numpy and this package's `core`; no Ray, no faiss, no network: weights are random, which speed does
not notice. Times are medians of repeats after a first one that does not count, with the range.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # also from a checkout that is not installed

from temi_step import temi_step

from elfs_ray.core.classifier import sgd, train_step
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.networks import ResNet, prepare_images
from elfs_ray.core.product_index import ProductIndex, best_columns
from elfs_ray.encoders.base import Encoder, Preprocessing

MEAN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Bench:
    """Sizes, device, and the rows of the table."""

    small: bool
    device: torch.device
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def size(self, full: int, small: int) -> int:
        """The size to measure at."""
        return small if self.small else full

    def timed(self, action: Callable[[], object], repeats: int) -> list[float]:
        """Seconds of each repeat, the device idle before and after."""
        action()
        seconds = []
        for _ in range(1 if self.small else repeats):
            self.wait()
            started = time.perf_counter()
            action()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return seconds

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def add(self, what: str, value: float, unit: str, note: str = "") -> None:
        """Print a line now and keep it for the table."""
        self.rows.append((what, f"{value:,.4g} {unit}", note))
        print(f"{what:60} {value:12,.4g} {unit:12} {note}", flush=True)

    def images(self, count: int, side: int) -> Tensor:
        """Random pixels on the CPU, uint8 [n, 3, s, s]."""
        return torch.randint(256, (count, 3, side, side), dtype=torch.uint8)


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.4g} - {max(seconds):.4g} s, {len(seconds)} repeats"


def limits(bench: Bench) -> None:
    """Copy bandwidth and matrix rates: what nothing can go beyond."""
    values = torch.empty(bench.size(2**30, 2**20), dtype=torch.float32, device=bench.device)
    seconds = bench.timed(values.clone, 5)
    bench.add("copy, read and write", 2 * values.nbytes / statistics.median(seconds) / 1e9, "GB/s", spread(seconds))
    side = bench.size(8192, 256)
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = bench.timed(lambda a=a, b=b: a @ b, 10)
        bench.add(
            f"matrix product, {dtype}", 2 * side**3 / statistics.median(seconds) / 1e12, "TFLOP/s", spread(seconds)
        )


def embed(bench: Bench) -> None:
    """Encoders as the embed stage runs them (pinned uint8 in, vectors out), beside the bare network."""
    for name in ("vit_base_patch16_224", "resnet50"):
        module = timm.create_model("resnet18" if bench.small else name, num_classes=0)
        module = module.to(bench.device, memory_format=torch.channels_last)
        encoder = Encoder(name, module, Preprocessing(224, *MEAN_STD), module.num_features, "random")
        count = bench.size(256, 2)
        pixels = bench.images(count, 224)
        if bench.device.type == "cuda":
            pixels = pixels.pin_memory()
        inputs = torch.randn(count, 3, 224, 224, device=bench.device).to(memory_format=torch.channels_last)

        @torch.inference_mode()
        def bare(module: torch.nn.Module = module, inputs: Tensor = inputs) -> Tensor:
            with torch.autocast(bench.device.type, torch.bfloat16):
                return module(inputs)

        def staged(encoder: Encoder = encoder, pixels: Tensor = pixels) -> np.ndarray:
            vectors = encoder.encode(pixels.to(bench.device, non_blocking=True), torch.bfloat16)
            return vectors.cpu().numpy().astype(np.float16)

        reference, ours = bench.timed(bare, 20), bench.timed(staged, 20)
        rate, bare_rate = (count / statistics.median(seconds) for seconds in (ours, reference))
        note = f"{rate / bare_rate:.2f} of the bare model's {bare_rate:,.0f}; {spread(ours)}"
        bench.add(f"embed, {name}, 224 px, bfloat16", rate, "images/s", note)


def knn(bench: Bench) -> None:
    """Exact neighbours by rounded products: a share of the queries against all rows, its recall, where time goes."""
    count, dim, k, queries = bench.size(1_280_000, 4096), 768, 50, bench.size(32_768, 512)
    halves = crowded_rows(bench, count, dim)
    index = ProductIndex(count, dim, bench.device)
    for part in halves.split(65_536):
        index.add(part.cpu().numpy())
    wanted = torch.nn.functional.normalize(halves[:queries].float(), dim=1).cpu().numpy()
    parts = [wanted[start : start + 4096] for start in range(0, queries, 4096)]
    limit = matrix_rate(bench)
    for gigabytes in (1, 4, 2):  # the last one is the default, and the index that is looked at below
        index.block_bytes = gigabytes * 2**30 - 1
        seconds = bench.timed(lambda: [index.search(part, k) for part in parts], 3)
        rate = 2 * queries * count * dim / statistics.median(seconds)
        note = f"{rate / 1e12:.4g} TFLOP/s, {rate / limit:.2f} of the matrix rate; from {queries:,} queries"
        what = f"k-NN, {count:,} x {dim}, k {k}, blocks of {gigabytes} GiB"
        bench.add(what, statistics.median(seconds) * count / queries, "s", note)
    found = index.search(wanted[:512], k)[1]
    bench.add("k-NN, recall against float32", recall_of(found, halves, bench.device), "", "512 queries")
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


def matrix_rate(bench: Bench) -> float:
    """Operations per second of a large product in bfloat16."""
    side = bench.size(8192, 256)
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / statistics.median(bench.timed(lambda: a @ b, 10))


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
    """Steps of 50 heads with 1000 clusters; an epoch over 1.28 million pairs from them."""
    heads, dim, classes, pairs, samples = bench.size(50, 4), 768, bench.size(1000, 20), 512, 1_280_000
    for half in (False, True):
        step = partial(temi_step(heads, dim, classes, pairs, bench.device), half)
        seconds = bench.timed(step, 20)
        epoch = statistics.median(seconds) * samples / pairs
        work = 2 * 2 * pairs * heads * (dim * 512 + 512 * 256 + 256 * classes) * 4
        note = f"{work / statistics.median(seconds) / 1e12:.0f} TFLOP/s; a step {spread(seconds)}"
        bench.add(f"TEMI epoch, {heads} heads, {samples:,}, C {classes}, {'bfloat16' if half else 'float32'}",
                  epoch, "s", note)  # fmt: skip


def resnet(bench: Bench) -> None:
    """Training steps of the ResNet-18 proxy at 32 pixels: augmentation on the device, bfloat16, channels last."""
    count, batch = bench.size(50_000, 64), bench.size(256, 8)
    pixels = bench.images(count, 32).to(bench.device)
    labels = torch.randint(10, (count,))
    generator = torch.Generator().manual_seed(0)
    network = ResNet("resnet18", 32, 10, generator=generator).train()
    network.to(bench.device, memory_format=torch.channels_last)
    optimizer, dynamics = sgd(network, 0.1, 0.9, 5e-4), DynamicsAccumulator(count)

    def steps(record: bool) -> None:
        order = torch.randperm(count, generator=generator)
        for rows in order[: batch * bench.size(50, 1)].split(batch):
            inputs = prepare_images(pixels[rows.to(bench.device)], generator)
            logits = train_step(
                network, optimizer, inputs, labels[rows].to(bench.device), 0.01, dtype=torch.bfloat16
            )  # fmt: skip
            if record:
                dynamics.update(rows, logits.cpu(), labels[rows], 0)

    for record in (False, True):
        seconds = bench.timed(lambda record=record: steps(record), 5)
        rate = batch * bench.size(50, 1) / statistics.median(seconds)
        what = "with dynamics" if record else "training alone"
        note = f"40,000 steps of 256: {40_000 * 256 / rate / 60:.1f} min; {spread(seconds)}"
        bench.add(f"ResNet-18, 32 px, {what}", rate, "images/s", note)


PARTS = {"limits": limits, "embed": embed, "knn": knn, "temi": temi, "resnet": resnet}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it works")
    options = parser.parse_args()
    bench = Bench(options.small, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, timm {timm.__version__}", flush=True)
    for part in options.parts or PARTS:
        try:
            PARTS[part](bench)
        except torch.OutOfMemoryError as error:  # one part that does not fit must not lose the others
            print(f"{part}: {str(error).splitlines()[0]}", flush=True)
    print("\n| what | measured | note |\n|---|---:|---|")
    for row in bench.rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
