"""Precomputed embeddings as files: what is read, and what is refused with a remedy."""

import io
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.data import vectors
from elfs_ray.data.vectors import open_vectors, vectors_signature
from elfs_ray.errors import UsageError


def read_all(found):
    parts = [found.read(number) for number in range(len(found.groups))]
    ids = [name for ids, _ in parts for name in ids.to_pylist()]
    return ids, np.concatenate([rows.vectors for _, rows in parts])


def unit(rows):
    """Of unit length in half precision, by the plain formula."""
    rows = np.asarray(rows, np.float64)
    return (rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))).astype(np.float16)


def table_of(folder, columns, name="v.parquet", **options):
    pq.write_table(pa.table(columns), folder / name, **options)
    return open_vectors(str(folder / name))


def line_of(call, *arguments):
    """The whole message with which a call refuses."""
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "i1", "u1", ">i2", "<i8", "u8"])
def test_matrices(tmp_path, rng, monkeypatch, dtype):
    monkeypatch.setattr(vectors, "GROUP_BYTES", 100)
    matrix = rng.integers(1, 100, size=(25, 3)) if dtype[-2] in "iu" else rng.normal(size=(25, 3))
    matrix = matrix.astype(dtype)
    np.save(tmp_path / "v.npy", matrix)
    found = open_vectors(str(tmp_path / "v.npy"))
    assert (found.rows, found.dim, found.has_ids) == (25, 3, False)
    ids, rows = read_all(found)
    assert ids == [str(number) for number in range(25)]
    assert np.array_equal(rows, unit(matrix))
    norms = np.concatenate([found.read(number)[1].norms for number in range(len(found.groups))])
    np.testing.assert_allclose(norms, np.linalg.norm(matrix.astype(np.float64), axis=1), rtol=1e-14)


class TestOneScale:
    """The same vectors on any scale are the same embeddings."""

    @pytest.mark.parametrize("factor", [1e-40, 1e-9, 1e-5, 2**-20, 3.0, 1e9, 1e30])
    def test_tables(self, tmp_path, rng, factor):
        matrix = rng.normal(size=(300, 64))
        ids = [f"{number:03d}" for number in range(300)]
        kind = np.float64 if factor < 1e-38 else np.float32
        plain, scaled = (
            table_of(tmp_path, {"sample_id": ids, "vector": list(rows.astype(kind))}, name, row_group_size=70)
            for name, rows in {"1.parquet": matrix, "2.parquet": matrix * factor}.items()
        )
        found = [np.concatenate([each.read(n)[1].norms for n in range(5)]) for each in (plain, scaled)]
        ours, theirs = read_all(plain), read_all(scaled)
        assert ours[0] == theirs[0] == ids
        assert np.array_equal(ours[1], unit(matrix.astype(kind)))
        np.testing.assert_allclose(ours[1].astype(float), theirs[1].astype(float), rtol=2**-10, atol=2**-24)
        np.testing.assert_allclose(found[1], found[0] * factor, rtol=1e-6)

    @pytest.mark.parametrize("factor", [5e-324, 1e-310, 1e308])
    def test_matrices_at_the_ends_of_double_precision(self, tmp_path, factor):
        matrix = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]])
        np.save(tmp_path / "v.npy", matrix * factor)
        assert np.array_equal(read_all(open_vectors(str(tmp_path / "v.npy")))[1], matrix)


FLAT = pa.array([3, 4, -6, 8, 0, 1], pa.float32())
OFFSETS = [0, 2, 4, 6]
ROWS = [[3, 4], [-6, 8], [0, 1]]
LISTS = {
    "list": pa.ListArray.from_arrays(OFFSETS, FLAT),
    "large list": pa.LargeListArray.from_arrays(OFFSETS, FLAT),
    "fixed-size list": pa.FixedSizeListArray.from_arrays(FLAT, 2),
    "list view": pa.array(ROWS, pa.list_view(pa.float32())),
    "large list view": pa.array(ROWS, pa.large_list_view(pa.float64())),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(ROWS, np.float32)),
    "slice": pa.array([[9, 9], *ROWS, [9, 9]], pa.list_(pa.float32(), 2))[1:4],
    "half": pa.array([list(map(np.float16, row)) for row in ROWS], pa.list_(pa.float16())),
    "double": pa.array(ROWS, pa.list_(pa.float64(), 2)),
    "int8": pa.array(ROWS, pa.list_(pa.int8())),
    "int64": pa.array(ROWS, pa.list_(pa.int64(), 2)),
    "decimal": pa.array([list(map(Decimal, row)) for row in ROWS], pa.list_(pa.decimal128(12, 3))),
    "dictionary": pa.ListArray.from_arrays(OFFSETS, FLAT.dictionary_encode()),
}


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("name", ["vector", "features"])
def test_every_kind_of_list(tmp_path, lists, name):
    found = table_of(tmp_path, {"id": ["a", "b", "c"], name: LISTS[lists]}, row_group_size=2)
    assert (found.rows, found.dim) == (3, 2)
    ids, rows = read_all(found)
    assert ids == ["a", "b", "c"]
    assert rows.tolist() == unit(ROWS).tolist()
    assert [found.read(number)[1].norms.tolist() for number in range(2)] == [[5, 10], [1]]


def spoilt(rows, **changes):
    """Ten vectors with others in some places."""
    found = [[number + 1.0, -number] for number in range(10)]
    for place, row in changes.items():
        found[int(place[1:])] = row
    return pa.array(found, rows)


NAN, INF = float("nan"), float("inf")
REMEDY = "; cosine cannot compare them: leave them out, or embed these images again"
FAULTS = {
    "zero": ({"_2": [0, 0], "_7": [-0.0, 0], "_9": [0, 0]}, "3 of 10 vectors are zero, such as 'v2'" + REMEDY),
    "constant": ({"_4": [0.5, 0.5]}, "1 of 10 vectors is constant, such as 'v4'" + REMEDY),
    "not finite": ({"_3": [NAN, 1], "_5": [1, -INF]}, "2 of 10 vectors are not finite, such as 'v3'" + REMEDY),
    "null values": ({"_6": [None, 1]}, "1 of 10 vectors is not finite, such as 'v6'" + REMEDY),
    "several": (
        {"_1": [0, 0], "_2": [NAN, 0], "_3": [1, 1], "_4": [0, 0]},
        "1 of 10 vectors is not finite, such as 'v2'; 2 of 10 vectors are zero, such as 'v1'; "
        "1 of 10 vectors is constant, such as 'v3'" + REMEDY,
    ),
    "null": ({"_8": None, "_9": None}, "2 of 10 vectors are missing, such as 'v8'; fill in or remove what is wrong"),
}


class TestFaultyVectors:
    """Refused by id, with how many there are."""

    @pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float16())])
    @pytest.mark.parametrize("name", FAULTS)
    def test_tables(self, tmp_path, name, kind):
        changes, told = FAULTS[name]
        if pa.types.is_float16(kind.value_type):
            changes = {place: row and [value and np.float16(value) for value in row] for place, row in changes.items()}
            rows = [[np.float16(n + 1), np.float16(-n)] for n in range(10)]
            for place, row in changes.items():
                rows[int(place[1:])] = row
            column = pa.array(rows, kind)
        else:
            column = spoilt(kind, **changes)
        found = table_of(tmp_path, {"id": [f"v{n}" for n in range(10)], "vector": column})
        assert line_of(found.read, 0) == f"{tmp_path}/v.parquet: {told}"

    @pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"null", "null values"}))
    def test_matrices(self, tmp_path, name):
        changes, told = FAULTS[name]
        np.save(tmp_path / "v.npy", np.array(spoilt(pa.list_(pa.float64()), **changes).to_pylist()))
        (tmp_path / "v.ids.txt").write_text("".join(f"v{n}\n" for n in range(10)))
        assert line_of(read_all, open_vectors(str(tmp_path / "v.npy"))) == f"{tmp_path}/v.npy: {told}"

    def test_a_group_is_counted_whole(self, tmp_path):
        rows = [[1.0, 2.0]] * 6 + [[0.0, 0.0]] * 3 + [[1.0, 2.0]]
        ids = [f"v{n}" for n in range(10)]
        found = table_of(tmp_path, {"id": ids, "vector": rows}, row_group_size=5)
        assert found.read(0)[0].to_pylist() == ids[:5]
        told = "3 of 5 vectors are zero, such as 'v6'" + REMEDY
        assert line_of(found.read, 1) == f"{tmp_path}/v.parquet, row group 1: {told}"

    def test_one_value_is_a_direction(self, tmp_path):
        assert read_all(table_of(tmp_path, {"id": ["a", "b"], "vector": [[2.0], [-3.0]]}))[1].tolist() == [[1], [-1]]

    def test_other_widths_are_named(self, tmp_path):
        found = table_of(tmp_path, {"id": list("abcd"), "vector": [None, [1, 2], [1], []]})
        assert found.dim == 2
        assert line_of(found.read, 0) == (
            f"{tmp_path}/v.parquet: 1 of 4 vectors is missing, such as 'a'; fill in or remove what is wrong"
        )
        found = table_of(tmp_path, {"id": list("abc"), "vector": [[1, 2], [1], []]})
        assert line_of(found.read, 0) == (
            f"{tmp_path}/v.parquet: 2 of 3 vectors are of another width (0, 1 values), such as 'b'; "
            "all must have 2, as the first one has"
        )

    def test_nothing_but_empty_vectors(self, tmp_path):
        assert line_of(table_of, tmp_path, {"id": ["a", "b"], "vector": pa.array([None, []], pa.list_(pa.int8()))}) == (
            f"{tmp_path}/v.parquet: no vector of column 'vector' has a value; fill them in"
        )


class TestColumns:
    @pytest.mark.parametrize(
        ("column", "told"),
        [
            (pa.array([b"12", b"34"]), "binary"),
            (pa.array(["[1]", "[2]"]), "string"),
            (pa.array([[True], [False]]), "list<element: bool>"),
            (pa.array([[[1.0]], [[2.0]]]), "list<element: list<element: double>>"),
            (pa.array([1.0, 2.0]), "double"),
        ],
    )
    def test_no_lists_of_numbers(self, tmp_path, column, told):
        assert line_of(table_of, tmp_path, {"id": ["a", "b"], "embedding": column}) == (
            f"{tmp_path}/v.parquet holds {told} in column 'embedding'; vectors are lists of numbers"
        )

    def test_the_name_that_holds_vectors_counts(self, tmp_path):
        found = table_of(tmp_path, {"id": ["a"], "vector": ["text"], "features": [[3.0, 4.0]]})
        assert read_all(found)[1].tolist() == unit([[3, 4]]).tolist()

    @pytest.mark.parametrize(
        ("columns", "told"),
        [
            ({"id": ["c"], "weights": [[1.0]]}, "has no column of vectors (lists of numbers); call it vector or "),
            ({"key": ["c"], "vector": [[1.0, 2.0]]}, "has no column of ids; call it sample_id or "),
            ({"id": ["c"], "vector": ["x"]}, "holds string in column 'vector'; vectors are lists of numbers"),
            (
                {"path": ["c"], "vector": [[1.0, 2.0]]},
                "has its ids and vectors in the columns path, vector, and {here}/0.PARQUET in id, vector; give them",
            ),
        ],
    )
    def test_a_second_file_without_them_is_named(self, tmp_path, columns, told):
        """Whatever the endings' case; files of other kinds are not looked at."""
        (tmp_path / "README.md").write_text("x")
        pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "0.PARQUET")
        assert read_all(open_vectors(str(tmp_path)))[0] == ["a", "b"]
        pq.write_table(pa.table(columns), tmp_path / "1.parquet")
        assert line_of(open_vectors, str(tmp_path)).startswith(f"{tmp_path}/1.parquet {told.format(here=tmp_path)}")


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
        (np.eye(3)[0], None, r"holds float64 of shape \(3,\); save a matrix of numbers, a row for each image"),
        (np.eye(3, dtype=bool), None, r"holds bool of shape \(3, 3\)"),
        (np.eye(3, dtype=complex), None, r"holds complex128 of shape \(3, 3\)"),
        (np.eye(3, dtype=np.longdouble), None, r"holds float128 of shape \(3, 3\)"),
        (np.eye(3).astype("U1"), None, r"holds <U1 of shape \(3, 3\)"),
        (np.asfortranarray(np.ones((3, 2))), None, r"of shape \(3, 2\), column by column; save"),
        (np.array([["x", None]], dtype=object), None, "holds object of shape"),
        (np.zeros((0, 3)), None, r"of shape \(0, 3\)"),
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
