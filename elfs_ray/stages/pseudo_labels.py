"""Cluster: TEMI heads trained on embeddings, and the pseudo-labels they agree on.

Reads: `embeddings`, `neighbors`. Writes: `pseudo_labels` (label, confidence, agreement between heads).
The workers of a machine map the same (reduced) embeddings, and hold them on their cards where they fit. Each trains on
its share of each batch; gradients and the class prior are averaged. Checkpoints come every few epochs; a lost worker or
a second run goes on from the last.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import PseudoLabelsConfig
from elfs_ray.core.clustering import Clustering, reduced_features
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import choose_pseudo_labels
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.training_options import temi_options, temi_schedule
from elfs_ray.workers.base import Training
from elfs_ray.workers.progress import Counter

PSEUDO_LABELS = "pseudo_labels"
SEED_NAME = "cluster"
"""What the seed is derived from: the same in all versions, so that pseudo-labels stay what they were."""


@dataclass(frozen=True)
class TemiTask:
    """What the workers need to know."""

    store: RunFolder
    work: str
    options: PseudoLabelsConfig
    num_classes: int
    seed: int
    counter: Counter


def run(context: StageContext) -> StageResult:
    """Train the heads and write the pseudo-labels."""
    store, num_classes, embeddings = context.store, context.config.clusters, context.embeddings
    num_samples = embeddings.rows
    if num_classes > num_samples:
        raise UsageError(
            f"num_classes is {num_classes}, but there are only {num_samples} samples; pass a smaller --num-classes"
        )
    hardware, sizes = context.hardware, (num_samples, embeddings.dim)
    options = choose_pseudo_labels(
        context.config.pseudo_labels,
        hardware.device,
        hardware.units,
        *sizes,
        num_classes=num_classes,
        neighbors=context.table("neighbors").schema.field("ids").type.list_size,
    )
    total = int(options.epochs) * num_samples
    with context.counting("clustering", total, "samples") as counter:
        task = TemiTask(store, context.work, options, num_classes, context.seed(unit=SEED_NAME), counter)
        metrics = context.workers.train(_train, task, store, context.work, int(options.workers))
    return StageResult(chosen=options.model_dump(mode="json"), metrics=metrics)


def _train(task: TemiTask, worker: Training) -> None:
    """One worker: train from the last checkpoint on, then (first worker) write the pseudo-labels."""
    options, epochs = task.options, int(task.options.epochs)
    neighbor_ids = Table(task.store, "neighbors").mapped("ids")[:, : int(options.num_neighbors)]
    clustering = Clustering(
        _features(task),
        neighbor_ids,
        temi_options(options, task.num_classes),
        temi_schedule(options),
        seed=task.seed,
        device=worker.device,
    )
    for epoch in range(worker.load(clustering.load), epochs):
        clustering.train_epoch(epoch, partial(_show, task, worker, epoch, len(neighbor_ids)))
        if epoch + 1 == epochs or (epoch + 1) % options.checkpoint_epochs == 0:
            metrics = {"epoch": epoch, "loss": float(clustering.training.losses.mean())}
            worker.save(metrics, clustering.state(), epoch + 1)
    if worker.is_first:
        worker.tell(_write_pseudo_labels(task, clustering, neighbor_ids))


def _show(task: TemiTask, worker: Training, epoch: int, num_samples: int, step: int, steps: int, seen: int) -> None:
    """Show how far the training is."""
    if worker.tells_progress(step, steps):
        task.counter.reach(epoch * num_samples + seen)


def _features(task: TemiTask) -> np.ndarray:
    """Embeddings of unit length, reduced to `pca_dim` components, float32 [N, d]."""
    embeddings, dim = Embeddings(task.store), int(task.options.pca_dim)
    vectors = embeddings.mapped_unit_vectors()
    if not dim:
        return vectors
    return embeddings.derived(f"reduced-{dim}-{task.seed}", lambda: reduced_features(vectors, dim, task.seed))


def _write_pseudo_labels(task: TemiTask, clustering: Clustering, neighbors: np.ndarray) -> dict[str, Any]:
    """Assign every sample with the teacher's heads and save labels, confidence and agreement."""
    found = clustering.pseudo_labels(best_head=task.options.assignment == "best_head")
    table = Embeddings(task.store).read(columns=KEY)
    for name, values in {"label": found.labels, "confidence": found.confidence, "agreement": found.agreement}.items():
        table = table.append_column(name, pa.array(values))
    write_table(task.store, f"{task.work}/{PSEUDO_LABELS}", table, schema.PSEUDO_LABELS)
    training = clustering.training
    return {
        "loss": round(float(training.losses.mean()), 4),
        "mean_confidence": round(float(found.confidence.mean()), 4),
        "mean_agreement": round(float(found.agreement.mean()), 4),
        "neighbor_consistency": round(float((found.labels[neighbors] == found.labels[:, None]).mean()), 4),
        "cluster_sizes": np.bincount(found.labels, minlength=task.num_classes).tolist(),
        "devices": [training.prior.device.type],
    }
