"""An encoder trained on the images themselves, without labels (SimCLR), and its embeddings as small Parquet tables.

    python benchmarks/self_supervised.py --train cifar10/train --test cifar10/test --out benchmarks/data
    python benchmarks/self_supervised.py --train cifar10/train --test cifar10/test --rows 512 --epochs 1 --out /tmp/try

For a GPU; the second command tries it on a CPU. ResNet-18 with the stem for small images, a projection of two layers,
NT-Xent loss (Chen et al., ICML 2020, equation 1), SGD along a cosine, bfloat16 and channels-last. Images rest on the
device, where each is cropped, flipped, coloured and greyed by draws of its own (appendix A, without blur, as for
CIFAR-10). Training sees no label; the accuracy of 20 nearest neighbours at the end, which needs them, is a measurement.
Writes train.parquet and test.parquet: sample_id, label, vector (half precision, principal components).
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elfs_ray.core.classifier import cosine_factor, sgd
from elfs_ray.core.features import PrincipalComponents, normalize_rows
from elfs_ray.core.networks import ResNet
from elfs_ray.data.images import decode, to_uint8
from elfs_ray.data.sources import open_source

WIDTH, PROJECTED, NEIGHBORS, MAX_PIXELS = 512, 128, 20, 10**8
# Of the YIQ colour space, in which a hue is an angle.
TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def read_images(location: str, side: int, rows: int | None) -> tuple[list[str], Tensor]:
    """Ids, and pixels uint8 [N, 3, side, side]."""
    source = open_source(location)
    ids, images = list[str](), list[np.ndarray]()
    for chunk in source.chunks:
        table = source.read(chunk)
        ids += table["sample_id"].to_pylist()
        for data in table["image"].to_pylist():
            images.append(to_uint8(decode(data, max_pixels=MAX_PIXELS), side, 1.0, "bilinear"))
        if rows and len(ids) >= rows:
            break
    return ids[:rows], torch.from_numpy(np.stack(images[:rows]))


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


def train(images: Tensor, options: argparse.Namespace, device: torch.device) -> ResNet:
    """Train for a number of epochs, and say how it goes."""
    weights = torch.Generator().manual_seed(options.seed)
    network = ResNet("resnet18", images.shape[-1], WIDTH, generator=weights)
    network = network.to(device, memory_format=torch.channels_last)
    torch.manual_seed(options.seed)
    projection = nn.Sequential(
        nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, PROJECTED)
    ).to(device)
    optimizer = sgd(nn.ModuleList([network, projection]), 0.0, 0.9, 5e-4)
    draws = torch.Generator(device).manual_seed(options.seed)
    steps_an_epoch = max(1, len(images) // options.batch_size)
    total, step, started = options.epochs * steps_an_epoch, 0, time.monotonic()
    for epoch in range(options.epochs):
        losses = []
        order = torch.randperm(len(images), device=device, generator=draws)
        for number in range(steps_an_epoch):
            batch = images[order[number * options.batch_size : (number + 1) * options.batch_size]]
            views = torch.cat([random_view(batch, draws) for _ in range(2)]).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast(device.type, torch.bfloat16):
                projected = projection(network.features(views))
            loss = contrastive_loss(*projected.chunk(2), options.temperature)
            warmup = min(1.0, (step + 1) / (10 * steps_an_epoch))
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * options.batch_size / 256 * warmup * cosine_factor(step, total)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
        seconds = time.monotonic() - started
        left = seconds / (epoch + 1) * (options.epochs - epoch - 1)
        print(f"epoch {epoch + 1}/{options.epochs}, loss {torch.stack(losses).mean():.4f}, {seconds:.0f} s, "
              f"{left:.0f} s left", flush=True)  # fmt: skip
    return network


@torch.inference_mode()
def embed(network: ResNet, images: Tensor, device: torch.device) -> np.ndarray:
    """Rows of unit length, float32 [N, 512]."""
    network.eval()
    blocks = []
    for block in images.split(1000):
        pixels = (block.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            blocks.append(network.features(pixels).float().cpu())
    return normalize_rows(torch.cat(blocks).numpy())


def neighbor_accuracy(vectors: np.ndarray, labels: Tensor, test: np.ndarray, truth: Tensor) -> float:
    """Share of the test images whose nearest neighbours mostly have their label."""
    right, database = 0, torch.from_numpy(vectors)
    classes = int(labels.max()) + 1
    for rows, wanted in zip(torch.from_numpy(test).split(1000), truth.split(1000), strict=True):
        near = (rows @ database.T).topk(min(NEIGHBORS, len(database)), dim=1)
        votes = torch.zeros(len(rows), classes).scatter_add_(1, labels[near.indices], near.values)
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
    parser.add_argument("--batch-size", type=int, default=512, help="images; each gives two views")
    parser.add_argument("--learning-rate", type=float, default=0.06, help="for a batch of 256")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--dims", type=int, default=112, help="principal components that are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = {name: read_images(getattr(options, name), options.side, options.rows) for name in ("train", "test")}
    images = {name: pixels.to(device) for name, (_, pixels) in data.items()}
    network = train(images["train"], options, device)
    vectors = {name: embed(network, pixels, device) for name, pixels in images.items()}
    labels = {
        name: read_label_column(getattr(options, name), options.label_column, len(ids))
        for name, (ids, _) in data.items()
    }
    both = (vectors["train"], labels["train"]), (vectors["test"], labels["test"])
    print(f"{NEIGHBORS} nearest neighbours: {neighbor_accuracy(*both[0], *both[1]):.1%} of the test images right")
    components = PrincipalComponents(vectors["train"], options.dims)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in vectors.items():
        reduced = normalize_rows(components.project(rows)).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(reduced.ravel()), options.dims)
        table = pa.table({"sample_id": data[name][0], "label": labels[name].numpy(), "vector": column})
        path = options.out / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        print(f"{path}: {len(rows):,} x {options.dims}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
