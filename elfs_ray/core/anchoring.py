"""Pseudo-labels from a few true labels: probes on the embeddings, judged on labels that they have not seen.

Symbols: N samples, d dimensions of the embedding, m samples with true labels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32, Int64

from elfs_ray.core.probe import FORWARD_ROWS, train_probe
from elfs_ray.core.splits import stratified_split

PROBES = 5


class Anchored(NamedTuple):
    """What the probes say of all samples.

    Attributes:
        labels: int32 [N].
        confidence: mean probability of that label over the probes, float32 [N].
        agreement: share of the probes that give it, float32 [N].
        accuracy: share of the seeds that probes trained without them get right.
        cluster_accuracy: share of the same seeds that the clusters get right, named by the other seeds.
    """

    labels: Int32[np.ndarray, " N"]
    confidence: Float32[np.ndarray, " N"]
    agreement: Float32[np.ndarray, " N"]
    accuracy: float
    cluster_accuracy: float


def spread_by_probes(
    vectors: Float32[np.ndarray, "N d"],
    clusters: Int[np.ndarray, " N"],
    seeds: Int64[np.ndarray, " m"],
    seed_labels: Int64[np.ndarray, " m"],
    rng: np.random.Generator,
    *,
    steps: int = 500,
) -> Anchored:
    """Train probes, each without a fifth of the seeds, and average what they predict for all samples.

    Args:
        vectors: rows of unit length, float32 [N, d].
        clusters: the pseudo-labels to compare with, int [N].
        seeds: positions of the samples with true labels, int64 [m], at least two.
        seed_labels: int64 [m], from 0.
        rng: source of the splits and of the probes' weights.
        steps: optimizer steps of each probe.
    """
    mean = np.zeros((len(vectors), int(seed_labels.max()) + 1), dtype=np.float32)
    votes, right, right_by_cluster, judged = [], 0, 0, 0
    for _ in range(PROBES):
        kept, held_out = stratified_split(seed_labels, 1 / PROBES, rng)
        network = train_probe(vectors[seeds[kept]], seed_labels[kept], rng, steps=steps)
        with torch.inference_mode():
            blocks = [network(block).softmax(dim=1) for block in torch.from_numpy(vectors).split(FORWARD_ROWS)]
        probabilities = torch.cat(blocks).numpy()
        mean[:, : probabilities.shape[1]] += probabilities / PROBES
        votes.append(probabilities.argmax(axis=1))
        right += int((votes[-1][seeds[held_out]] == seed_labels[held_out]).sum())
        named = name_clusters(clusters[seeds[kept]], seed_labels[kept], int(clusters.max()) + 1)
        right_by_cluster += int((named[clusters[seeds[held_out]]] == seed_labels[held_out]).sum())
        judged += len(held_out)
    labels = mean.argmax(axis=1)
    agreement = (np.stack(votes) == labels).mean(axis=0, dtype=np.float32)
    confidence = mean[np.arange(len(labels)), labels]
    shares = right / max(judged, 1), right_by_cluster / max(judged, 1)
    return Anchored(labels.astype(np.int32), confidence, agreement, *shares)


def name_clusters(
    clusters: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"], num_clusters: int
) -> Int64[np.ndarray, " {num_clusters}"]:
    """The label of most samples of each cluster, int64 [num_clusters]; -1 for a cluster without any.

    Args:
        clusters: int [m].
        labels: int [m], from 0.
        num_clusters: how many there are.
    """
    counts = np.zeros((num_clusters, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)
