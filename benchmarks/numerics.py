"""Speed of the numerics beside plain references, written here from the formulas, in the same run on the same machine.

    python benchmarks/numerics.py                # all
    python benchmarks/numerics.py temi zcore     # some

Prints, for each, the median and the range of the repeats in seconds, and the ratio of the medians where there is a
reference. Quote ratios from an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from elfs_ray.config import PseudoLabelsConfig
from elfs_ray.core.augmentation import prepare_images
from elfs_ray.core.centers import greedy_k_center
from elfs_ray.core.classifier import Recipe, sgd, train_for_steps, train_step
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.exact_index import ExactIndex
from elfs_ray.core.graph import select_by_density, start_density
from elfs_ray.core.networks import ResNet, build_network
from elfs_ray.core.pruning import beta_sampling_weights, double_end_prune, stratified_prune, weighted_order
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from elfs_ray.core.zcore import Draws, as_columns, coverage_scores, draw
from elfs_ray.encoders import load_encoder
from elfs_ray.planning.auto_options import choose_pseudo_labels
from elfs_ray.workers.hardware import has_bfloat16

IMAGENET = 1_280_000


def timed(action: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    action()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return seconds


def in_turn(actions: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of the repeats of each action, one after the other in turn: what else computes disturbs all alike."""
    found: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats + 1):
        for action, seconds in zip(actions, found, strict=True):
            started = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - started)
    return [seconds[1:] for seconds in found]  # the first ones do not count


def report(name: str, ours: list[float], reference: list[float] | None = None, goal: str = "") -> None:
    """One line of the table."""

    def spread(seconds: list[float]) -> str:
        return f"{statistics.median(seconds):9.3f} s ({min(seconds):.3f} - {max(seconds):.3f})"

    ratio = f"ratio {statistics.median(ours) / statistics.median(reference):5.2f}" if reference else ""
    beside = f"reference {spread(reference)}" if reference else ""
    print(f"{name:42} {spread(ours)}  {beside}  {ratio}  {goal}", flush=True)


class LoopedHeads(nn.Module):
    """The heads as separate networks, called one after the other."""

    def __init__(self, heads: int, dim: int, classes: int) -> None:
        super().__init__()

        def head() -> nn.ModuleList:
            last = nn.utils.parametrizations.weight_norm(nn.Linear(256, classes, bias=False))
            return nn.ModuleList([nn.Linear(dim, 512), nn.Linear(512, 256), last])

        self.heads = nn.ModuleList(head() for _ in range(heads))

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each head."""
        return [last(F.normalize(second(F.gelu(first(inputs))), dim=1)) for first, second, last in self.heads]


def looped_loss(student: list[torch.Tensor], teacher: list[torch.Tensor], priors: list[torch.Tensor]) -> torch.Tensor:
    """The TEMI loss, head by head and view by view."""
    probabilities = [F.softmax(logits / 0.1, dim=1) for logits in teacher]
    views = [p.chunk(2) for p in probabilities]
    weight = sum((first * second).sum(dim=1) for first, second in views) / len(views)
    losses = []
    for number, logits in enumerate(student):
        priors[number] = 0.9 * priors[number] + 0.1 * probabilities[number].mean(dim=0)
        own = F.softmax(logits / 0.1, dim=1).chunk(2)
        for this, other in ((0, 1), (1, 0)):
            information = ((own[this] * views[number][other]) ** 0.6 / priors[number]).sum(dim=1).log()
            losses.append(-(weight * information).mean() / 2)
    return torch.stack(losses).sum() / len(student)


def temi(classes: int) -> None:
    heads, dim, pairs = 50, 768, 512
    generator = torch.Generator().manual_seed(0)
    views = F.normalize(torch.randn(2 * pairs, dim, generator=generator), dim=1)
    device = torch.device("cpu")
    single, half = (
        TemiTraining(TemiOptions(heads, classes, dtype=dtype), dim, 0, device)
        for dtype in (torch.float32, torch.bfloat16)
    )
    loop_student, loop_teacher = LoopedHeads(heads, dim, classes), LoopedHeads(heads, dim, classes)
    loop_optimizer = torch.optim.AdamW(loop_student.parameters(), lr=1e-4, weight_decay=1e-4)
    priors = [torch.full((classes,), 1 / classes) for _ in range(heads)]

    def loop_step() -> None:
        with torch.no_grad():
            target = loop_teacher(views)
        loss = looped_loss(loop_student(views), target, priors)
        loop_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loop_optimizer.step()
        with torch.no_grad():
            for old, new in zip(loop_teacher.parameters(), loop_student.parameters(), strict=True):
                old.mul_(0.996).add_(new, alpha=0.004)

    reference = timed(loop_step, 5)
    report(
        f"TEMI step, 50 heads, C = {classes}",
        timed(lambda: single.step(views, 1e-4), 5),
        reference,
        "goal: ratio <= 0.6",
    )
    report(f"TEMI step, 50 heads, C = {classes}, bfloat16", timed(lambda: half.step(views, 1e-4), 5), reference)


def small_temi() -> None:
    """Heads and batches as `auto` chooses them on processors for few images, in either arithmetic."""
    for rows in (300, 1000, 2000, 4096, 8192, 16_384):
        options = choose_pseudo_labels(PseudoLabelsConfig(), "cpu", 1, rows, 1280)
        heads, hidden, bottleneck = (
            int(value) for value in (options.heads, options.hidden_dim, options.bottleneck_dim)
        )
        views = F.normalize(torch.randn(2 * int(options.batch_size), int(options.pca_dim)), dim=1)
        single, half = (
            TemiTraining(
                TemiOptions(heads, 10, hidden, bottleneck, dtype=dtype), views.shape[1], 0, torch.device("cpu")
            )
            for dtype in (torch.float32, torch.bfloat16)
        )
        seconds = in_turn([lambda: half.step(views, 1e-4), lambda: single.step(views, 1e-4)], 9)  # noqa: B023
        report(f"TEMI step, {rows} images, {heads} heads, bfloat16", *seconds, "reference: float32")


def knn() -> None:
    """Exact neighbours of all rows, beside a product of torch and its `topk`, and beside faiss."""
    for count, dim, k in ((20_000, 512, 50), (2000, 1280, 50), (300, 1280, 50)):
        vectors = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tensor, threads = torch.from_numpy(vectors), torch.get_num_threads()
        index = ExactIndex(vectors, bfloat16=has_bfloat16(), threads=threads)

        def ours(index: ExactIndex = index, vectors: np.ndarray = vectors, k: int = k) -> None:
            for start in range(0, len(vectors), 4096):
                index.search(vectors[start : start + 4096], k + 1)

        def plain(tensor: torch.Tensor = tensor, k: int = k) -> None:
            for part in tensor.split(4096):
                (part @ tensor.T).topk(k + 1, dim=1)

        def flat(vectors: np.ndarray = vectors, k: int = k) -> None:
            faiss.knn(vectors, vectors, k + 1, metric=faiss.METRIC_INNER_PRODUCT)

        seconds = in_turn([ours, plain, flat], 3)
        report(f"k-NN, {count} x {dim}", seconds[0], seconds[1], "reference: torch; goal: ratio <= 1")
        report("faiss beside the same", seconds[2], seconds[1])


def zcore() -> None:
    rng = np.random.default_rng(0)
    for count in (20_000, 50_000):
        embeddings = rng.normal(size=(count, 512)).astype(np.float32)
        columns = as_columns(embeddings)
        draws = draw(columns, 1000, 2, rng)
        few = Draws(draws.dims[:20], draws.points[:20])

        def plain(embeddings: np.ndarray = embeddings, few: Draws = few) -> None:
            scores = np.zeros(len(embeddings))
            for dims, point in zip(*few, strict=True):
                view = embeddings[:, dims]
                nearest = np.abs(view - point).sum(axis=1).argmin()
                scores[nearest] += 1
                distances = np.abs(view - view[nearest]).sum(axis=1)
                order = np.argsort(distances)[1:1001]
                weights = distances[order] ** -4.0
                scores[order] -= weights / weights.sum()

        def all_of_it(embeddings: np.ndarray = embeddings) -> None:
            columns = as_columns(embeddings)
            coverage_scores(columns, draw(columns, 1000, 2, rng), 1000)

        actions: list[Callable[[], object]] = [
            all_of_it,
            lambda columns=columns: draw(columns, 1000, 2, rng),  # type: ignore[misc]
            lambda columns=columns, draws=draws: coverage_scores(columns, draws, 1000),  # type: ignore[misc]
            plain,
        ]
        *ours, reference = in_turn(actions, 5)
        reference = [50 * seconds for seconds in reference]
        goal = "goal: <= 0.06 s" if count == 20_000 else ""
        for what, seconds in zip(("1000 draws in all", "drawing them", "scoring them"), ours, strict=True):
            report(f"ZCore, N {count}, {what}", seconds, reference, goal)


def d2() -> None:
    rng = np.random.default_rng(0)

    def graph(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        neighbor_ids = rng.integers(count, size=(count, 10))
        distances = np.sort(rng.random((count, 10)), axis=1)
        return start_density(np.ones(count), distances, neighbor_ids, product=False), distances, neighbor_ids

    def ours(density: np.ndarray, distances: np.ndarray, neighbor_ids: np.ndarray) -> np.ndarray:
        nothing = np.zeros(len(density), dtype=bool)
        return select_by_density(density, distances, neighbor_ids, 1.0, True, len(density) // 2, nothing)

    def plain(density: np.ndarray, distances: np.ndarray, neighbor_ids: np.ndarray) -> None:
        density = density.copy()
        for _ in range(len(density) // 2):
            row = density.argmax()
            density[neighbor_ids[row]] -= np.exp(-distances[row]) * density[row]
            density[row] = -np.inf

    small = graph(50_000)
    report("D2, N 50,000, half", timed(lambda: ours(*small), 3), timed(lambda: plain(*small), 1))
    large = graph(IMAGENET)
    report("D2, N 1,280,000, half", timed(lambda: ours(*large), 2), goal="goal: <= 10 s")


def k_center() -> None:
    vectors = np.random.default_rng(0).normal(size=(50_000, 256)).astype(np.float32)
    report("k-centre, N 50,000, d 256, 5,000 centres", timed(lambda: greedy_k_center(vectors, 5000), 1),
           goal="goal: <= 60 s")  # fmt: skip


def selection() -> None:
    rng = np.random.default_rng(0)
    hardness, mean = rng.random(IMAGENET), rng.random(IMAGENET)
    budget, ids = IMAGENET // 10, np.arange(IMAGENET)
    tensor = torch.from_numpy(hardness)

    def dual() -> None:
        weighted_order(beta_sampling_weights(hardness, mean, 0.1, 5.5), ids, rng)

    *ours, reference = in_turn(
        [
            lambda: double_end_prune(hardness, budget, 0.3, ids),
            lambda: stratified_prune(hardness, budget, 0.3, rng, ids=ids),
            dual,
            lambda: torch.argsort(tensor, descending=True),
        ],
        5,
    )
    for name, seconds in zip(("ELFS", "CCS", "DUAL"), ours, strict=True):
        report(f"{name}, N 1,280,000", seconds, reference, "reference: torch.argsort; goal: ratio <= 1")


def dynamics() -> None:
    generator = torch.Generator().manual_seed(0)
    network = ResNet("resnet18", 32, 1000, generator=generator)
    optimizer = sgd(network, 0.1, 0.9, 5e-4)
    images = torch.randn(256, 3, 32, 32, generator=generator)
    labels = torch.randint(1000, (256,), generator=generator)
    accumulator = DynamicsAccumulator(100_000)
    rows = torch.randperm(100_000, generator=generator)[:256]
    logits = torch.randn(256, 1000, generator=generator)
    training = timed(lambda: train_step(network, optimizer, images, labels, 0.1), 3)
    recording = timed(lambda: accumulator.update(rows, logits, labels, 5), 20)
    report("dynamics, batch 256, C 1000 / ResNet-18 step", recording, training, "goal: ratio <= 0.02")


def encoder() -> None:
    """The default arithmetic and batches of embed on this processor, on one thread, as each encoder of a run has."""
    model, threads = load_encoder("efficientnet-lite0"), torch.get_num_threads()
    model.module.to(memory_format=torch.channels_last)
    images = torch.randint(256, (64, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = images.to(memory_format=torch.channels_last).float() / 255

    @torch.inference_mode()
    def at_once() -> None:
        model.module(pixels)

    torch.set_num_threads(1)
    single, half = (
        timed(lambda dtype=dtype: model.encode(images, dtype), 5)  # type: ignore[misc]
        for dtype in (torch.float32, torch.bfloat16)
    )
    report("Lite0, 64 images of 128 px, float32", single, timed(at_once, 5), "reference: in one pass")
    told = "has" if has_bfloat16() else "has no"
    report(f"the same in bfloat16 (processor {told} such)", half, single, "reference: float32")
    torch.set_num_threads(threads)


def network() -> None:
    """A training of `resnet-small` in either arithmetic on one thread, as searches and evaluations train it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for side in (32, 64):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (1024, 3, side, side), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (1024,), generator=generator)
        single, half = (timed(trained(images, labels, dtype), 3) for dtype in (torch.float32, torch.bfloat16))
        report(f"resnet-small, 16 steps of 128, {side} px, bfloat16", half, single, "reference: float32")
    torch.set_num_threads(threads)


def trained(images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """What trains a new network for a few steps."""
    generator = torch.Generator().manual_seed(0)
    model = build_network("resnet-small", images, 10, 0, generator=generator)
    recipe = Recipe(steps=16, batch_size=128, learning_rate=0.1, dtype=dtype)
    return lambda: train_for_steps(model, images, labels, recipe, generator, prepare_images)


BENCHMARKS: dict[str, Callable[[], None]] = {
    "temi": lambda: [temi(classes) for classes in (10, 100)] and None,
    "small_temi": small_temi,
    "knn": knn,
    "zcore": zcore,
    "d2": d2,
    "kcenter": k_center,
    "selection": selection,
    "dynamics": dynamics,
    "encoder": encoder,
    "network": network,
}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which; default: all")
    names = parser.parse_args().names or list(BENCHMARKS)
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads")
    for name in names:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
