"""Embeddings that the user has already: in any order, with more than the samples, and wrong ones refused."""

import shutil
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table, fixed_size_matrix, matrix_column
from elfs_ray.config_loading import load_config
from elfs_ray.core.features import unit_half
from elfs_ray.data import vectors as data_vectors
from elfs_ray.errors import RunError, UsageError
from elfs_ray.run.runner import run
from elfs_ray.stages import embed_vectors
from small import BUDGET, NUM_IMAGES, OPTIONS, Lines


@pytest.fixture
def vectors(small_run):
    """Ids and vectors of the small run, in another order and with a stranger."""
    table = Table(RunFolder(small_run.run_dir), "embeddings").read(columns=["sample_id", "vector"])
    matrix = fixed_size_matrix(table["vector"])
    ids = np.array([*table["sample_id"].to_pylist(), "stranger"])
    order = np.random.default_rng(0).permutation(len(ids))
    return ids[order], np.concatenate([matrix, matrix[:1]])[order].astype(np.float32)


def expected(store, ids, matrix):
    """The artifact of these vectors, in the order of the samples."""
    keys = Table(store, "samples").read(columns=["sample_id", "index"])
    places = {one: place for place, one in enumerate(ids)}
    units = unit_half(matrix[[places[one] for one in keys["sample_id"].to_pylist()]])
    return keys.append_column("vector", matrix_column(units.vectors)).append_column("norm", pa.array(units.norms))


def same(table, other):
    """Whether two tables hold the same, whatever their schemas say of nulls."""
    return table.cast(other.schema).equals(other)


@pytest.fixture
def embed(small_input, tmp_path):
    """Run up to the embeddings, which come from a table beside the run folder."""

    def embed(**more):
        options = {**OPTIONS, "embed.vectors": str(tmp_path / "table"), **more}
        config = load_config({"input": str(small_input[0]), "budgets": [BUDGET], "num_classes": 10, **options})
        store = RunFolder(str(tmp_path / "run"))
        return run(config, store, embed.reporter, until="embed"), store

    embed.reporter = Lines()
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
    monkeypatch.setattr(embed_vectors, "ranges_of_parts", lambda rows, _: [(0, 130), (130, rows)])
    with monkeypatch.context() as stopped:
        stopped.setattr(embed_vectors, "_order", lambda *_: (_ for _ in ()).throw(RunError("stopped")))
        with pytest.raises(RunError, match="stopped"):
            embed()
    split = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob(".work/embed-*/split/*/*")}
    assert len({path.parent for path in split}) == 2
    monkeypatch.setattr(embed_vectors, "_split_group", None)  # nothing is split again
    manifest, store = embed()
    assert same(Table(store, "embeddings").read(), expected(store, *vectors))
    assert [part.first for part in Table(store, "embeddings").parts()] == [0, 130]
    assert "  table: 240 of 241 vectors belong to images" in embed.reporter.lines
    metrics = manifest["records"]["embed"]["metrics"]
    assert (metrics["vectors_read"], metrics["vectors_used"]) == (NUM_IMAGES + 1, NUM_IMAGES)
    assert metrics["dim"] == len(vectors[1][0])


def test_another_table_is_read_again(vectors, embed, tmp_path):
    ids, matrix = vectors
    write(tmp_path / "table", ids, matrix)
    embed()
    write(tmp_path / "table", ids, -2 * matrix)
    _, store = embed()
    assert same(Table(store, "embeddings").read(), expected(store, ids, -2 * matrix))


def test_another_scale_is_the_same_embeddings(vectors, embed, tmp_path):
    ids, matrix = vectors
    found = []
    for factor in (1, 2**-30, 2**70):
        write(tmp_path / "table", ids, matrix.astype(np.float32) * np.float32(factor))
        found.append(Table(embed()[1], "embeddings").read())
    assert found[1].drop(["norm"]).equals(found[0].drop(["norm"]))
    assert found[2].drop(["norm"]).equals(found[0].drop(["norm"]))
    assert (found[1]["norm"].to_numpy() * 2**100 == found[2]["norm"].to_numpy()).all()


def test_test_images_have_a_table_of_their_own(vectors, embed, small_input, tmp_path):
    ids, matrix = vectors
    write(tmp_path / "table", ids, matrix)
    write(tmp_path / "test", ids, matrix[:, :7])
    separate = {"evaluate.test_input": str(small_input[0]), "evaluate.labels": str(small_input[1])}
    with pytest.raises(UsageError, match=r"test has vectors of 7 values for the test images, the candidates' have"):
        embed(**separate, **{"embed.test_vectors": str(tmp_path / "test")})
    _, store = embed(**separate)
    assert Table(store, "test/embeddings").read().equals(Table(store, "embeddings").read())


def spoilt(matrix, place, vector):
    rows = list(matrix)
    rows[place] = vector
    return rows


REMEDY = "cosine cannot compare them: leave them out, or embed these images again"
ADD = "add them, or leave these images out"
GROUP = "{table}/0.parquet, row group 0: "
WRONG = {
    # what is done to ids and vectors: the whole line
    "missing": (
        lambda ids, rows: (ids[20:], rows[20:]),
        "{table} has no vector for {missing} of 240 images, such as {lost!r} "
        "(its ids are like {first!r}; {there} of its 221 vectors belong to images); " + ADD,
    ),
    "other ids": (
        lambda ids, rows: (np.char.add("x", ids), rows),
        "{table} has no vector for 240 of 240 images, such as 'digit-0000.png' "
        "(its ids are like 'x{one}'; 0 of its 241 vectors belong to images); " + ADD,
    ),
    "two vectors": (
        lambda ids, rows: ([*ids, "digit-0003.png"], [*rows, -rows[0]]),
        "{table} gives 'digit-0003.png' two vectors; keep one",
    ),
    "two lengths": (
        lambda ids, rows: ([*ids, ids[0]], [*rows, 2 * rows[0]]),
        "{table} gives {one!r} two vectors; keep one",
    ),
    "zero": (
        lambda ids, rows: (ids, spoilt(spoilt(rows, 9, 0 * rows[9]), 12, 0 * rows[9])),
        GROUP + "2 of 50 vectors are zero, such as {ninth!r}; " + REMEDY,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_vectors_are_refused(vectors, embed, tmp_path, name):
    change, line = WRONG[name]
    ids, _ = vectors
    write(tmp_path / "table", *change(*vectors))
    with pytest.raises(UsageError) as caught:
        embed()
    lost = sorted(set(ids[:20]) - {"stranger"})
    names = {"lost": str(lost[0]), "missing": len(lost), "there": 240 - len(lost), "first": str(ids[20])}
    names |= {"one": str(ids[0]), "table": tmp_path / "table", "ninth": str(ids[9])}
    assert str(caught.value) == line.format(**names)
    assert not RunFolder(str(tmp_path / "run")).exists("embeddings")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
# An s with two dots, written in three ways.
WHOLE, PARTS, ORDER = "\u1e69", "s\u0323\u0307", "s\u0307\u0323"
SEVERAL_VECTORS = (
    "v.parquet has vectors of 2 ids that differ from {0!r} in their Unicode form alone; "
    "give the image's own id to one of them"
)
SEVERAL_IMAGES = (
    "v.parquet has a vector of {1!r}, which may be that of {0!r} or of another image whose id differs "
    "in its Unicode form alone; give both images vectors with their own ids"
)


def sorted_keys(samples):
    """What `_hashed_ids` makes of samples with these ids."""
    hashes = embed_vectors._hash(pa.array(samples))
    order = np.argsort(hashes, kind="stable")
    forms = [unicodedata.normalize("NFC", one) for one in samples]
    alike = {one: place for place, one in enumerate(samples) if forms.count(forms[place]) > 1}
    return embed_vectors.Keys(hashes[order], order.astype(np.int64), alike)


def put_together(samples, ids, vectors):
    """Vector of each sample, and how many are its own, after both passes over all in one range."""
    rows, found, several = embed_vectors.owners(pa.array(ids, pa.string()), sorted_keys(samples))
    units = unit_half(np.array(vectors, np.float64).reshape(-1, 1)[rows])
    held = pa.table({
        "sample_id": pa.array(ids, pa.string()).take(pa.array(rows)), "index": found,
        "vector": matrix_column(units.vectors), "norm": units.norms, "several": several,
    })  # fmt: skip
    held = held.sort_by("index")
    keys = pa.table({"sample_id": samples, "index": np.arange(len(samples))})
    places, counts = embed_vectors.look_up(held, keys, "v.parquet")
    own = [held["norm"][int(place)].as_py() if count else None for place, count in zip(places, counts, strict=True)]
    return own, counts.tolist()


class TestUnicodeForms:
    """The vector's norm says which one it is."""

    def test_the_other_form_is_found(self):
        assert put_together([COMPOSED, "a"], ["a", DECOMPOSED, "b"], [[1.0], [2.0], [3.0]]) == ([2, 1], [1, 1])
        assert put_together([DECOMPOSED], [COMPOSED, COMPOSED], [[4.0], [4.0]]) == ([4], [2])

    def test_the_very_id_comes_first(self):
        for ids in ([COMPOSED, DECOMPOSED], [DECOMPOSED, COMPOSED]):
            numbers = [[ids.index(COMPOSED) + 1.0], [ids.index(DECOMPOSED) + 1.0]]
            vectors = [[1.0], [2.0]]
            assert put_together([COMPOSED], ids, vectors) == (numbers[0], [1])
            assert put_together([COMPOSED, DECOMPOSED], ids, vectors) == ([numbers[0][0], numbers[1][0]], [1, 1])

    def test_a_vector_of_one_is_not_that_of_another(self):
        assert put_together([COMPOSED, DECOMPOSED], [COMPOSED], [[5.0]]) == ([5, None], [1, 0])

    @pytest.mark.parametrize(
        ("samples", "ids", "line"),
        [
            (
                [WHOLE],
                [PARTS, ORDER],
                SEVERAL_VECTORS,
            ),
            (
                [WHOLE, PARTS],
                [ORDER],
                SEVERAL_IMAGES,
            ),
            (["a"], ["a", "a"], "v.parquet gives 'a' two vectors; keep one"),
            ([COMPOSED], [DECOMPOSED, DECOMPOSED], "v.parquet gives {0!r} two vectors; keep one"),
        ],
    )
    def test_what_may_be_either_is_refused(self, samples, ids, line):
        with pytest.raises(UsageError) as caught:
            put_together(samples, ids, [[1.0 + number] for number in range(len(ids))])
        assert str(caught.value) == line.format(samples[0], ids[0])

    @given(
        st.lists(st.sampled_from(["a", "b", "c", COMPOSED, DECOMPOSED, WHOLE, PARTS]), unique=True, min_size=1),
        st.lists(st.sampled_from(["a", "b", "d", COMPOSED, DECOMPOSED, WHOLE, PARTS, ORDER])),
    )
    def test_what_a_plain_search_finds(self, samples, ids):
        """Each vector's norm is that of its id, so that equal ids have equal vectors."""
        norms = {one: number + 1.0 for number, one in enumerate(dict.fromkeys(ids))}
        own, counts, refused = [], [], False
        for sample in samples:
            form = unicodedata.normalize("NFC", sample)
            alike = [one for one in ids if unicodedata.normalize("NFC", one) == form and one not in samples]
            rivals = [other for other in samples if unicodedata.normalize("NFC", other) == form]
            found = [one for one in ids if one == sample] or alike
            refused |= sample not in ids and bool(alike) and (len(set(alike)) > 1 or len(rivals) > 1)
            own.append(norms[found[0]] if found else None)
            counts.append(len(found))
        call = lambda: put_together(samples, ids, [[norms[one]] for one in ids])  # noqa: E731
        if refused:
            with pytest.raises(UsageError, match=r"in (its|their) Unicode form alone"):
                call()
        else:
            assert call() == (own, counts)


def test_other_forms_in_a_run(small_input, tmp_path):
    """Names of files as macOS writes them, ids as they are typed; one id in both forms, and its image in one."""
    folder = tmp_path / "images"
    folder.mkdir()
    pictures = sorted(small_input[0].iterdir())[:3]
    for name, path in zip((DECOMPOSED, "na\u0308chst", "b"), pictures, strict=True):
        shutil.copy(path, folder / f"{name}.png")
    ids = ["n\u00e4chst", "b", COMPOSED, DECOMPOSED, "b.png/c"]
    lists = [[1.0, 0], [0, 2.0], [3.0, 0], [0, 4.0], [5.0, 5.1]]
    pq.write_table(pa.table({"id": [f"{one}.png" for one in ids], "vector": lists}), tmp_path / "v.parquet")
    values = {"input": str(folder), "budgets": [2], "num_classes": 2, "embed.vectors": str(tmp_path / "v.parquet")}
    values["neighbors.k"] = 2
    store, lines = RunFolder(str(tmp_path / "run")), Lines()
    manifest = run(load_config(values), store, lines, until="embed")
    rows = Table(store, "embeddings").read()
    assert dict(zip(rows["sample_id"].to_pylist(), rows["norm"].to_pylist(), strict=True)) == {
        f"{DECOMPOSED}.png": 4, "na\u0308chst.png": 1, "b.png": 2,
    }  # fmt: skip
    assert rows["sample_id"].to_pylist() == Table(store, "samples").read()["sample_id"].to_pylist()
    assert "  v.parquet: 3 of 5 vectors belong to images" in lines.lines
    assert manifest["records"]["embed"]["metrics"]["vectors_used"] == 3


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
        there = Table(RunFolder(small_run.run_dir), "embeddings").read()
        matrix = fixed_size_matrix(there["vector"]).astype(np.float64)
        monkeypatch.setattr(data_vectors, "GROUP_BYTES", 100 * matrix[0].nbytes)
        _, store = embed(**self.save(tmp_path, matrix))
        assert same(Table(store, "embeddings").read(), expected(store, there["sample_id"].to_pylist(), matrix))
        assert not [line for line in embed.reporter.lines if "belong to images" in line]
        with pytest.raises(UsageError, match=r"v\.npy has 239 rows and no ids, and .* 240 images; give a row for each"):
            embed(**self.save(tmp_path, matrix[1:]))

    def test_with_ids_beside_it(self, vectors, embed, small_run, tmp_path):
        ids, matrix = vectors
        _, store = embed(**self.save(tmp_path, matrix.astype(np.float32), ids))
        assert same(Table(store, "embeddings").read(), expected(store, ids, matrix))
        (tmp_path / "v.ids.txt").write_text("\n".join(ids[::-1]))
        _, store = embed(**self.save(tmp_path, matrix.astype(np.float32)))
        assert same(Table(store, "embeddings").read(), expected(store, ids[::-1], matrix))

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
