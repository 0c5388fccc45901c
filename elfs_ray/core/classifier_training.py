"""The training of a classifier on some samples and its test on others: evaluation, search of beta, calibration.

Symbols: N training samples, M test samples, d embedding width, s pixels a side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from elfs_ray.core.augmentation import prepare_images
from elfs_ray.core.classifier import Prepare, Recipe, accuracy, training_steps, unprepared
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.hiding import train_with_hiding
from elfs_ray.core.networks import build_network

TEST_ROWS = {False: 4096, True: 512}
"""That are tested at once: embeddings, images."""


@dataclass(frozen=True)
class TrainingOptions(Recipe):
    """How a classifier is built and trained.

    Attributes:
        model: its name, as `build_network` takes it.
        num_classes: width of the logits.
        hidden_dim: mlp: width of the hidden layer.
        hide: share of the samples that an epoch hides at most (`core.hiding`).
    """

    model: str
    num_classes: int
    hidden_dim: int
    hide: float = 0.0


class HeldOut(NamedTuple):
    """Samples to test on and their labels, placed for a training's device."""

    inputs: DeviceRows
    labels: Int64[Tensor, " M"]


class ClassifierTraining:
    """A classifier of its own for some samples; one seed decides its weights, the order and the augmentation.

    Attributes:
        network: on the device.
    """

    def __init__(
        self,
        options: TrainingOptions,
        samples: Shaped[np.ndarray, "N ..."],
        labels: Int64[np.ndarray, " N"],
        *,
        device: torch.device,
        seed: int,
    ) -> None:
        """Build the network and place the samples.

        Args:
            options: of the training.
            samples: embeddings of unit length, float32 [N, d], or pixels uint8 [N, 3, s, s].
            labels: int64 [N].
            device: to train on.
            seed: of all that is drawn.
        """
        self._options, self._room = options, Room(device)
        self._on_images = samples.ndim > 2
        self._prepare: Prepare = prepare_images if self._on_images else unprepared
        generator = torch.Generator().manual_seed(seed)
        inputs, sizes = torch.from_numpy(samples), (options.num_classes, options.hidden_dim)
        self.network = build_network(options.model, inputs, *sizes, generator=generator).to(device)
        rows, targets = DeviceRows(inputs, self._room), torch.tensor(labels, device=device)
        self._given = self.network, rows, targets, options, generator, self._prepare

    def train(self) -> int:
        """Train to the end; returns the steps taken, which are fewer where samples were hidden."""
        if self._options.hide:
            return train_with_hiding(*self._given, largest=self._options.hide)
        return sum(1 for _ in self.steps())

    def steps(self) -> Iterator[int]:
        """Train step by step without hiding, and give the number of steps done after each."""
        return training_steps(*self._given)

    def parts(self, count: int) -> Iterator[int]:
        """Train in so many equal parts, and give the number of steps done after each; tests in between are welcome."""
        ends = {-(-self._options.steps * part // count) for part in range(1, count + 1)}
        for step in self.steps():
            if step in ends:
                yield step
                self.network.train()

    def held_out(self, samples: Shaped[np.ndarray, "M ..."], labels: Int64[np.ndarray, " M"]) -> HeldOut:
        """Place samples of the same kind for tests."""
        return HeldOut(
            DeviceRows(torch.from_numpy(samples), self._room), torch.tensor(labels, device=self._room.device)
        )

    def accuracy(self, held_out: HeldOut) -> float:
        """Share of these samples whose most probable class is their label."""
        return accuracy(self.network, held_out.inputs, held_out.labels, TEST_ROWS[self._on_images], self._prepare)
