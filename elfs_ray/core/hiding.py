"""Training that hides what the classifier has learned (KAKURENBO: Nguyen et al., NeurIPS 2023, arXiv 2310.10102).

Symbols: N samples, b rows in a batch, C classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from elfs_ray.core.augmentation import Draws
from elfs_ray.core.classifier import (
    MOMENTUM,
    Inputs,
    Prepare,
    Recipe,
    as_rows,
    cosine_factor,
    epoch_batches,
    generator_on,
    sgd,
    train_step,
    unprepared,
)

CONFIDENCE = 0.7
# From which part of the training on, how much of the largest share is hidden.
SCHEDULE = ((0.8, 0.4), (0.6, 0.6), (0.3, 0.8), (0.0, 1.0))


def hidden_share(progress: float, largest: float) -> float:
    """The most that an epoch may hide: less and less as training goes on, `progress` from 0 to 1."""
    return largest * next(part for start, part in SCHEDULE if progress >= start)


def choose_hidden(
    losses: Float[Tensor, " N"], correct: Bool[Tensor, " N"], confidence: Float[Tensor, " N"], share: float
) -> Bool[Tensor, " N"]:
    """The samples of lowest loss, of which those move back that are predicted wrongly or with little confidence.

    Args:
        losses: of each sample when it was last seen, float [N].
        correct: whether it was then predicted rightly, bool [N].
        confidence: probability of its predicted class then, float [N].
        share: of the samples to hide at most.

    Returns:
        bool [N].
    """
    hidden = torch.zeros_like(correct)
    hidden[losses.argsort(stable=True)[: int(share * len(losses))]] = True
    return hidden & correct & (confidence >= CONFIDENCE)


def train_with_hiding(
    model: nn.Module,
    inputs: Inputs,
    labels: Int[Tensor, " N"],
    recipe: Recipe,
    generator: torch.Generator,
    prepare: Prepare = unprepared,
    *,
    largest: float,
) -> int:
    """Train in place for as many epochs as the recipe would without hiding; one that hides takes fewer steps.

    The learning rate rises by what is hidden, as published. Hidden samples are looked at once after each epoch.

    Args:
        model: of a classifier.
        inputs: [N, ...].
        labels: int64 [N].
        recipe: how.
        generator: source of the order of the samples.
        prepare: makes a batch ready for the network.
        largest: share of the samples that an epoch hides at most, 0 to below 1.

    Returns:
        The optimizer steps taken.
    """
    optimizer, seen = sgd(model, recipe.learning_rate, MOMENTUM, recipe.weight_decay), _LastSeen(labels)
    samples, order = as_rows(inputs), generator_on(labels.device, generator)
    progress, taken, epoch = 0.0, 0, 0
    while progress < recipe.steps:
        share = hidden_share(progress / recipe.steps, largest)
        hidden = choose_hidden(seen.losses, seen.correct, seen.confidence, share)
        rest = 1 - float(hidden.float().mean())
        visible = (~hidden).nonzero().squeeze(1)
        model.train()
        batches = [visible[drawn] for drawn in epoch_batches(len(visible), recipe.batch_size, 2, order)]
        for rows, inputs_of in zip(batches, samples.batches(batches), strict=True):
            rate = recipe.learning_rate / rest * cosine_factor(progress, recipe.steps)
            batch = prepare(inputs_of, Draws(generator.initial_seed(), epoch, rows))
            seen.update(rows, train_step(model, optimizer, batch, labels[rows], rate, dtype=recipe.dtype))
            taken += 1
            progress += 1 / rest
            if progress >= recipe.steps:
                return taken
        model.eval()
        with torch.inference_mode():
            batches = hidden.nonzero().squeeze(1).split(recipe.batch_size)
            for rows, batch in zip(batches, samples.batches(batches), strict=True):
                seen.update(rows, model(prepare(batch, None)))
        epoch += 1
    return taken


class _LastSeen:
    """Loss, rightness and confidence of each sample at its last look; who was not seen has the largest loss."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels
        self.losses = torch.full_like(labels, torch.inf, dtype=torch.float32)
        self.correct = torch.zeros_like(labels, dtype=torch.bool)
        self.confidence = torch.zeros_like(labels, dtype=torch.float32)

    def update(self, rows: Int[Tensor, " b"], logits: Float[Tensor, "b C"]) -> None:
        """Take in the logits [b, C] of some samples."""
        labels = self._labels[rows]
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        self.losses[rows] = F.cross_entropy(logits, labels, reduction="none")
        self.correct[rows] = predicted == labels
        self.confidence[rows] = confidence
