"""Proxy: a classifier trained on the pseudo-labels, whose training dynamics rate every sample.

Reads: `pseudo_labels`, and `embeddings` (mlp) or `samples` (networks on images). Writes: `dynamics`.
A supervised baseline reads `labels_true` in place of pseudo-labels, and writes `dynamics_supervised`.
With several folds, the dynamics of a sample are those of a network that does not train on it (cross-fitting): it cannot
learn a wrong pseudo-label by heart. Workers share each batch and average gradients; each adds up the dynamics of its
own samples, which checkpoints and the end bring together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.pixels import Pixels
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import median_side
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import ProxyConfig
from elfs_ray.core.augmentation import Draws, prepare_images
from elfs_ray.core.classifier import cosine_factor, epoch_batches, sgd, train_step
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.networks import build_network
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import choose_proxy
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.method_inputs import count_classes, labels_in_use
from elfs_ray.stages.parts.pixels import pixels_for
from elfs_ray.workers.base import Training
from elfs_ray.workers.data_parallel import (
    bare,
    data_parallel,
    owned,
    owned_of_batches,
    share_weight,
    summed_on_first,
)
from elfs_ray.workers.progress import Counter

DYNAMICS = "dynamics"
MIN_BATCH_ROWS = 16


@dataclass(frozen=True)
class ProxyTask:
    """What the workers need to know.

    Attributes:
        inputs: what the network sees of all samples.
    """

    store: RunFolder
    work: str
    options: ProxyConfig
    num_classes: int
    inputs: Embeddings | Pixels
    labels: str
    seed: int
    counter: Counter


def run(context: StageContext) -> StageResult:
    """Train the proxy and write the dynamics."""
    store, config, hardware = context.store, context.config, context.hardware
    num_samples = context.table("samples").rows
    dim, side = context.embeddings.dim, median_side(store)
    options = choose_proxy(config.proxy, hardware.device, hardware.units, num_samples, dim, side, **hardware.dtypes)
    inputs = context.embeddings if options.model == "mlp" else pixels_for(context, int(options.image_size))
    total = options.folds * int(options.epochs) * num_samples
    with context.counting("proxy training", total, "samples") as counter:
        task = ProxyTask(
            store,
            context.work,
            options,
            count_classes(store, config),
            inputs,
            labels_in_use(store, config),
            context.seed(),
            counter,
        )
        metrics = context.workers.train(_train, task, store, context.work, int(options.workers))
    chosen = {**options.model_dump(mode="json"), "supervised": config.select.supervised}
    return StageResult(chosen=chosen, metrics=metrics)


def _train(task: ProxyTask, worker: Training) -> None:
    """One worker: train from the last checkpoint on, recording dynamics; the first worker writes them."""
    proxy = _Proxy(task, worker.device)
    options = task.options
    total = options.folds * int(options.epochs)
    for number in range(worker.load(proxy.load), total):
        _train_epoch(task, worker, proxy, number)
        if number + 1 == total or (number + 1) % options.checkpoint_epochs == 0:
            worker.save({"epoch": number}, proxy.state(), number + 1)
    dynamics = summed_on_first(proxy.dynamics.state_dict())
    if worker.is_first:
        proxy.dynamics.load_state_dict(dynamics)
        worker.tell(_write_dynamics(task, proxy))


class _Proxy:
    """Inputs, labels and dynamics of all samples, and the network of one fold, on one device.

    Each sample is one worker's in all epochs, which alone keeps its dynamics.

    Attributes:
        network: of this fold.
        parallel: the same, with gradients averaged over the workers.
    """

    def __init__(self, task: ProxyTask, device: torch.device) -> None:
        options = task.options
        self._task, self.device = task, device
        self.on_images = isinstance(task.inputs, Pixels)
        self.labels = torch.from_numpy(Table(task.store, task.labels).column("label").astype(np.int64)).to(device)
        # Drawn on the processor: the folds are the same on every device.
        fold_of = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(task.seed))
        self._fold_of = (fold_of % options.folds).to(device)
        tdds_classes = task.num_classes if options.tdds else 0
        self.dynamics = DynamicsAccumulator(len(self.labels), tdds_classes=tdds_classes, device=device)
        seen = task.inputs
        mapped = seen.mapped_squares() if isinstance(seen, Pixels) else seen.mapped_components(int(options.pca_dim))
        on_host = torch.from_numpy(mapped)
        narrow = torch.float16 if device.type == "cuda" and not self.on_images else None  # as they are stored
        self.inputs = DeviceRows(on_host, Room(device), narrow)
        # Of pixels, a network asks for no more than their size.
        self._on_host = on_host[:1].clone() if self.on_images else on_host
        self.begin(0)

    def begin(self, fold: int) -> None:
        """A new network, for the samples of the other folds; a single fold trains on all."""
        options, generator = self._task.options, torch.Generator().manual_seed(self._task.seed + fold)
        others, everyone = self._fold_of != fold, torch.arange(len(self.labels), device=self.device)
        self.rows = everyone if options.folds == 1 else everyone[others]
        self.held_out = everyone[:0] if options.folds == 1 else everyone[~others]
        # What scales its inputs comes from the processor, too.
        inputs = self._on_host if options.folds == 1 or self.on_images else self._on_host[self.rows.cpu()]
        sizes = self._task.num_classes, options.hidden_dim
        width = self._task.inputs.dim if isinstance(self._task.inputs, Embeddings) else None
        network = build_network(options.model, inputs, *sizes, generator=generator, width=width)
        self.parallel = data_parallel(network, self.device)
        self.network = bare(self.parallel)
        self.optimizer = sgd(self.network, float(options.learning_rate), options.momentum, options.weight_decay)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, with the dynamics of all workers; every worker must ask for it."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "dynamics": summed_on_first(self.dynamics.state_dict()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, with the dynamics of this worker's samples."""
        self.begin((state["epochs_done"] - 1) // int(self._task.options.epochs))
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.dynamics.load_state_dict(state["dynamics"])
        self.dynamics.keep(owned(torch.arange(len(self.labels), device=self.device)))


def _train_epoch(task: ProxyTask, worker: Training, proxy: _Proxy, number: int) -> None:
    """One epoch of one fold; `number` counts the epochs of all folds."""
    options, num_samples = task.options, len(proxy.labels)
    fold, epoch = divmod(number, int(options.epochs))
    if epoch == 0:
        proxy.begin(fold)
    generator = torch.Generator(proxy.device).manual_seed(task.seed + number)
    drawn = epoch_batches(len(proxy.rows), options.batch_size, MIN_BATCH_ROWS, generator)
    batches = [proxy.rows[batch] for batch in drawn]
    mine = owned_of_batches(batches)
    total_steps = int(options.epochs) * len(batches)
    proxy.network.train()
    seen = 0
    for step, (batch, rows, inputs) in enumerate(zip(batches, mine, proxy.inputs.batches(mine), strict=True)):
        draws = Draws(task.seed, number, rows)
        labels = proxy.labels[rows]
        logits = train_step(
            proxy.parallel,
            proxy.optimizer,
            prepare_images(inputs, draws) if proxy.on_images else inputs,
            labels,
            float(options.learning_rate) * cosine_factor(epoch * len(batches) + step, total_steps),
            weight=share_weight(len(rows), len(batch)),
            dtype=getattr(torch, options.dtype),
        )
        if options.folds == 1:
            proxy.dynamics.update(rows, logits.float(), labels, epoch)
        seen += len(batch)
        if worker.tells_progress(step, len(batches)):
            task.counter.reach(number * num_samples + seen)
    _record_held_out(proxy, options.batch_size, epoch)


@torch.inference_mode()
def _record_held_out(proxy: _Proxy, batch_size: int, epoch: int) -> None:
    """Dynamics of the samples that the network does not train on; none with a single fold."""
    proxy.network.eval()
    mine = proxy.held_out[owned(proxy.held_out)].split(batch_size) if len(proxy.held_out) else ()
    for rows, inputs in zip(mine, proxy.inputs.batches(mine), strict=True):
        logits = proxy.network(prepare_images(inputs, None) if proxy.on_images else inputs)
        proxy.dynamics.update(rows, logits.float(), proxy.labels[rows], epoch)


def _write_dynamics(task: ProxyTask, proxy: _Proxy) -> dict[str, Any]:
    columns = proxy.dynamics.finalize()
    if not np.isfinite(columns["aum"]).all():
        raise UsageError(
            f"proxy training diverged at proxy.learning_rate={task.options.learning_rate}; set a smaller one"
        )
    layout = schema.dynamics(tdds=task.options.tdds)
    table = Table(task.store, task.labels).read(columns=KEY)
    for field in list(layout)[len(KEY) :]:
        table = table.append_column(field.name, pa.array(columns[field.name], field.type))
    write_table(task.store, f"{task.work}/{DYNAMICS}", table, layout)
    return {
        "model": task.options.model,
        "devices": [proxy.device.type],
        ("train_accuracy" if task.options.folds == 1 else "held_out_accuracy"): round(
            float(columns["last_correct"].mean()), 4
        ),
        "mean_aum": round(float(columns["aum"].mean()), 4),
    }
