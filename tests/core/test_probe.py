import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elfs_ray.core.networks import MlpClassifier
from elfs_ray.core.probe import boundary_distances, last_layer_gradients, learning_complexity, train_probe


@pytest.fixture(scope="module")
def blobs():
    """Three classes; the first ten samples lie between the first two."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    vectors = 4 * np.eye(6, dtype=np.float32)[labels] + 0.3 * rng.normal(size=(120, 6)).astype(np.float32)
    vectors[:10] = 2 * np.eye(6)[0] + 2 * np.eye(6)[1] + 0.1 * rng.normal(size=(10, 6))
    labels[:10] = 0
    return vectors, labels


@pytest.fixture(scope="module")
def probe(blobs):
    return train_probe(*blobs, np.random.default_rng(1), steps=300, hidden_dim=32)


def test_probe_learns(blobs, probe):
    vectors, labels = blobs
    assert (probe(torch.from_numpy(vectors)).argmax(dim=1).numpy() == labels).mean() > 0.95


def test_gradients_are_those_of_autograd(blobs, probe):
    errors, hidden = last_layer_gradients(probe, blobs[0])
    for row in (0, 55):
        logits = probe(torch.from_numpy(blobs[0][row : row + 1]))
        (expected,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(dim=1)), [probe.output.weight])
        np.testing.assert_allclose(np.outer(errors[row], hidden[row]), expected.numpy(), rtol=1e-4, atol=1e-6)


class TestBoundaryDistance:
    def test_of_a_linear_network_is_exact(self):
        """Hidden units that are always on make the network linear: the boundary is a hyperplane."""
        inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        network = MlpClassifier(inputs, 2, 3, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            network.hidden.weight.copy_(torch.eye(3))
            network.hidden.bias.fill_(100.0)
            network.output.bias.copy_(-network.output.weight @ network.hidden.bias)
        logits = network(inputs).detach()
        slope = (network.output.weight[0] - network.output.weight[1]).detach() / network.scale
        expected = (logits[:, 0] - logits[:, 1]).abs() / slope.norm()
        found = boundary_distances(network, inputs.numpy())
        np.testing.assert_allclose(found, 1.02 * expected.numpy(), rtol=0.01, atol=1e-3)

    def test_samples_between_classes_are_nearest(self, blobs, probe):
        distances = boundary_distances(probe, blobs[0])
        assert set(np.argsort(distances)[:8]) <= set(range(10))

    def test_crosses_the_boundary(self, blobs, probe):
        """A sample moved by less than nine tenths of its distance along any of many directions keeps its class."""
        vectors = torch.from_numpy(blobs[0])
        distances = torch.from_numpy(boundary_distances(probe, blobs[0])).float()
        directions = F.normalize(torch.randn(20, *vectors.shape, generator=torch.Generator().manual_seed(0)), dim=2)
        moved = probe(vectors + 0.9 * distances[:, None] * directions).argmax(dim=2)
        assert (moved == probe(vectors).argmax(dim=1)).float().mean() > 0.99


def test_samples_between_classes_are_the_most_complex(blobs, rng):
    vectors, labels = blobs
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    complexity = learning_complexity(vectors, labels, rng)
    assert ((complexity >= 0) & (complexity <= 1)).all()
    assert complexity[:10].mean() > complexity[10:].mean() + 0.05
