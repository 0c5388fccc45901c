"""An encoder trained on the images themselves, without labels (SimCLR), and its embeddings as small Parquet tables.

    python benchmarks/self_supervised.py --train cifar10/train --test cifar10/test --out benchmarks/data
    python benchmarks/self_supervised.py --train cifar10/train --test cifar10/test --out out --seconds 300
    python benchmarks/self_supervised.py --train cifar10/train --test cifar10/test --rows 512 --epochs 1 --out /tmp/try

For a GPU; the third command tries it on a CPU, the second takes as many epochs as fit into five minutes.
ResNet-18 with the stem for small images, a projection of two layers,
NT-Xent loss (Chen et al., ICML 2020, equation 1), SGD along a cosine, bfloat16 and channels-last. Images rest on the
device, where each is cropped, flipped, coloured and greyed by draws of its own (appendix A, without blur, as for
CIFAR-10). Training sees no label; the accuracy of 20 nearest neighbours at the end, which needs them, is a measurement.
Writes train.parquet and test.parquet: sample_id, label, vector (half precision, principal components), and
figures.json. With --checkpoint, a run that was stopped goes on after its last epoch. Needs torch, pyarrow, Pillow and
this package, not installed; no Ray, no network.
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # also from a checkout that is not installed

from elfs_ray.core.classifier import cosine_factor, sgd
from elfs_ray.core.components import PrincipalComponents
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.networks import ResNet
from elfs_ray.data.columns import ID_COLUMNS
from elfs_ray.data.images import decode, to_uint8

WIDTH, PROJECTED, NEIGHBORS, MAX_PIXELS = 512, 128, 20, 10**8
# Of the YIQ colour space, in which a hue is an angle.
TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; most processors are slow with it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def read_images(location: str, side: int, rows: int | None) -> tuple[list[str], Tensor]:
    """Ids, and pixels uint8 [N, 3, side, side], of the column `image` of a Parquet table or a folder of them."""
    table = pq.read_table(location).slice(0, rows)
    column = next((name for name in ID_COLUMNS if name in table.column_names), None)
    ids = table[column].to_pylist() if column else [str(row) for row in range(len(table))]
    images = np.empty((len(table), 3, side, side), dtype=np.uint8)
    for row, data in enumerate(table["image"].to_pylist()):
        images[row] = to_uint8(decode(data, max_pixels=MAX_PIXELS), side, 1.0, "bilinear")
    return [str(name) for name in ids], torch.from_numpy(images)


def read_label_column(location: str, column: str, rows: int) -> Tensor:
    """The labels of a Parquet table, as numbers int64 [N]."""
    values = pq.read_table(location, columns=[column])[column].to_pylist()[:rows]
    return torch.from_numpy(np.unique(values, return_inverse=True)[1])


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draws [count, 1, 1, 1]."""
    return torch.empty(count, 1, 1, 1, device=generator.device).uniform_(low, high, generator=generator)


def random_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """One augmented view in [-1, 1] of uint8 images [b, 3, s, s]; every image has draws of its own."""
    count = len(images)
    pixels = images.float() / 255

    area = uniform(count, 0.2, 1.0, generator)
    ratio = uniform(count, math.log(3 / 4), math.log(4 / 3), generator).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = ((1 - extent) * uniform(count, -1, 1, generator) for extent in (width, height))
    flip = torch.where(uniform(count, 0, 1, generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    rows = torch.cat([flip * width, zero, x], dim=3), torch.cat([zero, height, y], dim=3)
    grid = F.affine_grid(torch.cat(rows, dim=2).squeeze(1), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    jittered = uniform(count, 0, 1, generator) < 0.8
    pixels = torch.where(jittered, coloured(pixels, generator), pixels)
    greyed = uniform(count, 0, 1, generator) < 0.2
    return torch.where(greyed, grey(pixels).expand_as(pixels), pixels) * 2 - 1


def coloured(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation within 0.4 and hue within 0.1 of a turn, all drawn for each image."""
    brightness, contrast, saturation = (uniform(len(pixels), 0.6, 1.4, generator) for _ in range(3))
    pixels = (pixels * brightness).clamp(0, 1)
    mean = grey(pixels).mean(dim=(2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * contrast).clamp(0, 1)
    pixels = grey(pixels) + (pixels - grey(pixels)) * saturation
    angle = 2 * math.pi * uniform(len(pixels), -0.1, 0.1, generator)[:, :, 0]
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.cat([torch.cat([one, zero, zero], 2), torch.cat([zero, angle.cos(), -angle.sin()], 2),
                      torch.cat([zero, angle.sin(), angle.cos()], 2)], 1)  # fmt: skip
    to_yiq = TO_YIQ.to(pixels.device)
    return torch.einsum("bij,bjhw->bihw", to_yiq.inverse() @ turn @ to_yiq, pixels).clamp(0, 1)


def grey(pixels: Tensor) -> Tensor:
    """Luminance [b, 1, s, s]."""
    return (pixels * TO_YIQ[0].to(pixels.device)[None, :, None, None]).sum(dim=1, keepdim=True)


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views [b, d] of the same images."""
    both = F.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(similarity, partner)


@dataclass
class Schedule:
    """How many epochs there will be: as many as were asked for, or as fit into the seconds that there are.

    Attributes:
        epochs: in all; fewer once the time of an epoch is known.
        seconds: for all epochs of this process; infinite for no limit.
        measured: whether the number was cut to what fits.
    """

    epochs: int
    seconds: float
    measured: bool = False

    def fit(self, done: int, elapsed: float, last: float) -> None:
        """Cut the epochs to what fits, once: by an epoch that is not the first, which is slow to start.

        Args:
            done: epochs.
            elapsed: seconds of this process.
            last: seconds of the last epoch.
        """
        if not self.measured and math.isfinite(self.seconds):
            self.epochs = min(self.epochs, done + int(max(0.0, self.seconds - elapsed) / last))
            self.measured = True


class Training:
    """The network, its projection and all else that a checkpoint holds."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        weights = torch.Generator().manual_seed(options.seed)
        network = ResNet("resnet18", options.side, WIDTH, generator=weights)
        self.network = network.to(device, memory_format=torch.channels_last)
        torch.manual_seed(options.seed)
        self._projection = nn.Sequential(
            nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, PROJECTED)
        ).to(device)
        self._both = nn.ModuleList([self.network, self._projection])
        self._optimizer = sgd(self._both, 0.0, 0.9, 5e-4)
        self._draws = torch.Generator(device).manual_seed(options.seed)
        self._options, self._device = options, device

    def epoch(self, images: Tensor, number: int, epochs: int) -> float:
        """Train on all images once; returns the mean loss."""
        options, losses = self._options, []
        steps = max(1, len(images) // options.batch_size)
        warmup_steps = min(10, max(1, epochs // 10)) * steps
        order = torch.randperm(len(images), device=self._device, generator=self._draws)
        for position in range(steps):
            step = number * steps + position
            batch = images[order[position * options.batch_size : (position + 1) * options.batch_size]]
            views = torch.cat([random_view(batch, self._draws) for _ in range(2)])
            with half_precision(self._device):
                projected = self._projection(self.network.features(views.contiguous(memory_format=torch.channels_last)))
            loss = contrastive_loss(*projected.chunk(2), options.temperature)
            rate = options.learning_rate * options.batch_size / 256
            for group in self._optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / warmup_steps) * cosine_factor(step, epochs * steps)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def save(self, path: Path, done: int, schedule: Schedule) -> None:
        """Write a checkpoint, whole or not at all."""
        state: dict[str, Any] = {
            "networks": self._both.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "draws": self._draws.get_state(),
            "done": done,
            "epochs": schedule.epochs,
        }
        aside = path.with_suffix(".part")
        torch.save(state, aside)
        os.replace(aside, path)

    def load(self, path: Path) -> tuple[int, int]:
        """Go on from a checkpoint; returns the epochs done and in all."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._both.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._draws.set_state(state["draws"])
        return state["done"], state["epochs"]


def train(images: Tensor, options: argparse.Namespace, device: torch.device) -> tuple[ResNet, dict[str, Any]]:
    """Train for a number of epochs or seconds, and say how it goes; returns the network and what it took."""
    training, schedule, done = Training(options, device), Schedule(options.epochs, options.seconds), 0
    if options.checkpoint and options.checkpoint.exists():
        done, schedule.epochs = training.load(options.checkpoint)
        schedule.measured = done > 1
        print(f"going on after epoch {done}/{schedule.epochs}", flush=True)
    started, first, last = time.monotonic(), done, 0.0
    while done < schedule.epochs:
        elapsed = time.monotonic() - started
        if done > first and elapsed + last > schedule.seconds:
            break
        loss = training.epoch(images, done, schedule.epochs)
        done, before, elapsed = done + 1, elapsed, time.monotonic() - started
        last = elapsed - before
        if done - first >= 2:
            schedule.fit(done, elapsed, last)
        if options.checkpoint:
            training.save(options.checkpoint, done, schedule)
        print(f"epoch {done}/{schedule.epochs}, loss {loss:.4f}, {elapsed:.0f} s", flush=True)
    taken = {"epochs": done, "of": schedule.epochs, "seconds": round(time.monotonic() - started, 1)}
    return training.network, taken


@torch.inference_mode()
def embed(network: ResNet, images: Tensor, device: torch.device) -> np.ndarray:
    """Rows of unit length, float32 [N, 512]."""
    network.eval()
    blocks = []
    for block in images.split(1000):
        pixels = (block.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            blocks.append(network.features(pixels).float().cpu())
    return normalize_rows(torch.cat(blocks).numpy())


def neighbor_accuracy(vectors: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    """Share of the test images whose nearest neighbours mostly have their label; all on one device."""
    right, classes = 0, int(labels.max()) + 1
    for rows, wanted in zip(test.split(1000), truth.split(1000), strict=True):
        near = (rows @ vectors.T).topk(min(NEIGHBORS, len(vectors)), dim=1)
        votes = near.values.new_zeros(len(rows), classes).scatter_add_(1, labels[near.indices], near.values)
        right += int((votes.argmax(dim=1) == wanted).sum())
    return right / len(truth)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="images to learn from: a folder of Parquet tables")
    parser.add_argument("--test", required=True)
    parser.add_argument("--label-column", default="label", help="for the measurement")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--rows", type=int, help="of each table; default: all")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=math.inf, help="train no longer; so many epochs as fit")
    parser.add_argument("--checkpoint", type=Path, help="file to go on from, written after each epoch")
    parser.add_argument("--batch-size", type=int, default=512, help="images; each gives two views")
    parser.add_argument("--learning-rate", type=float, default=0.06, help="for a batch of 256")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--dims", type=int, default=112, help="principal components that are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = {name: read_images(getattr(options, name), options.side, options.rows) for name in ("train", "test")}
    images = {name: pixels.to(device) for name, (_, pixels) in data.items()}
    network, taken = train(images["train"], options, device)
    vectors = {name: embed(network, pixels, device) for name, pixels in images.items()}
    labels = {
        name: read_label_column(getattr(options, name), options.label_column, len(ids))
        for name, (ids, _) in data.items()
    }
    both = [(torch.from_numpy(vectors[name]).to(device), labels[name].to(device)) for name in ("train", "test")]
    accuracy = neighbor_accuracy(*both[0], *both[1])
    print(f"{taken['epochs']} epochs in {taken['seconds']} s; {NEIGHBORS} nearest neighbours: {accuracy:.1%} of the "
          "test images right")  # fmt: skip
    components = PrincipalComponents(vectors["train"], options.dims)
    options.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    figures = {"device": name, **taken, "neighbor_accuracy": accuracy, "images": len(data["train"][0])}
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1))
    for name, rows in vectors.items():
        reduced = normalize_rows(components.project(rows)).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(reduced.ravel()), options.dims)
        table = pa.table({"sample_id": data[name][0], "label": labels[name].numpy(), "vector": column})
        path = options.out / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        print(f"{path}: {len(rows):,} x {options.dims}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
