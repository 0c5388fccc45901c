"""The loop that trains and tests a classifier on embeddings or images: proxy, search of beta, evaluation.

Symbols: N samples, b rows in a batch, C classes.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

Prepare = Callable[[Tensor, torch.Generator | None], Tensor]
"""Makes a batch ready for the network; with a generator, as it is trained on (augmented), without, as it is tested."""


def unprepared(inputs: Tensor, _: torch.Generator | None) -> Tensor:
    """The batch as it is: embeddings."""
    return inputs


def epoch_batches(
    num_samples: int, batch_size: int, min_rows: int, generator: torch.Generator
) -> Iterator[Int64[Tensor, " b"]]:
    """Positions of each batch of an epoch in random order; a last batch under `min_rows` joins the one before."""
    order = torch.randperm(num_samples, generator=generator)
    starts = list(range(0, num_samples, batch_size))
    if len(starts) > 1 and num_samples - starts[-1] < min_rows:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], num_samples], strict=True):
        yield order[start:stop]


def sgd(model: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum, as the papers train proxies and evaluation models."""
    return torch.optim.SGD(
        model.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
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
    after_backward: Callable[[nn.Module], None] = lambda _: None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b C"]:
    """One cross-entropy step; returns the logits [b, C] it was computed from.

    `after_backward` may change the gradients before the step, such as average them over workers. `dtype` is the
    arithmetic of the network; the loss is float32.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Tensor = model(inputs)
    if dtype != torch.float32:
        logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    after_backward(model)
    optimizer.step()
    return logits.detach()


def train_for_steps(
    model: nn.Module, inputs: Shaped[Tensor, "N ..."], labels: Int64[Tensor, " N"], *, steps: int, **options: Any
) -> None:
    """Train in place for a fixed number of steps, so that a larger coreset is not also a longer training.

    The options are those of `training_steps`.
    """
    for _ in training_steps(model, inputs, labels, steps=steps, **options):
        pass


def training_steps(
    model: nn.Module,
    inputs: Shaped[Tensor, "N ..."],
    labels: Int64[Tensor, " N"],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    prepare: Prepare = unprepared,
    dtype: torch.dtype = torch.float32,
) -> Iterator[int]:
    """Train in place, and give the number of steps done after each; who switches to evaluation switches back."""
    model.train()
    optimizer = sgd(model, learning_rate, momentum, weight_decay)
    step = 0
    while step < steps:
        for rows in epoch_batches(len(inputs), batch_size, 2, generator):
            rate = learning_rate * cosine_factor(step, steps)
            train_step(model, optimizer, prepare(inputs[rows], generator), labels[rows], rate, dtype=dtype)
            step += 1
            yield step
            if step == steps:
                return


@torch.inference_mode()
def accuracy(
    model: nn.Module,
    inputs: Shaped[Tensor, "N ..."],
    labels: Int64[Tensor, " N"],
    batch_size: int = 4096,
    prepare: Prepare = unprepared,
) -> float:
    """Share of samples whose most probable class is their label."""
    model.eval()
    batches = zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    correct = sum(int((model(prepare(x, None)).argmax(dim=1) == y).sum()) for x, y in batches)
    return correct / len(labels)
