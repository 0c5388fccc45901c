"""Cluster: TEMI heads trained on embeddings with Ray Train, and the pseudo-labels they agree on.

Reads: `embeddings`, `neighbors`. Writes: `pseudo_labels` (label, confidence, agreement between heads).
The workers of a machine map the same (reduced) embeddings, and each trains on its share of each batch; gradients and
the class prior are averaged. Checkpoints come every few epochs; a lost worker or a second run goes on from the last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from elfs_ray import schema
from elfs_ray.config import ClusterConfig
from elfs_ray.core.classifier import epoch_batches
from elfs_ray.core.features import PrincipalComponents, normalize_rows
from elfs_ray.core.temi import (
    TemiHeads,
    consensus,
    head_alignment,
    temi_loss,
    uniform_prior,
    update_teacher,
    warmup_schedule,
)
from elfs_ray.defaults import choose_cluster
from elfs_ray.engine.artifacts import part_name, read_keys
from elfs_ray.engine.mapped import MappedArrays
from elfs_ray.engine.progress import Counter
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.engine.training import (
    METRICS_FILE,
    average_gradients,
    average_over_workers,
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

PSEUDO_LABELS = "pseudo_labels"
PCA_SAMPLE_ROWS = 200_000
FORWARD_ROWS = 4096


@dataclass(frozen=True)
class TemiTask:
    """What the workers need to know."""

    store: Store
    work: str
    options: ClusterConfig
    num_classes: int
    seed: int
    counter: Counter


def run(context: StageContext) -> StageResult:
    """Train the heads and write the pseudo-labels."""
    store, num_classes = context.store, context.config.num_classes
    vectors = store.dataset("embeddings").schema.field("vector").type.list_size
    num_samples = store.count_rows("embeddings")
    if num_classes > num_samples:
        raise UsageError(
            f"num_classes is {num_classes}, but there are only {num_samples} samples; pass a smaller --num-classes"
        )
    hardware = context.hardware
    options = choose_cluster(context.config.cluster, hardware.device, hardware.units, num_samples, vectors)
    total = int(options.epochs) * num_samples
    with context.counting("clustering", total, "samples") as counter:
        task = TemiTask(store, context.work, options, num_classes, context.seed(), counter)
        metrics = run_training(context, _train, task, int(options.workers))
    return StageResult(
        artifacts={PSEUDO_LABELS: PSEUDO_LABELS}, chosen=options.model_dump(mode="json"), metrics=metrics
    )


def _train(task: TemiTask) -> None:
    """One worker: train from the last checkpoint on, then (first worker) write the pseudo-labels."""
    device, options = training_device(), task.options
    arrays = MappedArrays(task.store, task.work)
    features = torch.from_numpy(_features(task, arrays))
    neighbors = torch.from_numpy(arrays.column("neighbors", "ids"))
    training = _Training(task, features.shape[1], device)
    first_epoch = load_state(training.load)
    for epoch in range(first_epoch, int(options.epochs)):
        losses = _train_epoch(task, training, epoch, features, neighbors)
        if epoch + 1 == int(options.epochs) or (epoch + 1) % options.checkpoint_epochs == 0:
            save_checkpoint({"epoch": epoch, "loss": float(losses.mean())}, training.state(), epoch + 1)
    if is_first_worker():
        metrics = _write_pseudo_labels(task, training, features, neighbors.numpy())
        task.store.write_json(metrics, task.work, METRICS_FILE)
    if is_first_of_machine():
        arrays.remove()


def _features(task: TemiTask, arrays: MappedArrays) -> np.ndarray:
    """Embeddings of unit length, reduced to `pca_dim` components, float32 [N, d]."""
    vectors, dim = arrays.normalized_vectors(), int(task.options.pca_dim)
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

    return arrays.get("reduced", reduced, len(vectors))


class _Training:
    """Student, teacher, optimizer and prior on one device."""

    def __init__(self, task: TemiTask, input_dim: int, device: torch.device) -> None:
        options = task.options
        sizes = (int(options.heads), input_dim, task.num_classes, int(options.hidden_dim), int(options.bottleneck_dim))
        self.device = device
        self.student = TemiHeads(*sizes, generator=torch.Generator().manual_seed(task.seed)).to(device)
        self.teacher = TemiHeads(*sizes, generator=torch.Generator().manual_seed(task.seed)).to(device)
        self.optimizer = torch.optim.AdamW(self.student.parameter_groups(options.weight_decay), lr=0.0, fused=True)
        self.prior = uniform_prior(int(options.heads), task.num_classes).to(device)
        self.losses = torch.zeros(int(options.heads), device=device)

    def state(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "prior": self.prior,
            "losses": self.losses,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.prior, self.losses = state["prior"].to(self.device), state["losses"].to(self.device)


def _train_epoch(task: TemiTask, training: _Training, epoch: int, features: Tensor, neighbors: Tensor) -> Tensor:
    """One pass over pairs of a sample and a random neighbour; returns the mean loss of each head [H]."""
    options, device = task.options, training.device
    batch_size, num_samples = int(options.batch_size), len(features)
    generator = torch.Generator().manual_seed(task.seed + epoch)
    steps = max(1, num_samples // batch_size)
    warmup_steps = round(options.warmup_fraction * int(options.epochs)) * steps
    peak_rate = float(options.learning_rate) * batch_size / 256
    losses = torch.zeros_like(training.losses)
    for number, rows in enumerate(epoch_batches(num_samples, batch_size, batch_size, generator)):
        partner = neighbors[rows, torch.randint(neighbors.shape[1], (len(rows),), generator=generator)]
        mine, weight = worker_share(len(rows)), share_weight(len(rows))
        views = features[torch.cat([rows[mine], partner[mine]])].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            with torch.no_grad():
                teacher_logits = training.teacher(views)
            student_logits = training.student(views)
        loss, training.prior = temi_loss(
            student_logits.float(),
            teacher_logits.float(),
            training.prior,
            beta=options.beta,
            student_temperature=options.student_temperature,
            teacher_temperature=options.teacher_temperature,
            prior_momentum=options.prior_momentum,
            all_reduce_mean=partial(average_over_workers, weight=weight),
        )
        for group in training.optimizer.param_groups:
            group["lr"] = peak_rate * warmup_schedule(epoch * steps + number, warmup_steps)
        training.optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        average_gradients(training.student, weight)
        if epoch == 0:
            for parameter in training.student.last_layer():
                parameter.grad = None
        training.optimizer.step()
        update_teacher(training.teacher, training.student, float(options.teacher_momentum))
        losses += loss.detach()
        if is_first_worker():
            task.counter.reach(epoch * num_samples + min((number + 1) * batch_size, num_samples))
    training.losses = losses / steps
    return training.losses


@torch.inference_mode()
def _write_pseudo_labels(
    task: TemiTask, training: _Training, features: Tensor, neighbors: np.ndarray
) -> dict[str, Any]:
    """Assign every sample with the teacher's heads and save labels, confidence and agreement."""

    def probabilities() -> Iterator[Tensor]:
        for rows in features.split(FORWARD_ROWS):
            logits = training.teacher(rows.to(training.device))
            yield (logits / task.options.teacher_temperature).softmax(dim=2)

    # Two passes, so that no array of all heads, samples and classes is held.
    best_head = int(training.losses.argmin())
    assignments = torch.cat([batch.argmax(dim=2) for batch in probabilities()], dim=1).cpu().numpy()
    alignment = head_alignment(assignments, best_head, task.num_classes)
    heads = range(len(alignment)) if task.options.assignment == "mean" else [best_head]
    batches = [consensus(batch.cpu().numpy(), alignment, heads) for batch in probabilities()]
    labels, confidence, agreement = (np.concatenate(column) for column in zip(*batches, strict=True))
    table = read_keys(task.store, "embeddings")
    for name, values in {"label": labels, "confidence": confidence, "agreement": agreement}.items():
        table = table.append_column(name, pa.array(values))
    task.store.write_table(table, schema.PSEUDO_LABELS, task.work, PSEUDO_LABELS, part_name(0))
    return {
        "loss": round(float(training.losses.mean()), 4),
        "mean_confidence": round(float(confidence.mean()), 4),
        "mean_agreement": round(float(agreement.mean()), 4),
        "neighbor_consistency": round(float((labels[neighbors] == labels[:, None]).mean()), 4),
        "cluster_sizes": np.bincount(labels, minlength=task.num_classes).tolist(),
    }
