"""Pseudo-labels for a set of embeddings: the epochs of TEMI's training, and what its heads then agree on.

A training may run in several workers at once (`core.data_parallel`); alone, nothing of that is in the way.
Symbols: N samples, d dimensions, k neighbours, C classes (clusters), B pairs in a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from elfs_ray.core.classifier import epoch_batches
from elfs_ray.core.components import PrincipalComponents
from elfs_ray.core.data_parallel import average_over_workers, data_parallel, share_weight, worker_share
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.progress import Progress
from elfs_ray.core.temi import consensus, head_alignment, warmup_schedule
from elfs_ray.core.temi_training import TemiOptions, TemiTraining

PCA_SAMPLE_ROWS = 200_000
FORWARD_ROWS = 4096


@dataclass(frozen=True)
class Schedule:
    """How long and in which steps heads are trained.

    Attributes:
        epochs: passes over the samples.
        batch_size: B, over all workers.
        learning_rate: of a batch of 256 pairs; scaled with the batch.
        warmup_fraction: share of the epochs in which the learning rate rises.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_fraction: float = 0.1


class PseudoLabels(NamedTuple):
    """What the heads say of all samples.

    Attributes:
        labels: int32 [N].
        confidence: mean probability of that label, float32 [N].
        agreement: share of the heads that give it, float32 [N].
    """

    labels: Int32[np.ndarray, " N"]
    confidence: Float32[np.ndarray, " N"]
    agreement: Float32[np.ndarray, " N"]


def reduced_features(vectors: Float32[np.ndarray, "N d"], dim: int, seed: int) -> Iterator[Float32[np.ndarray, "_ _"]]:
    """Rows of unit length on their `dim` leading components, at unit length again, some rows at a time.

    Args:
        vectors: rows of unit length, float32 [N, d].
        dim: components to keep; 0: the rows as they are.
        seed: of the sample that the components are taken from, where there are many rows.
    """
    if not dim:
        yield vectors
        return
    fitted = vectors
    if len(vectors) > PCA_SAMPLE_ROWS:
        rng = np.random.default_rng(seed)
        fitted = vectors[np.sort(rng.choice(len(vectors), PCA_SAMPLE_ROWS, replace=False))]
    components = PrincipalComponents(fitted, dim)
    for start in range(0, len(vectors), PCA_SAMPLE_ROWS):
        yield normalize_rows(components.project(vectors[start : start + PCA_SAMPLE_ROWS]))


class Clustering:
    """A training of TEMI's heads on some embeddings and their neighbours.

    Attributes:
        training: the heads.
    """

    def __init__(
        self,
        features: Float32[np.ndarray, "N d"],
        neighbor_ids: Int64[np.ndarray, "N k"],
        options: TemiOptions,
        schedule: Schedule,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Build the heads and place the data.

        Args:
            features: what the heads see, float32 [N, d].
            neighbor_ids: positions of other samples, int64 [N, k].
            options: of the heads.
            schedule: of the training.
            seed: of all that is drawn.
            device: where they train.
        """
        self._options, self._schedule, self._seed, self._device = options, schedule, seed, device
        on_card, room = device.type == "cuda", Room(device)
        # On a card as they are stored; its products round to less anyway.
        narrow = torch.float16 if on_card and options.dtype == torch.bfloat16 else None
        self._features = DeviceRows(torch.from_numpy(features), room, narrow)
        self._neighbors = DeviceRows(torch.from_numpy(neighbor_ids), room)
        parallel = partial(data_parallel, device=device)
        self.training = TemiTraining(
            options, self._features.shape[1], seed, device, compiled=on_card, parallel=parallel
        )

    def train_epoch(self, epoch: int, progress: Progress) -> None:
        """One pass over pairs of a sample and a random neighbour; epochs come in order, counted from 0.

        Leaves the mean loss of each head in `training.losses`.
        """
        schedule, training, num_samples = self._schedule, self.training, len(self._features)
        generator = torch.Generator(self._device).manual_seed(self._seed + epoch)
        steps = max(1, num_samples // schedule.batch_size)
        warmup_steps = round(schedule.warmup_fraction * schedule.epochs) * steps
        peak_rate = schedule.learning_rate * schedule.batch_size / 256
        batches = epoch_batches(num_samples, schedule.batch_size, schedule.batch_size, generator)
        pairs = self._pairs(batches, generator)
        training.losses.zero_()
        for number, (rows, views) in enumerate(zip(batches, self._features.batches(pairs), strict=True)):
            weight = share_weight(len(views) // 2, len(rows))
            training.step(
                views,
                peak_rate * warmup_schedule(epoch * steps + number, warmup_steps),
                last_layer_frozen=epoch == 0,
                weight=weight,
                average=partial(average_over_workers, weight=weight),
            )
            progress(number, len(batches), min((number + 1) * schedule.batch_size, num_samples))
        training.losses = average_over_workers(training.losses) / steps

    def _pairs(self, batches: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Of each batch this worker's share: its samples, then a neighbour of each."""
        order = torch.cat(batches)
        chosen = torch.randint(self._neighbors.shape[1], (len(order),), generator=generator, device=generator.device)
        partners = self._neighbors.take(order, chosen).split([len(rows) for rows in batches])
        mine = [worker_share(len(rows)) for rows in batches]
        return [
            torch.cat([rows[share], partner[share]])
            for rows, partner, share in zip(batches, partners, mine, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """For a checkpoint, between two epochs."""
        return self.training.state()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.training.load(state)

    def pseudo_labels(self, *, best_head: bool = False) -> PseudoLabels:
        """Assign every sample: by the mean of the aligned heads, or by the head with the lowest loss."""
        blocks = torch.arange(len(self._features), device=self._device).split(FORWARD_ROWS)

        def probabilities() -> Iterator[Tensor]:
            return map(self.training.probabilities, self._features.batches(blocks))

        # Two passes, so that no array of all heads, samples and classes is held.
        best = int(self.training.losses.argmin())
        assignments = torch.cat([batch.argmax(dim=2) for batch in probabilities()], dim=1).cpu().numpy()
        alignment = torch.from_numpy(head_alignment(assignments, best, self._options.num_classes)).to(self._device)
        heads = [best] if best_head else range(len(alignment))
        found = [consensus(batch, alignment, heads) for batch in probabilities()]
        labels, confidence, agreement = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
        return PseudoLabels(labels.astype(np.int32), confidence, agreement)
