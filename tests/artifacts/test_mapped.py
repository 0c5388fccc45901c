"""Arrays that the workers of one machine share."""

import tempfile

import numpy as np
import pyarrow as pa
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.mapped import MappedArrays
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import matrix_column, part_name
from elfs_ray.core.features import normalize_rows


@pytest.fixture
def store(tmp_path, rng, monkeypatch):
    """Embeddings in three parts; the machine's folder is a new one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = RunFolder(str(tmp_path / "run"))
    for number, start in enumerate((0, 5, 10)):
        index, vectors = np.arange(start, start + 5), rng.normal(size=(5, 4)).astype(np.float16)
        table = pa.table(
            {
                "sample_id": index.astype(str),
                "index": index,
                "vector": matrix_column(vectors),
                "norm": np.ones(len(vectors)),
            }
        )
        store.write_table(table, schema.embeddings(4), "embeddings", part_name(number))
    return store


def vectors_of(store):
    return np.array(store.read_table("embeddings")["vector"].to_pylist(), dtype=np.float16)


def test_they_are_what_the_artifact_holds(store):
    arrays = MappedArrays(store, "work")
    np.testing.assert_array_equal(arrays.column("embeddings", "vector"), vectors_of(store))
    np.testing.assert_array_equal(arrays.normalized_vectors(), normalize_rows(vectors_of(store)))


def test_the_second_worker_maps_what_the_first_wrote(store):
    first = MappedArrays(store, "work").normalized_vectors()
    store.delete("embeddings", part_name(0))
    second = MappedArrays(store, "work").get("normalized", lambda: pytest.fail("written again"), 15)
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, second)


def test_nobody_sees_what_another_writes(store):
    first, second = (MappedArrays(store, "work").normalized_vectors() for _ in range(2))
    first[:] = 7
    assert not (second == 7).any()


def test_half_an_array_is_not_taken_for_one(store, tmp_path):
    arrays = MappedArrays(store, "work")
    with pytest.raises(ValueError, match="has 5 rows, not 15"):
        arrays.get("half", lambda: [np.zeros((5, 4))], 15)
    assert not list(tmp_path.rglob("half.npy"))
    assert arrays.get("half", lambda: [np.zeros((5, 4))] * 3, 15).shape == (15, 4)


def test_removed_files_stay_readable_for_who_has_them(store, tmp_path):
    arrays = MappedArrays(store, "work")
    mapped = arrays.normalized_vectors()
    arrays.remove()
    assert not list(tmp_path.rglob("*.npy"))
    np.testing.assert_array_equal(mapped, normalize_rows(vectors_of(store)))
