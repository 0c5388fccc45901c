"""Proxy: a classifier trained on the pseudo-labels with Ray Train, whose training dynamics rate every sample.

Reads: `pseudo_labels`, and `embeddings` (mlp) or `samples` (networks on images). Writes: `dynamics`.
A supervised baseline reads `labels_true` in place of pseudo-labels, and writes `dynamics_supervised`.
With several folds, the dynamics of a sample are those of a network that does not train on it (cross-fitting): it cannot
learn a wrong pseudo-label by heart. Workers share each batch and average gradients; every worker sees the logits of the
whole batch, so that the dynamics do not depend on how many there are. Checkpoints hold the dynamics so far.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from elfs_ray import schema
from elfs_ray.config import ProxyConfig
from elfs_ray.core.classifier import cosine_factor, epoch_batches, sgd, train_step
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.networks import build_network, prepare_images
from elfs_ray.data.images import read_pixels
from elfs_ray.defaults import choose_proxy
from elfs_ray.engine.artifacts import KEY, median_side, part_name, read_column, read_keys
from elfs_ray.engine.inputs import count_classes, dynamics_artifact, labels_in_use
from elfs_ray.engine.mapped import MappedArrays
from elfs_ray.engine.progress import Counter
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.engine.training import (
    METRICS_FILE,
    average_gradients,
    gather_rows,
    is_first_of_machine,
    is_first_worker,
    load_state,
    run_training,
    save_checkpoint,
    share_weight,
    training_device,
    worker_share,
)
from elfs_ray.errors import UsageError
from elfs_ray.store import Store

DYNAMICS = "dynamics"
MIN_BATCH_ROWS = 16


@dataclass(frozen=True)
class ProxyTask:
    """What the workers need to know."""

    store: Store
    work: str
    options: ProxyConfig
    num_classes: int
    max_pixels: int
    labels: str
    seed: int
    counter: Counter


def run(context: StageContext) -> StageResult:
    """Train the proxy and write the dynamics."""
    store, config, hardware = context.store, context.config, context.hardware
    num_samples = store.count_rows("samples")
    chosen_for = hardware.device, hardware.units, num_samples, median_side(store)
    options = choose_proxy(config.proxy, *chosen_for, image_dtype=hardware.image_dtype)
    total = options.folds * int(options.epochs) * num_samples
    with context.counting("proxy training", total, "samples") as counter:
        task = ProxyTask(
            store,
            context.work,
            options,
            count_classes(store, config),
            config.ingest.max_pixels,
            labels_in_use(store, config),
            context.seed(),
            counter,
        )
        metrics = run_training(context, _train, task, int(options.workers))
    chosen = {**options.model_dump(mode="json"), "supervised": config.select.supervised}
    return StageResult(artifacts={dynamics_artifact(config): DYNAMICS}, chosen=chosen, metrics=metrics)


def _train(task: ProxyTask) -> None:
    """One worker: train from the last checkpoint on, recording dynamics; the first worker writes them."""
    training = _Training(task, training_device())
    options = task.options
    total = options.folds * int(options.epochs)
    for number in range(load_state(training.load), total):
        _train_epoch(task, training, number)
        if number + 1 == total or (number + 1) % options.checkpoint_epochs == 0:
            save_checkpoint({"epoch": number}, training.state(), number + 1)
    if is_first_worker():
        task.store.write_json(_write_dynamics(task, training), task.work, METRICS_FILE)
    if is_first_of_machine():
        training.arrays.remove()


class _Training:
    """Inputs, labels and dynamics of all samples, and the network of one fold, on one device."""

    def __init__(self, task: ProxyTask, device: torch.device) -> None:
        options = task.options
        self._task, self.device = task, device
        self.arrays = MappedArrays(task.store, task.work)
        self.on_images = options.model != "mlp"
        self.labels = torch.from_numpy(read_column(task.store, task.labels, "label").astype(np.int64))
        if self.on_images:
            size = int(options.image_size)
            samples, location = task.store.dataset("samples"), task.store.manifest()["input"]
            self.inputs = torch.from_numpy(read_pixels(samples, size, task.max_pixels, location=location))
        else:
            self.inputs = torch.from_numpy(self.arrays.normalized_vectors())
        if device.type == "cuda" and self.inputs.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self.inputs = self.inputs.to(device)
        self._fold_of = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(task.seed))
        self._fold_of %= options.folds
        self.dynamics = DynamicsAccumulator(len(self.labels), tdds_classes=task.num_classes if options.tdds else 0)
        self.begin(0)

    def begin(self, fold: int) -> None:
        """A new network, for the samples of the other folds; a single fold trains on all."""
        options, generator = self._task.options, torch.Generator().manual_seed(self._task.seed + fold)
        everyone = options.folds == 1
        self.rows = torch.arange(len(self.labels)) if everyone else (self._fold_of != fold).nonzero().squeeze(1)
        self.held_out = torch.empty(0, dtype=torch.int64) if everyone else (self._fold_of == fold).nonzero().squeeze(1)
        inputs = self.inputs if everyone else self.inputs[self.rows.to(self.inputs.device)]
        sizes = self._task.num_classes, options.hidden_dim
        self.network = build_network(options.model, inputs, *sizes, generator=generator).to(self.device)
        self.optimizer = sgd(self.network, float(options.learning_rate), options.momentum, options.weight_decay)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Inputs of some samples, ready for the network; without a generator, not augmented."""
        inputs = self.inputs[rows.to(self.inputs.device)].to(self.device)
        return prepare_images(inputs, generator) if self.on_images else inputs

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "dynamics": self.dynamics.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.begin((state["epochs_done"] - 1) // int(self._task.options.epochs))
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.dynamics.load_state_dict(state["dynamics"])


def _train_epoch(task: ProxyTask, training: _Training, number: int) -> None:
    """One epoch of one fold; `number` counts the epochs of all folds."""
    options, num_samples = task.options, len(training.labels)
    fold, epoch = divmod(number, int(options.epochs))
    if epoch == 0:
        training.begin(fold)
    generator = torch.Generator().manual_seed(task.seed + number)
    batches = list(epoch_batches(len(training.rows), options.batch_size, MIN_BATCH_ROWS, generator))
    total_steps = int(options.epochs) * len(batches)
    training.network.train()
    seen = 0
    for step, batch in enumerate(batches):
        rows = training.rows[batch]
        mine = worker_share(len(rows))
        labels = training.labels[rows]
        logits = train_step(
            training.network,
            training.optimizer,
            training.batch(rows[mine], generator),
            labels[mine].to(training.device),
            float(options.learning_rate) * cosine_factor(epoch * len(batches) + step, total_steps),
            partial(average_gradients, weight=share_weight(len(rows))),
            getattr(torch, options.dtype),
        )
        if options.folds == 1:
            training.dynamics.update(rows, gather_rows(logits.float(), len(rows)).cpu(), labels, epoch)
        seen += len(rows)
        if is_first_worker():
            task.counter.reach(number * num_samples + seen)
    _record_held_out(training, options.batch_size, epoch)


@torch.inference_mode()
def _record_held_out(training: _Training, batch_size: int, epoch: int) -> None:
    """Dynamics of the samples that the network does not train on; none with a single fold."""
    training.network.eval()
    for rows in training.held_out.split(batch_size):
        if len(rows):
            logits = training.network(training.batch(rows[worker_share(len(rows))], None))
            training.dynamics.update(rows, gather_rows(logits.float(), len(rows)).cpu(), training.labels[rows], epoch)


def _write_dynamics(task: ProxyTask, training: _Training) -> dict[str, Any]:
    columns = training.dynamics.finalize()
    if not np.isfinite(columns["aum"]).all():
        raise UsageError(
            f"proxy training diverged at proxy.learning_rate={task.options.learning_rate}; set a smaller one"
        )
    layout = schema.dynamics(tdds=task.options.tdds)
    table = read_keys(task.store, task.labels)
    for field in list(layout)[len(KEY) :]:
        table = table.append_column(field.name, pa.array(columns[field.name], field.type))
    task.store.write_table(table, layout, task.work, DYNAMICS, part_name(0))
    return {
        "model": task.options.model,
        ("train_accuracy" if task.options.folds == 1 else "held_out_accuracy"): round(
            float(columns["last_correct"].mean()), 4
        ),
        "mean_aum": round(float(columns["aum"].mean()), 4),
    }
