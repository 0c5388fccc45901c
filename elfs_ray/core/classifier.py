"""The loop that trains and tests a classifier on embeddings or images: proxy, search of beta, evaluation.

Symbols: N samples, b rows in a batch, C classes.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from elfs_ray.core.augmentation import Draws
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.optimizers import SGD

Inputs = Shaped[Tensor, "N ..."] | DeviceRows
"""What samples look like: a tensor, or rows that may be elsewhere than the device."""

MOMENTUM = 0.9

Prepare = Callable[[Tensor, Draws | None], Tensor]
"""Makes a batch ready for the network; with draws, as it is trained on (augmented), without, as it is tested."""


def unprepared(inputs: Tensor, _: Draws | None) -> Tensor:
    """The batch as it is: embeddings."""
    return inputs


def epoch_batches(
    num_samples: int, batch_size: int, min_rows: int, generator: torch.Generator
) -> list[Int64[Tensor, " _"]]:
    """Positions of each batch of an epoch in random order; a last batch under `min_rows` joins the one before.

    They lie on the device of the generator.
    """
    order = torch.randperm(num_samples, generator=generator, device=generator.device)
    starts = list(range(0, num_samples, batch_size))
    if len(starts) > 1 and num_samples - starts[-1] < min_rows:
        starts.pop()
    return [order[start:stop] for start, stop in zip(starts, [*starts[1:], num_samples], strict=True)]


def sgd(model: nn.Module, learning_rate: float, momentum: float, weight_decay: float, *, fused: bool = False) -> SGD:
    """SGD with Nesterov momentum, as the papers train proxies and evaluation models; fused on a GPU, or if asked."""
    return SGD(
        model.parameters(),
        learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=momentum > 0,
        fused=fused or next(model.parameters()).is_cuda or None,
    )


def cosine_factor(step: float, total_steps: int) -> float:
    """Factor of the learning rate at a step: cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / total_steps))


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Float[Tensor, "b ..."],
    labels: Int64[Tensor, " b"],
    learning_rate: float,
    *,
    weight: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b C"]:
    """One cross-entropy step; returns the logits [b, C] it was computed from.

    Nothing in it waits for the device.

    Args:
        model: gives logits.
        optimizer: of its parameters.
        inputs: [b, ...]; none at all for a worker whose share of a batch is empty.
        labels: int64 [b].
        learning_rate: of this step.
        weight: of the loss: what this worker's share counts for in the mean over the batch.
        dtype: arithmetic of the network; the loss is float32.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Tensor = model(inputs)
    if dtype != torch.float32:
        logits = logits.float()
    # The mean over no rows would be NaN.
    loss = F.cross_entropy(logits, labels) * weight if len(labels) else logits.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return logits.detach()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained for a fixed number of steps, so that a larger coreset is not also a longer training.

    Attributes:
        steps: optimizer steps.
        batch_size: samples in a step.
        learning_rate: the largest; cosine to zero.
        weight_decay: of SGD.
        dtype: arithmetic of the network in training.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-4
    dtype: torch.dtype = torch.float32


def training_steps(
    model: nn.Module,
    inputs: Inputs,
    labels: Int64[Tensor, " N"],
    recipe: Recipe,
    generator: torch.Generator,
    prepare: Prepare = unprepared,
) -> Iterator[int]:
    """Train in place, and give the number of steps done after each; who switches to evaluation switches back.

    Args:
        model: on the device of the labels.
        inputs: [N, ...], on that device or fed to it.
        labels: int64 [N].
        recipe: how.
        generator: source of the order of the samples; its seed decides what `prepare` draws.
        prepare: makes a batch ready for the network.
    """
    model.train()
    optimizer = sgd(model, recipe.learning_rate, MOMENTUM, recipe.weight_decay)
    rows, order = as_rows(inputs), generator_on(labels.device, generator)
    step = 0
    for epoch in itertools.count():
        batches = epoch_batches(len(rows), recipe.batch_size, 2, order)[: recipe.steps - step]
        for positions, batch in zip(batches, rows.batches(batches), strict=True):
            prepared = prepare(batch, Draws(generator.initial_seed(), epoch, positions))
            rate = recipe.learning_rate * cosine_factor(step, recipe.steps)
            train_step(model, optimizer, prepared, labels[positions], rate, dtype=recipe.dtype)
            step += 1
            yield step
        if step >= recipe.steps:
            return


def train_for_steps(model: nn.Module, inputs: Inputs, *arguments: Any) -> None:
    """Train in place, as `training_steps`, to the end."""
    deque(training_steps(model, inputs, *arguments), maxlen=0)


def as_rows(inputs: Inputs) -> DeviceRows:
    """Rows that batches are taken from; a tensor's stay where they are."""
    return inputs if isinstance(inputs, DeviceRows) else DeviceRows(inputs, Room(inputs.device))


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator itself if it is of the device, or one there with the same seed."""
    if generator.device.type == device.type:
        return generator
    return torch.Generator(device).manual_seed(generator.initial_seed())


def accuracy(
    model: nn.Module,
    inputs: Inputs,
    labels: Int64[Tensor, " N"],
    batch_size: int = 4096,
    prepare: Prepare = unprepared,
) -> float:
    """Share of samples whose most probable class is their label."""
    return int(count_correct(model, inputs, labels, batch_size, prepare)) / len(labels)


@torch.inference_mode()
def count_correct(
    model: nn.Module, inputs: Inputs, labels: Int64[Tensor, " N"], batch_size: int, prepare: Prepare
) -> Int64[Tensor, ""]:
    """How many samples have their label as the most probable class; nothing waits for the device."""
    model.eval()
    positions = torch.arange(len(labels), device=labels.device).split(batch_size)
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for batch, rows in zip(as_rows(inputs).batches(positions), positions, strict=True):
        correct += (model(prepare(batch, None)).argmax(dim=1) == labels[rows]).sum()
    return correct
