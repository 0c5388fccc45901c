"""Pseudo-labels from a few true labels: probes on the embeddings, judged on labels that they have not seen.

Symbols: N samples, d dimensions of the embedding, m samples with true labels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32, Int64

from elfs_ray.core.probe import train_probe
from elfs_ray.core.splits import stratified_split

BLOCK_ROWS = 8192


class Anchored(NamedTuple):
    """What the probes say of all samples.

    Attributes:
        labels: int32 [N].
        confidence: mean probability of that label over the probes, float32 [N].
        agreement: share of the probes that give it, float32 [N].
        accuracy: share of the seeds that probes trained without them get right.
    """

    labels: Int32[np.ndarray, " N"]
    confidence: Float32[np.ndarray, " N"]
    agreement: Float32[np.ndarray, " N"]
    accuracy: float


def spread_by_probes(
    vectors: Float32[np.ndarray, "N d"],
    seeds: Int64[np.ndarray, " m"],
    seed_labels: Int64[np.ndarray, " m"],
    rng: np.random.Generator,
    *,
    probes: int = 5,
    steps: int = 500,
) -> Anchored:
    """Train probes, each without a fifth of the seeds, and average what they predict for all samples.

    Args:
        vectors: rows of unit length, float32 [N, d].
        seeds: positions of the samples with true labels, int64 [m], at least two.
        seed_labels: int64 [m], from 0.
        rng: source of the splits and of the probes' weights.
        probes: how many.
        steps: optimizer steps of each.
    """
    mean = np.zeros((len(vectors), int(seed_labels.max()) + 1), dtype=np.float32)
    votes, right, judged = [], 0, 0
    for _ in range(probes):
        kept, held_out = stratified_split(seed_labels, 1 / probes, rng)
        network = train_probe(vectors[seeds[kept]], seed_labels[kept], rng, steps=steps)
        with torch.inference_mode():
            blocks = [network(block).softmax(dim=1) for block in torch.from_numpy(vectors).split(BLOCK_ROWS)]
        probabilities = torch.cat(blocks).numpy()
        mean[:, : probabilities.shape[1]] += probabilities / probes
        votes.append(probabilities.argmax(axis=1))
        right += int((votes[-1][seeds[held_out]] == seed_labels[held_out]).sum())
        judged += len(held_out)
    labels = mean.argmax(axis=1)
    agreement = (np.stack(votes) == labels).mean(axis=0, dtype=np.float32)
    confidence = mean[np.arange(len(labels)), labels]
    return Anchored(labels.astype(np.int32), confidence, agreement, right / max(judged, 1))


def majority_accuracy(clusters: Int[np.ndarray, " m"], seed_labels: Int[np.ndarray, " m"]) -> float:
    """Share of the seeds whose label is that of most seeds of their cluster; clusters and labels int [m], from 0."""
    counts = np.zeros((int(clusters.max()) + 1, int(seed_labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (clusters, seed_labels), 1)
    return float(counts.max(axis=1).sum() / len(seed_labels))
