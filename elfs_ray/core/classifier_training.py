"""The training of classifiers on some samples and their test on others: evaluation, search of beta, calibration.

Symbols: N samples, n of them in a training set, M test samples, d embedding width, s pixels a side.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from elfs_ray.core.augmentation import prepare_images
from elfs_ray.core.classifier import Prepare, Recipe, accuracy, training_steps, unprepared
from elfs_ray.core.classifier_stack import ClassifierStack
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


class TrainingSet(NamedTuple):
    """What one classifier is trained on.

    Attributes:
        rows: positions of its samples, int64 [n].
        seed: decides its weights, the order and the augmentation.
    """

    rows: Int64[np.ndarray, " n"]
    seed: int


class HeldOut(NamedTuple):
    """Samples to test on and their labels, placed for a training's device."""

    inputs: DeviceRows
    labels: Int64[Tensor, " M"]


class ClassifierTraining:
    """A classifier of its own for each training set.

    Those on embeddings are trained together where their sets are of one size: the same but for rounding.

    Attributes:
        networks: one for each training set, on the device.
    """

    def __init__(
        self,
        options: TrainingOptions,
        samples: Shaped[np.ndarray, "N ..."],
        labels: Int64[np.ndarray, " N"],
        sets: Sequence[TrainingSet],
        *,
        device: torch.device,
    ) -> None:
        """Build the networks and place the samples.

        Args:
            options: of all trainings.
            samples: embeddings of unit length or their principal components, float32 [N, d]; or pixels uint8
                [N, 3, s, s].
            labels: int64 [N].
            sets: what each classifier is trained on.
            device: to train on.
        """
        self._options, self._room = options, Room(device)
        self._on_images = samples.ndim > 2
        self._prepare: Prepare = prepare_images if self._on_images else unprepared
        generators = [torch.Generator().manual_seed(each.seed) for each in sets]
        self.networks = [
            _build(options, samples, each.rows, generator).to(device)
            for each, generator in zip(sets, generators, strict=True)
        ]
        alone = self._on_images or options.hide > 0
        sizes = [number if alone else len(each.rows) for number, each in enumerate(sets)]
        self._trainings: list[_Alone | ClassifierStack] = []
        for size in dict.fromkeys(sizes):
            group = [number for number, other in enumerate(sizes) if other == size]
            inputs, targets, rows = self._place(samples, labels, [sets[number].rows for number in group])
            networks, drawn = [self.networks[number] for number in group], [generators[number] for number in group]
            self._trainings.append(
                _Alone(networks[0], inputs, targets, options, drawn[0], self._prepare)
                if alone
                else ClassifierStack(networks, inputs, targets, rows, options, drawn)  # type: ignore[arg-type]
            )

    def _place(
        self, samples: Shaped[np.ndarray, "N ..."], labels: Int64[np.ndarray, " N"], rows: Sequence[np.ndarray]
    ) -> tuple[DeviceRows, Int64[Tensor, " U"], Int64[Tensor, "S n"]]:
        """The samples in any of some sets, their labels, and where those of each set are among them."""
        device = self._room.device
        if len(rows) == 1:  # in their own order
            used, places = rows[0], np.arange(len(rows[0]))[None]
        else:
            used = np.unique(np.concatenate(rows))
            places = np.stack([np.searchsorted(used, each) for each in rows])
        inputs = DeviceRows(torch.from_numpy(samples[used]), self._room)
        return inputs, torch.tensor(labels[used], device=device), torch.tensor(places, device=device)

    def train(self) -> list[int]:
        """Train to the end; returns the steps of each, which are fewer where samples were hidden."""
        if self._options.hide:
            return [training.train_hiding() for training in self._trainings if isinstance(training, _Alone)]
        deque(self.parts(1), maxlen=0)
        return [self._options.steps] * len(self.networks)

    def steps(self) -> Iterator[int]:
        """Train step by step without hiding, and give the number of steps done after each.

        What is trained together shows in `networks` only after a part.
        """
        yield from (steps[0] for steps in zip(*(training.steps() for training in self._trainings), strict=True))

    def parts(self, count: int) -> Iterator[int]:
        """Train in so many equal parts, and give the number of steps done after each; tests in between are welcome."""
        ends = {-(-self._options.steps * part // count) for part in range(1, count + 1)}
        for step in self.steps():
            if step in ends:
                for training in self._trainings:
                    training.write_back()
                yield step
                for network in self.networks:
                    network.train()

    def held_out(self, samples: Shaped[np.ndarray, "M ..."], labels: Int64[np.ndarray, " M"]) -> HeldOut:
        """Place samples of the same kind for tests."""
        return HeldOut(
            DeviceRows(torch.from_numpy(samples), self._room), torch.tensor(labels, device=self._room.device)
        )

    def accuracy(self, number: int, held_out: HeldOut) -> float:
        """Share of these samples whose most probable class, for one of the classifiers, is their label."""
        network = self.networks[number]
        return accuracy(network, held_out.inputs, held_out.labels, TEST_ROWS[self._on_images], self._prepare)


class _Alone(NamedTuple):
    """A classifier that is trained by itself."""

    network: nn.Module
    inputs: DeviceRows
    labels: Int64[Tensor, " n"]
    options: TrainingOptions
    generator: torch.Generator
    prepare: Prepare

    def steps(self) -> Iterator[int]:
        """Train step by step."""
        return training_steps(*self)

    def train_hiding(self) -> int:
        """Train to the end; returns the steps taken."""
        return train_with_hiding(*self, largest=self.options.hide)

    def write_back(self) -> None:
        """The network is what is trained."""


def _build(
    options: TrainingOptions, samples: Shaped[np.ndarray, "N ..."], rows: np.ndarray, generator: torch.Generator
) -> nn.Module:
    """A network for some of the samples; of pixels it asks for no more than their size."""
    seen = samples[rows] if samples.ndim == 2 else samples[rows[:1]]
    sizes = options.num_classes, options.hidden_dim
    return build_network(options.model, torch.from_numpy(seen), *sizes, generator=generator)
