"""Neighbours from rounded products: as good as exact ones, on vectors that are as crowded as real embeddings."""

import numpy as np
import pytest
import torch

from elfs_ray.core.features import normalize_rows
from elfs_ray.core.knn import recall_at_k
from elfs_ray.core.product_index import ProductIndex


def crowded(rng, count=3000, dim=64):
    """A few blobs in few dimensions, and a common direction: similarities differ in the third digit."""
    centres = rng.normal(size=(12, 8))
    low = centres[rng.integers(12, size=count)] + 0.3 * rng.normal(size=(count, 8))
    return normalize_rows(low @ rng.normal(size=(8, dim)) + 4 * rng.normal(size=dim))


def exact(vectors, queries, k):
    similarity = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def test_finds_the_exact_neighbours(rng):
    vectors = crowded(rng)
    index = ProductIndex(vectors, torch.device("cpu"))
    similarity, rows = index.search(vectors[:1000], 50)
    expected = exact(vectors, vectors[:1000], 50)
    assert recall_at_k(rows, expected) >= 0.999
    np.testing.assert_allclose(similarity, np.take_along_axis(vectors[:1000] @ vectors.T, rows, axis=1), atol=1e-6)
    # Without the spare candidates the rounding would show: the test would see it.
    _, bare = ProductIndex(vectors, torch.device("cpu"), spare=0.0).search(vectors[:1000], 50)
    assert recall_at_k(bare, expected) < 0.99


@pytest.mark.parametrize("columns", [1, 7, 40, 1000])
def test_blocks_do_not_matter(rng, columns, monkeypatch):
    monkeypatch.setattr("elfs_ray.core.product_index.BLOCK_COLUMNS", columns)
    # Small whole numbers: similarities are exact in any precision, and many are equal.
    vectors = rng.integers(-2, 3, size=(40, 3)).astype(np.float32)
    similarity, rows = ProductIndex(vectors, torch.device("cpu"), spare=40.0).search(vectors, 6)
    assert rows.tolist() == exact(vectors, vectors, 6).tolist()
    assert (np.diff(similarity, axis=1) <= 0).all()
