"""Cluster: TEMI heads trained on embeddings, and the pseudo-labels they agree on.

Reads: `embeddings`, `neighbors`. Writes: `pseudo_labels` (label, confidence, agreement between heads).
The workers of a machine map the same (reduced) embeddings, and hold them on their cards where they fit. Each trains on
its share of each batch; gradients and the class prior are averaged. Checkpoints come every few epochs; a lost worker or
a second run goes on from the last.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config import PseudoLabelsConfig
from elfs_ray.core.classifier import epoch_batches
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.features import PrincipalComponents, normalize_rows
from elfs_ray.core.temi import consensus, head_alignment, warmup_schedule
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from elfs_ray.errors import UsageError
from elfs_ray.planning.auto_options import choose_pseudo_labels
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.workers.base import Training
from elfs_ray.workers.data_parallel import average_over_workers, data_parallel, share_weight, worker_share
from elfs_ray.workers.progress import Counter

PSEUDO_LABELS = "pseudo_labels"
SEED_NAME = "cluster"
"""What the seed is derived from: the same in all versions, so that pseudo-labels stay what they were."""
PCA_SAMPLE_ROWS = 200_000
FORWARD_ROWS = 4096


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
    store, num_classes, embeddings = context.store, context.config.num_classes, context.embeddings
    num_samples = embeddings.rows
    if num_classes > num_samples:
        raise UsageError(
            f"num_classes is {num_classes}, but there are only {num_samples} samples; pass a smaller --num-classes"
        )
    hardware = context.hardware
    options = choose_pseudo_labels(
        context.config.pseudo_labels, hardware.device, hardware.units, num_samples, embeddings.dim
    )
    total = int(options.epochs) * num_samples
    with context.counting("clustering", total, "samples") as counter:
        task = TemiTask(store, context.work, options, num_classes, context.seed(unit=SEED_NAME), counter)
        metrics = context.workers.train(_train, task, store, context.work, int(options.workers))
    return StageResult(chosen=options.model_dump(mode="json"), metrics=metrics)


def _train(task: TemiTask, worker: Training) -> None:
    """One worker: train from the last checkpoint on, then (first worker) write the pseudo-labels."""
    device, options = worker.device, task.options
    neighbor_ids, room = Table(task.store, "neighbors").mapped("ids"), Room(device)
    # On a card as they are stored; its products round to less anyway.
    narrow = torch.float16 if device.type == "cuda" and options.dtype == "bfloat16" else None
    features = DeviceRows(torch.from_numpy(_features(task)), room, narrow)
    neighbors = DeviceRows(torch.from_numpy(neighbor_ids), room)
    parallel = partial(data_parallel, device=device)
    training = TemiTraining(
        _temi_options(task),
        features.shape[1],
        task.seed,
        device,
        compiled=device.type == "cuda",
        parallel=parallel,
    )
    for epoch in range(worker.load(training.load), int(options.epochs)):
        _train_epoch(task, worker, training, epoch, features, neighbors)
        if epoch + 1 == int(options.epochs) or (epoch + 1) % options.checkpoint_epochs == 0:
            worker.save({"epoch": epoch, "loss": float(training.losses.mean())}, training.state(), epoch + 1)
    if worker.is_first:
        worker.tell(_write_pseudo_labels(task, training, features, neighbor_ids))


def _temi_options(task: TemiTask) -> TemiOptions:
    """Those of the configuration that have the same names, most of them."""
    same = {field.name for field in fields(TemiOptions)} - {"num_classes", "dtype"}
    chosen = {name: getattr(task.options, name) for name in same}
    return TemiOptions(num_classes=task.num_classes, dtype=getattr(torch, task.options.dtype), **chosen)


def _features(task: TemiTask) -> np.ndarray:
    """Embeddings of unit length, reduced to `pca_dim` components, float32 [N, d]."""
    embeddings, dim = Embeddings(task.store), int(task.options.pca_dim)
    vectors = embeddings.mapped_unit_vectors()
    if not dim:
        return vectors

    def reduced() -> Iterator[np.ndarray]:
        fitted = vectors
        if len(vectors) > PCA_SAMPLE_ROWS:
            rng = np.random.default_rng(task.seed)
            fitted = vectors[np.sort(rng.choice(len(vectors), PCA_SAMPLE_ROWS, replace=False))]
        components = PrincipalComponents(fitted, dim)
        for start in range(0, len(vectors), PCA_SAMPLE_ROWS):
            yield normalize_rows(components.project(vectors[start : start + PCA_SAMPLE_ROWS]))

    return embeddings.derived(f"reduced-{dim}-{task.seed}", reduced)


def _train_epoch(
    task: TemiTask, worker: Training, training: TemiTraining, epoch: int, features: DeviceRows, neighbors: DeviceRows
) -> None:
    """One pass over pairs of a sample and a random neighbour; leaves the mean loss of each head in `losses`."""
    options, device = task.options, training.prior.device
    batch_size, num_samples = int(options.batch_size), len(features)
    generator = torch.Generator(device).manual_seed(task.seed + epoch)
    steps = max(1, num_samples // batch_size)
    warmup_steps = round(options.warmup_fraction * int(options.epochs)) * steps
    peak_rate = float(options.learning_rate) * batch_size / 256
    batches = epoch_batches(num_samples, batch_size, batch_size, generator)
    pairs = _pairs(batches, neighbors, generator)
    training.losses.zero_()
    for number, (rows, views) in enumerate(zip(batches, features.batches(pairs), strict=True)):
        weight = share_weight(len(views) // 2, len(rows))
        training.step(
            views,
            peak_rate * warmup_schedule(epoch * steps + number, warmup_steps),
            last_layer_frozen=epoch == 0,
            weight=weight,
            average=partial(average_over_workers, weight=weight),
        )
        if worker.tells_progress(number, len(batches)):
            task.counter.reach(epoch * num_samples + min((number + 1) * batch_size, num_samples))
    training.losses = average_over_workers(training.losses) / steps


def _pairs(batches: list[Tensor], neighbors: DeviceRows, generator: torch.Generator) -> list[Tensor]:
    """Of each batch this worker's share: its samples, then a neighbour of each."""
    order = torch.cat(batches)
    chosen = torch.randint(neighbors.shape[1], (len(order),), generator=generator, device=generator.device)
    partners = neighbors.take(order, chosen).split([len(rows) for rows in batches])
    mine = [worker_share(len(rows)) for rows in batches]
    return [
        torch.cat([rows[share], partner[share]]) for rows, partner, share in zip(batches, partners, mine, strict=True)
    ]


def _write_pseudo_labels(
    task: TemiTask, training: TemiTraining, features: DeviceRows, neighbors: np.ndarray
) -> dict[str, Any]:
    """Assign every sample with the teacher's heads and save labels, confidence and agreement."""
    blocks = torch.arange(len(features), device=training.prior.device).split(FORWARD_ROWS)

    def probabilities() -> Iterator[Tensor]:
        return map(training.probabilities, features.batches(blocks))

    # Two passes, so that no array of all heads, samples and classes is held.
    best_head = int(training.losses.argmin())
    assignments = torch.cat([batch.argmax(dim=2) for batch in probabilities()], dim=1).cpu().numpy()
    alignment = torch.from_numpy(head_alignment(assignments, best_head, task.num_classes)).to(training.prior.device)
    heads = range(len(alignment)) if task.options.assignment == "mean" else [best_head]
    found = [consensus(batch, alignment, heads) for batch in probabilities()]
    labels, confidence, agreement = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
    labels = labels.astype(np.int32)
    table = Embeddings(task.store).read(columns=KEY)
    for name, values in {"label": labels, "confidence": confidence, "agreement": agreement}.items():
        table = table.append_column(name, pa.array(values))
    write_table(task.store, f"{task.work}/{PSEUDO_LABELS}", table, schema.PSEUDO_LABELS)
    return {
        "loss": round(float(training.losses.mean()), 4),
        "mean_confidence": round(float(confidence.mean()), 4),
        "mean_agreement": round(float(agreement.mean()), 4),
        "neighbor_consistency": round(float((labels[neighbors] == labels[:, None]).mean()), 4),
        "cluster_sizes": np.bincount(labels, minlength=task.num_classes).tolist(),
        "devices": [training.prior.device.type],
    }
