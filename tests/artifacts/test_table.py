"""Handles on artifacts: what they read, which files they open for it, and parts that are not what the index says."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.artifacts import parquet, schema, writing
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import INDEX_FILE, RunFolder
from elfs_ray.artifacts.samples import facts_of, join_contents, samples_content
from elfs_ray.artifacts.table import Table, matrix_column
from elfs_ray.core.features import normalize_rows
from elfs_ray.errors import UsageError

GROUP = 8
LAYOUT = schema.embeddings(3)


def rows_of(start: int, stop: int) -> pa.Table:
    index = np.arange(start, stop)
    vectors = np.random.default_rng(0).normal(size=(stop, 3))[start:].astype(np.float16)
    columns = {"sample_id": [f"id {one}" for one in index], "index": index, "norm": index / 7}
    return pa.table({**columns, "vector": matrix_column(vectors)}).select(LAYOUT.names)


def write(store: RunFolder, sizes: list[int]) -> Embeddings:
    """Embeddings in parts of these sizes; in any order, as tasks end."""
    firsts = np.cumsum([0, *sizes])
    parts = [
        writing.write_part(store, "embeddings", number, int(first), rows_of(first, first + size), LAYOUT)
        for number, (first, size) in enumerate(zip(firsts, sizes, strict=False))
    ]
    writing.write_index(store, "embeddings", reversed(parts), LAYOUT)
    return Embeddings(store, "embeddings")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", GROUP)
    return RunFolder(str(tmp_path / "run"))


class Counting(pafs.FSSpecHandler):
    """Local files; counts those that are opened."""

    def __init__(self):
        super().__init__(LocalFileSystem())
        self.opened = []

    def open_input_file(self, path):
        self.opened.append(path.rpartition("/")[2])
        return super().open_input_file(path)


@pytest.mark.parametrize("parts", [10, 100, 1000])
def test_opened_files_are_those_that_hold_the_rows(store, parts):
    write(store, [20] * parts)
    counting = Counting()
    vars(store)["_location"] = pafs.PyFileSystem(counting), store.path()
    table = Embeddings(store, "embeddings")
    whole = rows_of(0, 20 * parts).cast(LAYOUT)
    reads = {
        (0,): lambda: table.read(3, 17),
        (4, 5, 6): lambda: table.read(99, 121),
        (2, 9): lambda: table.take(np.array([41, 59, 199])),
        (7, 8): lambda: table.unit_vectors(150, 170),
        (1, 3): lambda: table.unit_vectors_at(np.array([20, 79])),
    }
    for wanted, read in reads.items():
        counting.opened.clear()
        found = read()
        assert sorted(counting.opened) == [writing.part_name(number) for number in wanted if number < parts]
        if isinstance(found, pa.Table):
            assert found.equals(whole.take(found["index"]))
    counting.opened.clear()
    assert table.column("norm").tolist() == whole["norm"].to_pylist()
    assert sorted(counting.opened) == [part.name for part in table.parts()]
    counting.opened.clear()
    assert sum(len(batch) for batch in table.batches(["index"])) == table.rows == 20 * parts
    assert counting.opened == [part.name for part in table.parts()]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_any_read_is_that_of_the_whole_table(tmp_path_factory, data, sizes):
    count, store = sum(sizes), RunFolder(str(tmp_path_factory.mktemp("run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROW_GROUP_ROWS", GROUP)
        table, whole = write(store, sizes), rows_of(0, count)
    start, stop = (data.draw(st.integers(0, count + 3)) for _ in range(2))
    columns = data.draw(st.none() | st.permutations(LAYOUT.names).map(lambda names: names[:2]))
    picked = whole if columns is None else whole.select(columns)
    assert table.read(start, stop, columns).equals(
        picked.cast(table.read(0, 0, columns).schema)[start : max(start, stop)]
    )
    positions = np.sort(data.draw(st.lists(st.integers(0, count - 1)) if count else st.just([]))).astype(np.int64)
    assert table.take(positions, columns).to_pylist() == picked.take(pa.array(positions)).to_pylist()
    vectors = np.array(whole["vector"].to_pylist(), np.float16).reshape(-1, 3)
    np.testing.assert_array_equal(table.matrix("vector", start, stop), vectors[start:stop])
    np.testing.assert_array_equal(table.unit_vectors_at(positions), normalize_rows(vectors)[positions])
    batches = list(table.batches())
    assert all(len(batch) <= GROUP for batch in batches)
    assert [row for batch in batches for row in batch.to_pylist()] == whole.to_pylist()
    covered = [row for low, high in table.ranges(7, 10**9) for row in range(low, high)]
    assert covered == list(range(count))


def test_a_read_takes_no_more_groups_than_it_needs(store):
    """Of a large part, only the groups with the rows are unpacked: damage elsewhere is not met."""
    [part] = write(store, [100 * GROUP]).parts()
    path = store.path("embeddings", part.name)
    data = bytearray(store.read_bytes("embeddings", part.name))
    data[4:200] = bytes(196)  # the first group
    store.write_bytes(bytes(data), "embeddings", part.name)
    table = Embeddings(store, "embeddings")
    assert table.take(np.array([9, 500]))["index"].to_pylist() == [9, 500], path
    with pytest.raises((OSError, pa.ArrowInvalid)):
        table.read(0, 1)


def test_positions_that_are_none_or_in_no_order(store):
    table = write(store, [5])
    for positions, error in (([5], IndexError), ([-1, 2], IndexError), ([2, 1], ValueError)):
        with pytest.raises(error):
            table.take(np.array(positions))


def test_empty_table(store):
    table = writing.write_table(store, "quarantine", schema.QUARANTINE.empty_table(), schema.QUARANTINE)
    assert table.rows == 0
    assert table.read().schema.equals(schema.QUARANTINE)
    assert table.column("reason").tolist() == []
    assert list(table.batches()) == table.ranges(10, 10) == []
    assert table.take(np.array([], np.int64), ["uri"]).column_names == ["uri"]


def test_a_handle_is_sent_as_its_name(store):
    table = write(store, [5, 5])
    assert table.rows == 10
    sent = pickle.loads(pickle.dumps(table))
    assert sent == table
    assert type(sent) is Embeddings
    assert "_index" not in vars(sent)


def damage(store, what):
    part = writing.part_name(1)
    if what == "missing":
        store.delete("embeddings", part)
    elif what == "longer":
        store.write_bytes(store.read_bytes("embeddings", part) + b"x", "embeddings", part)
    elif what == "no index":
        store.delete("embeddings", INDEX_FILE)
    else:
        store.write_json(what, "embeddings", INDEX_FILE)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", r"part-000001.parquet is missing"),
        ("longer", r"part-000001.parquet has [\d,]+ bytes, not"),
        ("no index", r"it has no _index.json"),
        ({"parts": [{"first": 0}]}, r"_index.json is no part index"),
        ({"schema": "", "parts": []}, r"_index.json is no part index"),
        ([], r"_index.json is no part index"),
    ],
)
def test_parts_that_are_not_what_the_index_says(store, what, told):
    write(store, [5, 5])
    damage(store, what)
    for read in (Table.read, lambda table: table.take(np.array([7])), lambda table: list(table.batches())):
        with pytest.raises(UsageError, match=rf"embeddings is damaged: {told}") as found:
            read(Table(store, "embeddings"))
        assert "\n" not in str(found.value)


def test_an_index_with_a_gap_is_not_written(store):
    first, second = (writing.write_part(store, "e", one, 6 * one, rows_of(0, 5), LAYOUT) for one in range(2))
    for parts in ([first, second], [second], [first, first], []):
        with pytest.raises(ValueError, match=r"begins with row|has no part"):
            writing.write_index(store, "e", parts, LAYOUT)
    assert not store.exists("e", INDEX_FILE)


def test_digest_changes_with_the_content(store):
    digests = [write(store, sizes).digest for sizes in ([5, 5], [5, 5], [4, 6])]
    assert digests[0] == digests[1] != digests[2]


def test_parts_are_of_about_their_size(monkeypatch):
    monkeypatch.setattr(writing, "PART_BYTES", 100)
    assert writing.grouped([60, 30, 20, 200, 1, 99, 1]) == [
        range(2),
        range(2, 3),
        range(3, 4),
        range(4, 6),
        range(6, 7),
    ]
    assert writing.grouped([]) == []
    wide = schema.neighbors(1000)
    monkeypatch.setattr(writing, "PART_BYTES", 20_000 * writing.row_bytes(wide))
    assert writing.ranges_of_parts(40_000, wide) == [(0, 16_384), (16_384, 32_768), (32_768, 40_000)]
    assert writing.row_bytes(wide) == 64 + 8 + 1000 * (8 + 4)


def test_ranges_read_no_group_of_images_twice(store):
    """Encoded images are most of the bytes of a run."""
    image = b"x" * (parquet.IMAGE_GROUP_BYTES // 4)
    layout = pa.schema([pa.field("image", pa.binary())])
    table = writing.write_table(store, "samples", pa.table({"image": [image] * 9}), layout)
    assert [part.group for part in table.parts()] == [3]
    assert table.ranges(4, 10**12) == [(0, 3), (3, 6), (6, 9)]
    assert table.ranges(7, 10**12) == [(0, 6), (6, 9)]
    assert table.ranges(1, 1) == [(0, 3), (3, 6), (6, 9)]


def test_facts_of_samples(store):
    layout = schema.samples(carries_bytes=False)
    names = [f"{row}.png" for row in range(5)]
    columns = {"sample_id": names, "index": range(5), "uri": names, "content_hash": names}
    rows = pa.table({**columns, "width": [9, 2, 7, 5, 4], "height": [3, 8, 7, 5, 6]})
    samples = writing.write_table(store, "samples", rows, layout)
    assert facts_of(samples) == {"samples": 5, "median_side": 4}
    contents = [join_contents(map(samples_content, cut)) for cut in ([rows], [rows[:2], rows[2:]], [rows[:4]])]
    assert contents[0] == contents[1] != contents[2]
    without = writing.write_table(store, "vectors", rows, schema.samples(carries_bytes=False, has_images=False))
    assert facts_of(without) == {"samples": 5, "median_side": 0}
