"""Training of the proxy: a classifier on (pseudo-)labels, whose training dynamics rate every sample.

With several folds, the dynamics of a sample are those of a network that does not train on it (cross-fitting): it cannot
learn a wrong label by heart. Workers share each batch and average gradients (`core.data_parallel`); each adds up the
dynamics of its own samples. Alone, a training has all of them.

Symbols: N samples, d embedding width, s pixels a side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from elfs_ray.core.augmentation import Draws, prepare_images
from elfs_ray.core.classifier import cosine_factor, epoch_batches, sgd, train_step
from elfs_ray.core.data_parallel import (
    bare,
    data_parallel,
    owned,
    owned_of_batches,
    share_weight,
    summed_on_first,
)
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.networks import build_network
from elfs_ray.core.progress import Progress
from elfs_ray.errors import UsageError

MIN_BATCH_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class ProxyOptions:
    """How the proxy is built and trained; names as in `elfs_ray.config.ProxyConfig`.

    Attributes:
        model: its name, as `build_network` takes it.
        num_classes: width of the logits.
        hidden_dim: mlp: width of the hidden layer.
        epochs: passes over the samples, for each fold.
        batch_size: samples in a step, over all workers.
        learning_rate: the largest; cosine to zero.
        momentum: of SGD, with Nesterov's.
        weight_decay: of SGD.
        dtype: arithmetic of the network.
        folds: above 1: dynamics of samples not trained on.
        tdds: record TDDS too, which holds N x C probabilities.
    """

    model: str
    num_classes: int
    hidden_dim: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    dtype: torch.dtype = torch.float32
    folds: int = 1
    tdds: bool = False

    @property
    def total_epochs(self) -> int:
        """Of all folds."""
        return self.folds * self.epochs


class ProxyTraining:
    """Inputs, labels and dynamics of all samples, and the network of one fold, on one device.

    Each sample is one worker's in all epochs, which alone keeps its dynamics.
    """

    def __init__(
        self,
        samples: Shaped[np.ndarray, "N ..."],
        labels: Int64[np.ndarray, " N"],
        options: ProxyOptions,
        *,
        seed: int,
        device: torch.device,
        width: int | None = None,
    ) -> None:
        """Build the first network and place the data.

        Args:
            samples: embeddings of unit length or their principal components, float32 [N, d]; or pixels uint8
                [N, 3, s, s].
            labels: int64 [N].
            options: of the training.
            seed: of all that is drawn.
            device: to train on.
            width: of the embeddings, where the samples may be components of them.
        """
        self._options, self._seed, self._device, self._width = options, seed, device, width
        self._on_images = samples.ndim > 2
        self._labels = torch.tensor(labels, device=device)
        # Drawn on the processor: the folds are the same on every device.
        fold_of = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self._fold_of = (fold_of % options.folds).to(device)
        tdds_classes = options.num_classes if options.tdds else 0
        self._dynamics = DynamicsAccumulator(len(labels), tdds_classes=tdds_classes, device=device)
        on_host = torch.from_numpy(samples)
        narrow = torch.float16 if device.type == "cuda" and not self._on_images else None  # as they are stored
        self._inputs = DeviceRows(on_host, Room(device), narrow)
        # Of pixels, a network asks for no more than their size.
        self._on_host = on_host[:1].clone() if self._on_images else on_host
        self._begin(0)

    def _begin(self, fold: int) -> None:
        """A new network, for the samples of the other folds; a single fold trains on all."""
        options, generator = self._options, torch.Generator().manual_seed(self._seed + fold)
        others, everyone = self._fold_of != fold, torch.arange(len(self._labels), device=self._device)
        self._rows = everyone if options.folds == 1 else everyone[others]
        self._held_out = everyone[:0] if options.folds == 1 else everyone[~others]
        # What scales its inputs comes from the processor, too.
        inputs = self._on_host if options.folds == 1 or self._on_images else self._on_host[self._rows.cpu()]
        sizes = options.num_classes, options.hidden_dim
        network = build_network(options.model, inputs, *sizes, generator=generator, width=self._width)
        self._parallel = data_parallel(network, self._device)
        self._network = bare(self._parallel)
        self._optimizer = sgd(self._network, options.learning_rate, options.momentum, options.weight_decay)

    def train_epoch(self, number: int, progress: Progress) -> None:
        """One epoch of one fold; `number` counts the epochs of all folds, which come in order."""
        options, device = self._options, self._device
        fold, epoch = divmod(number, options.epochs)
        if epoch == 0:
            self._begin(fold)
        generator = torch.Generator(device).manual_seed(self._seed + number)
        drawn = epoch_batches(len(self._rows), options.batch_size, MIN_BATCH_ROWS, generator)
        batches = [self._rows[batch] for batch in drawn]
        mine = owned_of_batches(batches)
        total_steps = options.epochs * len(batches)
        self._network.train()
        seen = 0
        for step, (batch, rows, inputs) in enumerate(zip(batches, mine, self._inputs.batches(mine), strict=True)):
            labels = self._labels[rows]
            logits = train_step(
                self._parallel,
                self._optimizer,
                prepare_images(inputs, Draws(self._seed, number, rows)) if self._on_images else inputs,
                labels,
                options.learning_rate * cosine_factor(epoch * len(batches) + step, total_steps),
                weight=share_weight(len(rows), len(batch)),
                dtype=options.dtype,
            )
            if options.folds == 1:
                self._dynamics.update(rows, logits.float(), labels, epoch)
            seen += len(batch)
            progress(step, len(batches), seen)
        self._record_held_out(epoch)

    @torch.inference_mode()
    def _record_held_out(self, epoch: int) -> None:
        """Dynamics of the samples that the network does not train on; none with a single fold."""
        self._network.eval()
        held_out = self._held_out
        mine = held_out[owned(held_out)].split(self._options.batch_size) if len(held_out) else ()
        for rows, inputs in zip(mine, self._inputs.batches(mine), strict=True):
            logits = self._network(prepare_images(inputs, None) if self._on_images else inputs)
            self._dynamics.update(rows, logits.float(), self._labels[rows], epoch)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, with the dynamics of all workers; every worker must ask for it."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "dynamics": self.all_dynamics(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, with the dynamics of this worker's samples."""
        self._begin((state["epochs_done"] - 1) // self._options.epochs)
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._dynamics.load_state_dict(state["dynamics"])
        self._dynamics.keep(owned(torch.arange(len(self._labels), device=self._device)))

    def all_dynamics(self) -> dict[str, Tensor]:
        """The dynamics of all workers' samples, on the first worker; every worker must ask for them."""
        return summed_on_first(self._dynamics.state_dict())

    def scores(self, dynamics: Mapping[str, Tensor]) -> dict[str, Shaped[np.ndarray, " N"]]:
        """Every score of the training dynamics by name, each [N], from `all_dynamics`.

        Raises:
            UsageError: the training diverged.
        """
        self._dynamics.load_state_dict(dynamics)
        scores = self._dynamics.finalize()
        if not np.isfinite(scores["aum"]).all():
            raise UsageError(
                f"proxy training diverged at proxy.learning_rate={self._options.learning_rate}; set a smaller one"
            )
        return scores
