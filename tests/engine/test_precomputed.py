"""Embeddings that the user has already: in any order, with more than the samples, and wrong ones refused."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.config import load_config
from elfs_ray.console import Reporter
from elfs_ray.data import vectors as data_vectors
from elfs_ray.engine import precomputed
from elfs_ray.engine.artifacts import fixed_size_matrix
from elfs_ray.errors import RunError, UsageError
from elfs_ray.pipeline import run
from elfs_ray.store import Store
from small import BUDGET, NUM_IMAGES, OPTIONS


@pytest.fixture
def vectors(small_run):
    """Ids and vectors of the small run, in another order and with a stranger."""
    table = Store(small_run.run_dir).read_table("embeddings", columns=["sample_id", "vector"])
    matrix = fixed_size_matrix(table["vector"])
    ids = np.array([*table["sample_id"].to_pylist(), "stranger"])
    order = np.random.default_rng(0).permutation(len(ids))
    return ids[order], np.concatenate([matrix, matrix[:1]])[order]


@pytest.fixture
def embed(ray_session, small_input, tmp_path):
    """Run up to the embeddings, which come from a table beside the run folder."""

    def embed(**more):
        options = {**OPTIONS, "embed.vectors": str(tmp_path / "table"), **more}
        config = load_config({"input": str(small_input[0]), "budgets": [BUDGET], "num_classes": 10, **options})
        store = Store(str(tmp_path / "run"))
        return run(config, store, Reporter(), until="embed"), store

    return embed


def write(folder, ids, rows, start=0, column="embedding"):
    """Two files of row groups of 50."""
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(ids)), 2), start):
        lists = pa.array([None if rows[row] is None else list(rows[row]) for row in part], pa.list_(pa.float32()))
        table = pa.table({"image_id": pa.array(ids)[part[0] : part[-1] + 1], column: lists})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=50)


def test_the_same_as_the_encoder_gave(vectors, embed, small_run, tmp_path, monkeypatch):
    """Several ranges of several parts; stopped between the two passes, and gone on."""
    write(tmp_path / "table", *vectors)
    monkeypatch.setattr(precomputed, "PARTS_TOGETHER", 3)
    with monkeypatch.context() as stopped:
        stopped.setattr(precomputed, "_order", lambda *_: (_ for _ in ()).throw(RunError("stopped")))
        with pytest.raises(RunError, match="stopped"):
            embed()
    split = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob(".work/embed-*/split/*/*")}
    assert len({path.parent for path in split}) == 2
    monkeypatch.setattr(precomputed, "_split_group", None)  # nothing is split again
    manifest, store = embed()
    assert store.read_table("embeddings").equals(Store(small_run.run_dir).read_table("embeddings"))
    assert len(store.part_paths("embeddings")) == len(store.part_paths("samples"))
    metrics = manifest["stages"]["embed"]["metrics"]
    assert (metrics["vectors_read"], metrics["vectors_used"]) == (NUM_IMAGES + 1, NUM_IMAGES)
    assert metrics["dim"] == len(vectors[1][0])


def test_another_table_is_read_again(vectors, embed, tmp_path):
    ids, matrix = vectors
    write(tmp_path / "table", ids, matrix)
    embed()
    write(tmp_path / "table", ids, 2 * matrix)
    _, store = embed()
    assert np.array_equal(
        np.sort(fixed_size_matrix(store.read_table("embeddings")["vector"]), axis=0),
        np.sort(2 * matrix[ids != "stranger"], axis=0),
    )


def test_test_images_have_a_table_of_their_own(vectors, embed, small_input, tmp_path):
    ids, matrix = vectors
    write(tmp_path / "table", ids, matrix)
    write(tmp_path / "test", ids, matrix[:, :7])
    separate = {"evaluate.test_input": str(small_input[0]), "evaluate.labels": str(small_input[1])}
    with pytest.raises(UsageError, match=r"test has vectors of 7 values for the test images, the candidates' have"):
        embed(**separate, **{"embed.test_vectors": str(tmp_path / "test")})
    _, store = embed(**separate)
    assert store.read_table("test/embeddings").equals(store.read_table("embeddings"))


def spoilt(matrix, place, vector):
    rows = list(matrix)
    rows[place] = vector
    return rows


WRONG = {
    # what is done to ids and vectors: what the line says
    "missing": (lambda ids, rows: (ids[20:], rows[20:]), r"has no vector for \d+ of 240 images, such as 'digit-"),
    "other ids": (
        lambda ids, rows: (np.char.add("x", ids), rows),
        r"no vector for 240 of 240 images, such as 'digit-0000.png' \(its ids are like 'xdigit-",
    ),
    "two vectors": (
        lambda ids, rows: ([*ids, "digit-0003.png"], [*rows, 2 * rows[0]]),
        "gives 'digit-0003.png' two vectors; keep one",
    ),
    "width": (lambda ids, rows: (ids, spoilt(rows, 9, rows[9][:5])), "vectors of 5, .* values; all must have"),
    "not finite": (
        lambda ids, rows: (ids, spoilt(rows, 9, np.full_like(rows[9], np.inf))),
        "not finite in half precision",
    ),
    "null": (lambda ids, rows: (ids, spoilt(rows, 9, None)), "0 ids and 1 vectors are missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_vectors_are_refused(vectors, embed, tmp_path, name):
    change, message = WRONG[name]
    write(tmp_path / "table", *change(*vectors))
    with pytest.raises(UsageError, match=message):
        embed()
    assert not Store(str(tmp_path / "run")).exists("embeddings")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("weights", r"no column of vectors \(lists of numbers\); call it vector or .*columns: image_id, weights"),
        (None, "holds no .parquet"),
    ],
)
def test_wrong_tables_are_refused_before_the_run(vectors, embed, tmp_path, column, message):
    (tmp_path / "table").mkdir()
    if column:
        write(tmp_path / "table", *vectors, column=column)
    with pytest.raises(UsageError, match=message):
        embed()
    assert not (tmp_path / "run" / "samples").exists()


class TestMatrix:
    """An .npy file in the place of a table."""

    def save(self, tmp_path, matrix, ids=None):
        np.save(tmp_path / "v.npy", matrix)
        if ids is not None:
            (tmp_path / "v.ids.txt").write_text("".join(f"{one}\n" for one in ids))
        return {"embed.vectors": str(tmp_path / "v.npy")}

    def test_in_the_order_of_the_images(self, embed, small_run, tmp_path, monkeypatch):
        there = Store(small_run.run_dir).read_table("embeddings")
        matrix = fixed_size_matrix(there["vector"]).astype(np.float64)
        monkeypatch.setattr(data_vectors, "GROUP_BYTES", 100 * matrix[0].nbytes)
        _, store = embed(**self.save(tmp_path, matrix))
        assert store.read_table("embeddings").equals(there)
        with pytest.raises(UsageError, match=r"v\.npy has 239 rows and no ids, and .* 240 images; give a row for each"):
            embed(**self.save(tmp_path, matrix[1:]))

    def test_with_ids_beside_it(self, vectors, embed, small_run, tmp_path):
        ids, matrix = vectors
        _, store = embed(**self.save(tmp_path, matrix.astype(np.float32), ids))
        assert store.read_table("embeddings").equals(Store(small_run.run_dir).read_table("embeddings"))
        (tmp_path / "v.ids.txt").write_text("\n".join(ids[::-1]))
        _, store = embed(**self.save(tmp_path, matrix.astype(np.float32)))
        assert not store.read_table("embeddings").equals(Store(small_run.run_dir).read_table("embeddings"))

    def test_an_unusable_image_leaves_rows_without_owners(self, embed, small_input, tmp_path):
        images = shutil.copytree(small_input[0], tmp_path / "images")
        (images / "digit-0003.png").write_bytes(b"x")
        with pytest.raises(
            UsageError, match=r"240 rows and no ids, for 240 images, of which 1 are unusable; write the id"
        ):
            embed(input=str(images), **self.save(tmp_path, np.ones((NUM_IMAGES, 3), np.float16)))


def test_vectors_without_ids_and_test_images(embed, small_input, tmp_path):
    """Rows of the candidates are never taken for those of the test images."""
    np.save(tmp_path / "v.npy", np.ones((240, 3), np.float32))
    np.save(tmp_path / "t.npy", np.ones((239, 3), np.float32))
    separate = {"evaluate.test_input": str(small_input[0]), "evaluate.labels": str(small_input[1])}
    with pytest.raises(UsageError, match=r"v\.npy has no ids, .* pass those of the test images with --set embed\.test"):
        embed(**separate, **{"embed.vectors": str(tmp_path / "v.npy")})
    with pytest.raises(UsageError, match=r"t\.npy has 239 rows and no ids, and .* 240 images"):
        embed(**separate, **{"embed.vectors": str(tmp_path / "v.npy"), "embed.test_vectors": str(tmp_path / "t.npy")})


def test_vectors_of_test_images_alone(embed):
    with pytest.raises(UsageError, match=r"embed\.test_vectors needs embed\.vectors"):
        embed(**{"embed.vectors": None, "embed.test_vectors": "/x"})
