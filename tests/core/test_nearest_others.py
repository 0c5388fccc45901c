"""Neighbours in one process, against scikit-learn."""

import numpy as np
import torch

from elfs_ray.core import neighbors
from elfs_ray.core.features import normalize_rows, unit_half
from small import exact_neighbors


def test_the_nearest_others_in_several_blocks(rng, monkeypatch):
    monkeypatch.setattr(neighbors, "QUERY_ROWS", 64)
    halves, told = unit_half(rng.normal(size=(150, 8))).vectors, []
    ids, similarity = neighbors.nearest_others(halves, 7, torch.device("cpu"), lambda *step: told.append(step))
    expected, exact = exact_neighbors(normalize_rows(halves).astype(np.float64), 7)
    assert np.array_equal(ids, expected)
    np.testing.assert_allclose(similarity, exact, atol=1e-6)
    assert told == [(0, 3, 64), (1, 3, 128), (2, 3, 150)]


def test_all_others_of_a_few(rng):
    halves = unit_half(rng.normal(size=(3, 8))).vectors
    ids, _ = neighbors.nearest_others(halves, 2, torch.device("cpu"), lambda *_: None)
    assert [sorted(row) for row in ids.tolist()] == [[1, 2], [0, 2], [0, 1]]
