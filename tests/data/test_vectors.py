"""Precomputed embeddings as files: what is read, and what is refused with a remedy."""

import io

import numpy as np
import pytest

from elfs_ray.data import vectors
from elfs_ray.data.vectors import open_vectors, vectors_signature
from elfs_ray.errors import UsageError


def read_all(found):
    parts = [found.read(number) for number in range(len(found.groups))]
    return [name for ids, _ in parts for name in ids.to_pylist()], np.concatenate([rows for _, rows in parts])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_matrices(tmp_path, rng, monkeypatch, dtype):
    monkeypatch.setattr(vectors, "GROUP_BYTES", 100)
    matrix = rng.normal(size=(25, 3)).astype(dtype)
    np.save(tmp_path / "v.npy", matrix)
    found = open_vectors(str(tmp_path / "v.npy"))
    assert (found.rows, found.dim, found.has_ids) == (25, 3, False)
    assert len(found.groups) > 1
    ids, rows = read_all(found)
    assert ids == [str(number) for number in range(25)]
    assert np.array_equal(rows, matrix.astype(np.float16))


def test_ids_beside_a_matrix(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(3))
    before = vectors_signature(str(tmp_path / "v.npy"))
    (tmp_path / "v.ids.txt").write_text("a b\r\nü\r\n007")
    found = open_vectors(str(tmp_path / "v.npy"))
    assert (found.has_ids, read_all(found)[0]) == (True, ["a b", "ü", "007"])
    assert vectors_signature(str(tmp_path / "v.npy")) != before


def test_a_matrix_in_an_object_store(object_storage):
    file = io.BytesIO()
    np.save(file, np.eye(4, dtype=np.float32))
    object_storage.put(file.getvalue(), "photos/matrix/v.npy")
    object_storage.put(b"a\nb\nc\nd\n", "photos/matrix/v.ids.txt")
    ids, rows = read_all(open_vectors(object_storage.uri("photos/matrix/v.npy")))
    assert ids == ["a", "b", "c", "d"]
    assert np.array_equal(rows, np.eye(4))


@pytest.mark.parametrize(
    ("saved", "ids", "message"),
    [
        (np.eye(3)[0], None, r"holds float64 of shape \(3,\); save a matrix of floats, a row for each image"),
        (np.eye(3, dtype=int), None, r"holds int64 of shape \(3, 3\)"),
        (np.asfortranarray(np.ones((3, 2))), None, r"of shape \(3, 2\), column by column; save"),
        (np.array([["x", None]], dtype=object), None, "holds object of shape"),
        (np.zeros((0, 3)), None, r"of shape \(0, 3\)"),
        (np.full((2, 2), 1e6), None, r"rows from 0 on: the vector of '0' holds a value that is not finite"),
        (np.eye(2), "a\nb\nc\n", r"v\.ids\.txt has 3 lines, and .* 2 rows; write the id of each row"),
        (np.eye(2), "a\n\n", r"v\.ids\.txt holds nulls or empty texts; every image needs an id"),
    ],
)
def test_wrong_matrices(tmp_path, saved, ids, message):
    np.save(tmp_path / "v.npy", saved, allow_pickle=True)
    if ids is not None:
        (tmp_path / "v.ids.txt").write_text(ids)
    with pytest.raises(UsageError, match=message):
        read_all(open_vectors(str(tmp_path / "v.npy")))


def test_a_matrix_that_is_cut_off(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(9))
    (tmp_path / "v.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"is cut off: .* bytes for 9 x 9 values; copy it again"):
        open_vectors(str(tmp_path / "v.npy"))
