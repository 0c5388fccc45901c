"""The annotations of arrays are checked here: see `install_import_hook` in conftest.py."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.graph import select_by_density
from elfs_ray.core.pruning import hardness_order
from elfs_ray.methods import Selection, SelectionInputs


def test_other_number_of_rows():
    with pytest.raises(TypeCheckError, match=r"hardness_order[\s\S]*parameter 'ids'"):
        hardness_order(np.zeros(4), np.arange(3))


def test_other_type():
    with pytest.raises(TypeCheckError, match=r"hardness_order[\s\S]*parameter 'ids'"):
        hardness_order(np.zeros(4), np.arange(4.0))


def test_tensors_in_methods_of_classes():
    accumulator = DynamicsAccumulator(4)
    with pytest.raises(TypeCheckError, match="parameter 'labels'"):
        accumulator.update(torch.arange(2), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 0)


def test_what_numba_compiles_is_checked_at_its_door():
    nowhere = np.zeros(4, bool)
    with pytest.raises(TypeCheckError, match="parameter 'neighbor_ids'"):
        select_by_density(np.ones(4), np.ones((4, 2)), np.zeros((4, 3), int), 1.0, True, 2, nowhere)


def test_fields_of_dataclasses():
    with pytest.raises(TypeCheckError, match="parameter 'scores'"):
        Selection(np.arange(2), np.zeros(5))
    with pytest.raises(TypeCheckError, match="parameter 'neighbor_similarity'"):
        SelectionInputs(
            ids=np.arange(4), neighbor_ids=np.zeros((4, 2), int), neighbor_similarity=np.zeros((4, 3), np.float32)
        )
