"""Proxy: a classifier trained on the pseudo-labels, whose training dynamics rate every sample.

Reads: `pseudo_labels`, and `embeddings` (mlp) or `samples` (networks on images). Writes: `dynamics`.
A supervised baseline reads `labels_true` in place of pseudo-labels, and writes `dynamics_supervised`.
Each worker adds up the dynamics of its own samples, which checkpoints and the end bring together.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.pixels import Pixels
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import median_side
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import ProxyConfig
from elfs_ray.core.proxy_training import ProxyTraining
from elfs_ray.planning.auto_options import choose_proxy
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.method_inputs import count_classes, labels_in_use
from elfs_ray.stages.parts.pixels import pixels_for
from elfs_ray.stages.parts.training_options import proxy_options
from elfs_ray.workers.base import Training
from elfs_ray.workers.progress import Counter

DYNAMICS = "dynamics"


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
    with context.counting("training", total, "samples") as counter:
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
    seen, options = task.inputs, proxy_options(task.options, task.num_classes)
    samples = seen.mapped_squares() if isinstance(seen, Pixels) else seen.mapped_components(int(task.options.pca_dim))
    labels = Table(task.store, task.labels).column("label").astype(np.int64)
    width = seen.dim if isinstance(seen, Embeddings) else None
    proxy = ProxyTraining(samples, labels, options, seed=task.seed, device=worker.device, width=width)
    total = options.total_epochs
    for number in range(worker.load(proxy.load), total):
        proxy.train_epoch(number, partial(_show, task, worker, number * len(labels)))
        if number + 1 == total or (number + 1) % task.options.checkpoint_epochs == 0:
            worker.save({"epoch": number}, proxy.state(), number + 1)
    dynamics = proxy.all_dynamics()
    if worker.is_first:
        worker.tell({**_write_dynamics(task, proxy.scores(dynamics)), "devices": [worker.device.type]})


def _show(task: ProxyTask, worker: Training, before: int, step: int, steps: int, seen: int) -> None:
    """Show how far the training is."""
    if worker.tells_progress(step, steps):
        task.counter.reach(before + seen)


def _write_dynamics(task: ProxyTask, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    layout = schema.dynamics(tdds=task.options.tdds)
    table = Table(task.store, task.labels).read(columns=KEY)
    for field in list(layout)[len(KEY) :]:
        table = table.append_column(field.name, pa.array(columns[field.name], field.type))
    write_table(task.store, f"{task.work}/{DYNAMICS}", table, layout)
    return {
        "model": task.options.model,
        ("train_accuracy" if task.options.folds == 1 else "held_out_accuracy"): round(
            float(columns["last_correct"].mean()), 4
        ),
        "mean_aum": round(float(columns["aum"].mean()), 4),
    }
