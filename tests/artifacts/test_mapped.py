"""Arrays that the processes of one machine share."""

import tempfile

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from elfs_ray.artifacts import writing
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.mapped import machine_array, remove_arrays
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.core import components
from elfs_ray.core.features import normalize_rows
from small import write_embeddings


def write(store: RunFolder, seed: int) -> Embeddings:
    """Embeddings in three parts."""
    write_embeddings(store, np.random.default_rng(seed).normal(size=(15, 4)), rows_in_part=5)
    return Embeddings(store, "embeddings")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The machine's folder is a new one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return write(RunFolder(str(tmp_path / "run")), 0)


def test_they_are_what_the_artifact_holds(table):
    vectors = table.matrix("vector")
    np.testing.assert_array_equal(table.mapped("vector"), vectors)
    np.testing.assert_array_equal(table.mapped("index"), np.arange(15))
    np.testing.assert_array_equal(table.mapped_unit_vectors(), normalize_rows(vectors))


def test_components_are_those_of_the_unit_vectors(table, monkeypatch):
    """All of them or a sample, projected at once or by blocks; none: the vectors."""
    vectors = table.unit_vectors()
    centred = vectors - vectors.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred / len(vectors))[::-1]
    found = table.mapped_components(2)
    np.testing.assert_allclose(found.T @ found / len(vectors), np.diag(variances[:2]), atol=1e-6)
    monkeypatch.setattr(components, "SAMPLE_ROWS", 7)
    turned = table.mapped_components(4)
    np.testing.assert_allclose(cdist(turned, turned), cdist(vectors, vectors), atol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(turned[:, :2], found, atol=1e-2)  # of other rows
    np.testing.assert_array_equal(table.mapped_components(0), vectors)


def test_the_second_process_maps_what_the_first_wrote(table):
    first = table.mapped_unit_vectors()
    table.store.delete("embeddings", writing.part_name(0))
    second = Embeddings(table.store, "embeddings").mapped_unit_vectors()
    assert isinstance(second.base, np.memmap)
    np.testing.assert_array_equal(first, second)


def test_a_changed_artifact_has_arrays_of_its_own(table, tmp_path):
    before, kept = table.mapped("vector"), table.mapped("index")
    changed = write(table.store, 1)
    np.testing.assert_array_equal(changed.mapped("vector"), changed.matrix("vector"))
    assert not (before == changed.mapped("vector")).all()
    assert len(list(tmp_path.rglob("embeddings.vector.*.npy"))) == 1
    np.testing.assert_array_equal(kept, np.arange(15))


def test_nobody_sees_what_another_writes(table):
    first, second = (table.mapped_unit_vectors() for _ in range(2))
    first[:] = 7
    assert not (second == 7).any()


def test_half_an_array_is_not_taken_for_one(table, tmp_path):
    with pytest.raises(ValueError, match="has 5 rows, not 15"):
        machine_array("run", "half", "0" * 32, lambda: [np.zeros((5, 4))], 15)
    assert not [path for path in tmp_path.rglob("half*") if path.suffix != ".lock"]
    assert machine_array("run", "half", "0" * 32, lambda: [np.zeros((5, 2, 3))] * 3, 15).shape == (15, 2, 3)


def test_removed_files_stay_readable_for_who_has_them(table, tmp_path):
    mapped, other = table.mapped_unit_vectors(), machine_array("other", "a", "1", lambda: [np.ones((1, 1))], 1)
    remove_arrays(table.store.uri)
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["a.1.npy"]
    np.testing.assert_array_equal(mapped, table.unit_vectors())
    assert other.sum() == 1
