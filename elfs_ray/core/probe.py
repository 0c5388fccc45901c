"""Scores of an MLP trained on the pseudo-labels for a moment: gradients, margins, complexity.

Symbols: N samples, d dimensions of the embedding, h width of the hidden layer, C classes, b rows in a block.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from elfs_ray.core.classifier import Recipe, train_for_steps
from elfs_ray.core.networks import MlpClassifier

FORWARD_ROWS, DEEP_FOOL_STEPS = 4096, 20
LEARNING_RATE, BATCH_SIZE = 0.02, 128


def train_probe(
    embeddings: Float32[np.ndarray, "N d"],
    labels: Int[np.ndarray, " N"],
    rng: np.random.Generator,
    *,
    steps: int = 1000,
    hidden_dim: int = 512,
) -> MlpClassifier:
    """Train an MLP on embeddings float32 [N, d] and labels int [N]."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    inputs, targets = torch.from_numpy(embeddings), torch.from_numpy(labels.astype(np.int64))
    network = MlpClassifier(inputs, int(labels.max()) + 1, hidden_dim, generator=generator)
    recipe = Recipe(steps=steps, batch_size=min(BATCH_SIZE, len(inputs)), learning_rate=LEARNING_RATE)
    train_for_steps(network, inputs, targets, recipe, generator)
    return network.eval()


@torch.inference_mode()
def last_layer_gradients(
    network: MlpClassifier, embeddings: Float32[np.ndarray, "N d"]
) -> tuple[Float32[np.ndarray, "N C"], Float32[np.ndarray, "N h"]]:
    """Factors of each sample's gradient of the last layer, for the label that the network itself predicts (BADGE).

    Returns:
        Errors float32 [N, C] (probabilities minus one-hot prediction) and hidden values float32 [N, h].
    """
    errors, hidden_values = [], []
    for block in torch.from_numpy(embeddings).split(FORWARD_ROWS):
        hidden = network.hidden_values(block)
        probabilities = network.output(hidden).softmax(dim=1)
        errors.append(probabilities - F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]))
        hidden_values.append(hidden)
    return torch.cat(errors).numpy(), torch.cat(hidden_values).numpy()


@torch.inference_mode()
def boundary_distances(network: MlpClassifier, embeddings: Float32[np.ndarray, "N d"]) -> Float64[np.ndarray, " N"]:
    """Distance of each sample to the nearest decision boundary by DeepFool (Moosavi-Dezfooli et al., CVPR 2016).

    Each step crosses the nearest boundary of the network linearised at the point, until the prediction changes.

    Args:
        network: a trained probe.
        embeddings: float32 [N, d].

    Returns:
        Euclidean length of the path's end from its start, float64 [N].
    """
    blocks = [_deep_fool(network, block) for block in torch.from_numpy(embeddings).split(FORWARD_ROWS)]
    return torch.cat(blocks).double().numpy()


def _deep_fool(network: MlpClassifier, start: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    first, last = network.hidden.weight / network.scale, network.output.weight
    gram = first @ first.T
    rows = torch.arange(len(start))
    predicted = network(start).argmax(dim=1)
    point = start.clone()
    for _ in range(DEEP_FOOL_STEPS):
        hidden = network.hidden_values(point)
        logits = network.output(hidden)
        open_rows = logits.argmax(dim=1) == predicted
        if not open_rows.any():
            break
        # Gradient of each class's logit less the predicted one's, through the active units: [b, C, h] before `first`.
        difference = (last - last[predicted][:, None, :]) * (hidden > 0)[:, None, :]
        squares = torch.einsum("bch,hk,bck->bc", difference, gram, difference).clamp_min(1e-12)
        gaps = (logits[rows, predicted][:, None] - logits).clamp_min(0)
        distance = gaps / squares.sqrt()
        distance[rows, predicted] = torch.inf
        nearest = distance.argmin(dim=1)
        # A little beyond the boundary, as published.
        length = 1.02 * gaps[rows, nearest] / squares[rows, nearest] + 1e-6
        step = (difference[rows, nearest] @ first) * length[:, None]
        point = torch.where(open_rows[:, None], point + step, point)
    return (point - start).norm(dim=1)


def learning_complexity(
    embeddings: Float32[np.ndarray, "N d"],
    labels: Int[np.ndarray, " N"],
    rng: np.random.Generator,
    *,
    capacities: int = 10,
) -> Float64[np.ndarray, " N"]:
    """How much capacity it takes to recognise a sample: mean loss over classifiers of growing capacity (DLC).

    Jiang et al. (ICLR 2025, arXiv 2402.05356) mask a growing share of the encoder's weights and classify by the mean
    representation of each class. Here the encoder has run already: a share of its outputs is masked instead.

    Args:
        embeddings: rows of unit length, float32 [N, d].
        labels: int [N].
        rng: draws the outputs that are masked.
        capacities: shares from 2 % to 98 % kept.

    Returns:
        Mean of 1 - p_y, float64 [N].
    """
    order, width = rng.permutation(embeddings.shape[1]), embeddings.shape[1]
    one_hot = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    complexity = np.zeros(len(labels))
    for share in np.linspace(0.02, 0.98, capacities):
        part = embeddings[:, order[: max(1, round(share * width))]]
        part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        prototypes = one_hot.T @ part
        prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)
        logits = torch.from_numpy(10 * part @ prototypes.T)
        complexity += 1 - logits.softmax(dim=1).numpy()[np.arange(len(labels)), labels]
    return complexity / capacities
