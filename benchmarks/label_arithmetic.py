"""What the arithmetic of TEMI does to pseudo-labels: their accuracy in float32 and in bfloat16, seed by seed.

    python benchmarks/label_arithmetic.py flowers.npz cifar10.npz --rows 2000 --seeds 5

Each file holds `vectors`, float [N, d], and the true `labels`, int [N]. Options are those that a run on processors
chooses for so many images, training as in the stage. Where the processor has no instructions for bfloat16, products of
rounded values summed in float32 and rounded once stand in for them: the same numbers up to the order of the sums.
"""

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from elfs_ray.config import PseudoLabelsConfig
from elfs_ray.core.classifier import epoch_batches
from elfs_ray.core.components import PrincipalComponents
from elfs_ray.core.exact_index import ExactIndex
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.knn import drop_self
from elfs_ray.core.metrics import cluster_accuracy, mean_and_interval
from elfs_ray.core.temi import consensus, head_alignment, warmup_schedule
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from elfs_ray.planning.auto_options import choose_pseudo_labels
from elfs_ray.workers.hardware import has_bfloat16

NEIGHBORS = 50
PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


class FloatProducts(TorchDispatchMode):
    """Products of bfloat16 matrices, computed in float32 and rounded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket not in PRODUCTS or args[-1].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        return func(*(each.float() for each in args), **(kwargs or {})).bfloat16()


def pseudo_labels(
    inputs: torch.Tensor, neighbors: torch.Tensor, options: PseudoLabelsConfig, classes: int, dtype: str, seed: int
) -> np.ndarray:
    """Train the heads as the stage does, on one worker; returns the labels that they agree on."""
    names = {"heads", "hidden_dim", "bottleneck_dim", "beta", "student_temperature", "teacher_temperature",
             "teacher_momentum", "prior_momentum", "weight_decay"}  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    temi = TemiOptions(num_classes=classes, dtype=getattr(torch, dtype), **given)
    training = TemiTraining(temi, inputs.shape[1], seed, torch.device("cpu"))
    epochs, batch_size = int(options.epochs), int(options.batch_size)
    steps = max(1, len(inputs) // batch_size)
    warmup = round(options.warmup_fraction * epochs) * steps
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed + epoch)
        training.losses.zero_()
        for number, rows in enumerate(epoch_batches(len(inputs), batch_size, batch_size, generator)):
            partners = neighbors[rows, torch.randint(neighbors.shape[1], (len(rows),), generator=generator)]
            rate = float(options.learning_rate) * batch_size / 256
            rate *= warmup_schedule(epoch * steps + number, warmup)
            training.step(inputs[torch.cat([rows, partners])], rate, last_layer_frozen=epoch == 0)
    probabilities = training.probabilities(inputs)
    aligned = head_alignment(probabilities.argmax(dim=2).numpy(), int(training.losses.argmin()), classes)
    return consensus(probabilities, torch.from_numpy(aligned), range(len(aligned)))[0].numpy()


def accuracies(path: Path, rows: int, seeds: int) -> dict[str, list[float]]:
    """Accuracy in per cent of the pseudo-labels of some images, for each arithmetic, by seed."""
    loaded = np.load(path)
    vectors, labels = normalize_rows(loaded["vectors"][:rows]), loaded["labels"][:rows].astype(np.int64)
    classes = int(labels.max()) + 1
    similarity, ids = ExactIndex(vectors, threads=torch.get_num_threads()).search(vectors, NEIGHBORS + 1)
    ids, _ = drop_self(ids, similarity, np.arange(len(vectors)), NEIGHBORS)
    options = choose_pseudo_labels(PseudoLabelsConfig(), "cpu", 1, *vectors.shape)
    components = PrincipalComponents(vectors, int(options.pca_dim))
    inputs = torch.from_numpy(normalize_rows(components.project(vectors)))
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for dtype in ("float32", "bfloat16"):
            plain = dtype == "float32" or has_bfloat16()
            with contextlib.nullcontext() if plain else FloatProducts():
                given = pseudo_labels(inputs, torch.from_numpy(ids), options, classes, dtype, seed)
            found.setdefault(dtype, []).append(100 * cluster_accuracy(labels, given))
            print(f"{path.stem}  seed {seed}  {dtype}  {found[dtype][-1]:.2f}", flush=True)
    return found


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=2000, help="images of each file, the first ones")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found = {path.stem: accuracies(path, options.rows, options.seeds) for path in options.files}
    print("| images | float32, % | bfloat16, % | less float32, points (95 %) |\n|---|---|---|---|")
    for name, both in found.items():
        single, half = (mean_and_interval(both[dtype]) for dtype in ("float32", "bfloat16"))
        gain = mean_and_interval([h - s for s, h in zip(both["float32"], both["bfloat16"], strict=True)])
        print(f"| {name} | {single.mean:.2f} ± {single.std:.2f} | {half.mean:.2f} ± {half.std:.2f} | "
              f"{gain.mean:+.2f} ± {gain.half_width:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
