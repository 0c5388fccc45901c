"""Ids and images in every form in which Arrow holds them: used as they are, or refused by name."""

import json
import os
import unicodedata
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.data.columns import as_text, ids_of
from elfs_ray.data.sources import open_source
from elfs_ray.data.vectors import open_vectors
from elfs_ray.errors import UsageError
from elfs_ray.stages.ingest import _refuse_duplicates
from kinds_of_input import png, read_all

UUIDS = [uuid.UUID(int=number) for number in (0, 2**100, 5)]
# What holds ids, and what they are as text.
IDS = {
    "string": (pa.array(["007", "é", "a b"]), ["007", "é", "a b"]),
    "large_string": (pa.array(["007", "é", "a b"], pa.large_string()), ["007", "é", "a b"]),
    "string_view": (pa.array(["007", "é", "a b"], pa.string_view()), ["007", "é", "a b"]),
    "categorical": (pa.array(["x", "y", "z"]).dictionary_encode(), ["x", "y", "z"]),
    "categorical numbers": (pa.array([7, 5, 6]).dictionary_encode(), ["7", "5", "6"]),
    "uuid": (pa.array([one.bytes for one in UUIDS], pa.uuid()), [str(one) for one in UUIDS]),
    "int8": (pa.array([-1, 0, 7], pa.int8()), ["-1", "0", "7"]),
    "uint64": (pa.array([0, 1, 2**64 - 1], pa.uint64()), ["0", "1", str(2**64 - 1)]),
    "whole decimal": (pa.array([1, 2, 30], pa.decimal128(9, 0)), ["1", "2", "30"]),
    "binary": (pa.array([b"a", "é".encode(), b"c"]), ["a", "é", "c"]),
    "large_binary": (pa.array([b"a", b"b", b"c"], pa.large_binary()), ["a", "b", "c"]),
    "binary_view": (pa.array([b"a", b"b", b"c"], pa.binary_view()), ["a", "b", "c"]),
    "fixed_size_binary": (pa.array([b"aa", b"ab", b"ac"], pa.binary(2)), ["aa", "ab", "ac"]),
}
NO_IDS = {
    "double": pa.array([1.0, 2.0, 3.0]),
    "bool": pa.array([True, False, True]),
    "list<element: int64>": pa.array([[1], [2], [3]]),
    "date32[day]": pa.array([1, 2, 3], pa.date32()),
    "timestamp[us]": pa.array([1, 2, 3], pa.timestamp("us")),
    "null": pa.nulls(3),
    "decimal128(9, 2)": pa.array([1, 2, 3], pa.decimal128(9, 2)),
    "struct<a: int64>": pa.array([{"a": 1}] * 3),
}


def write(table, **columns):
    pq.write_table(pa.table(columns), table)
    return str(table)


@pytest.mark.parametrize("kind", IDS)
class TestIds:
    def test_of_images(self, tmp_path, kind):
        column, texts = IDS[kind]
        others = {"filename": ["1", "2", "3"], "image": [png(n) for n in range(3)], "label": ["a", "b", "c"]}
        path = write(tmp_path / "t.parquet", image_id=column, **others)
        source = open_source(path, chunk_rows=2)
        assert read_all(source)["sample_id"].to_pylist() == texts
        ids, labels = source.read_column("label")
        assert (ids.to_pylist(), labels.to_pylist()) == (texts, ["a", "b", "c"])

    def test_of_vectors(self, tmp_path, kind):
        column, texts = IDS[kind]
        vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32()))
        found = open_vectors(write(tmp_path / "v.parquet", image_id=column, vector=vectors))
        assert found.ids(0).to_pylist() == found.read(0)[0].to_pylist() == texts

    def test_of_a_saved_data_set(self, tmp_path, kind):
        column, texts = IDS[kind]
        if "categorical" in kind:
            return  # such a file has dictionaries between its batches, and is refused by that word
        table = pa.table({"id": column, "image": [png(n) for n in range(3)]})
        with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        assert read_all(open_source(str(tmp_path / "data.arrow")))["sample_id"].to_pylist() == texts


class TestNoIds:
    @pytest.mark.parametrize("kind", NO_IDS)
    def test_are_refused(self, tmp_path, kind):
        """Though there is another column that could serve: which one is the user's to say."""
        path = write(tmp_path / "t.parquet", id=NO_IDS[kind], filename=["a", "b", "c"], image=[png(1)] * 3)
        with pytest.raises(UsageError) as caught:
            open_source(path)
        assert str(caught.value) == (
            f"{path} holds {kind} in its id column 'id', and ids are text or whole numbers; write it as text, or name "
            "another column with --set ingest.id_column=NAME"
        )
        assert read_all(open_source(path, id_column="filename"))["sample_id"].to_pylist() == ["a", "b", "c"]
        with pytest.raises(UsageError, match=r"ingest\.id_column=id: .* holds .* there; ids are text or whole numbers"):
            open_source(path, id_column="id")

    @pytest.mark.parametrize("value", [b"\xff", b"a\x00", uuid.UUID(int=2**127 + 255).bytes])
    @pytest.mark.parametrize("coded", [False, True])
    def test_bytes_that_are_no_text(self, value, coded):
        column = pa.array([b"a", value])
        with pytest.raises(UsageError, match=r"col holds bytes \(.*binary.*\) that are no UTF-8 text; write the ids"):
            ids_of(column.dictionary_encode() if coded else column, "col")

    def test_numbers_of_vectors_that_are_no_ids(self, tmp_path):
        vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32()))
        with pytest.raises(UsageError, match=r"column 'id' of .* holds double; ids are text or whole numbers"):
            open_vectors(write(tmp_path / "v.parquet", id=pa.array([1.0, 2.0, 3.0]), vector=vectors)).ids(0)

    @pytest.mark.parametrize(
        "column",
        [pa.array(["a", ""]), pa.array(["a", None], pa.string_view()), pa.array([UUIDS[0].bytes, None], pa.uuid())],
    )
    def test_missing_ones(self, column):
        with pytest.raises(UsageError, match="col holds nulls or empty texts; every image needs an id"):
            ids_of(column, "col")

    def test_labels_in_every_form(self):
        for column, texts in IDS.values():
            assert as_text(column, "col").to_pylist() == texts
        with pytest.raises(UsageError, match="col holds list<item: int64>; labels are text or numbers"):
            as_text(pa.array([[1]]), "col")


class TestImages:
    @pytest.mark.parametrize(
        "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
    )
    def test_bytes(self, tmp_path, kind):
        column = pa.array([png(1), png(2)]).cast(kind) if not pa.types.is_dictionary(kind) else None
        column = pa.array([png(1), png(2)]).dictionary_encode() if column is None else column
        assert read_all(open_source(write(tmp_path / "t.parquet", image=column)))["image"].to_pylist() == [
            png(1),
            png(2),
        ]

    @pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), "categorical"])
    def test_paths(self, tmp_path, kind):
        (tmp_path / "1.png").write_bytes(png(1))
        column = pa.array(["1.png", "1.png"])
        column = column.dictionary_encode() if kind == "categorical" else column.cast(kind)
        rows = read_all(open_source(write(tmp_path / "t.parquet", id=["a", "b"], path=column)))
        assert rows["image"].to_pylist() == [png(1), png(1)]
        assert rows["uri"].to_pylist() == [f"{tmp_path}/1.png"] * 2

    @pytest.mark.parametrize("parts", [(pa.binary(), pa.string()), (pa.large_binary(), pa.string_view())])
    def test_pairs_of_bytes_and_paths(self, tmp_path, parts):
        """As `Dataset.to_parquet` writes them; bytes come first, a path may be relative, absolute or a URI."""
        (tmp_path / "my images").mkdir()
        (tmp_path / "my images" / "1.png").write_bytes(png(1))
        place = f"{tmp_path}/my images/1.png"
        images = [
            {"bytes": png(7), "path": "gone.png"}, {"bytes": None, "path": "my images/1.png"},
            {"bytes": None, "path": place}, {"bytes": b"", "path": f"file://{tmp_path}/my%20images/1.png"},
            {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": None}, None, {"bytes": b"", "path": ""},
        ]  # fmt: skip
        column = pa.array(images, pa.struct({"bytes": parts[0], "path": parts[1]}))
        path = write(tmp_path / "t.parquet", image=column)
        rows = read_all(open_source(path))
        assert rows["image"].to_pylist() == [png(7), png(1), png(1), png(1), None, None, None, None]
        assert rows["uri"].to_pylist() == [
            f"{path}#0", place, place, place, f"{tmp_path}/gone.png", f"{path}#5", f"{path}#6", f"{path}#7"
        ]  # fmt: skip
        neither = "the row holds neither the bytes of an image nor a path"
        assert rows["error"].to_pylist() == [
            None, None, None, None, "the file cannot be read: No such file or directory", neither, neither,
            "the image is empty (0 bytes)",
        ]  # fmt: skip

    def test_pairs_that_datasets_writes(self, tmp_path):
        import datasets

        for number in range(3):
            (tmp_path / f"{number}.png").write_bytes(png(number))
        paths = [f"{tmp_path}/{number}.png" for number in range(3)]
        data = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
        data.to_parquet(tmp_path / "t.parquet")
        rows = read_all(open_source(str(tmp_path / "t.parquet")))
        assert rows["image"].to_pylist() == [png(number) for number in range(3)]
        assert rows["sample_id"].to_pylist() == ["t.parquet#0", "t.parquet#1", "t.parquet#2"]

    def test_files_that_tables_name_are_few_in_a_chunk(self, tmp_path):
        pairs = pa.array([{"bytes": None, "path": "x.png"}] * 300)
        for column in (pairs, pa.array(["x.png"] * 300)):
            source = open_source(write(tmp_path / "t.parquet", image=column))
            assert [chunk.rows for chunk in source.chunks] == [256, 44]

    def test_a_named_column_that_holds_none(self, tmp_path):
        path = write(tmp_path / "t.parquet", image=[png(1)], size=[1])
        with pytest.raises(UsageError) as caught:
            open_source(path, image_column="size")
        assert str(caught.value) == (
            f"ingest.image_column=size: {path} holds int64 there; images are bytes, paths, or both as {{bytes, path}}"
        )


class TestTables:
    def test_rows_are_numbered_in_their_file(self, tmp_path):
        for folder in ("a", "b/c"):
            (tmp_path / folder).mkdir(parents=True)
            pq.write_table(
                pa.table({"image": [png(n) for n in range(5)]}), tmp_path / folder / "0.parquet", row_group_size=2
            )
        rows = read_all(open_source(str(tmp_path), chunk_rows=2))
        names = [f"{folder}/0.parquet#{row}" for folder in ("a", "b/c") for row in range(5)]
        assert rows["sample_id"].to_pylist() == names
        assert rows["uri"].to_pylist() == [f"{tmp_path}/{name}" for name in names]
        assert rows["position"].to_pylist() == list(range(10))

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"key": ["b"], "image": [png(1)]}, r"2.parquet has no column 'id', .* \(its columns: key, image\)"),
            ({"id": ["b"], "picture": [png(1)]}, "2.parquet has no column 'image'"),
            ({"id": [1.5], "image": [png(1)]}, "2.parquet holds double in column 'id', where .*1.parquet holds"),
            ({"id": ["b"], "image": ["x.png"]}, "2.parquet holds string in column 'image', where .*1.parquet"),
        ],
    )  # fmt: skip
    def test_each_must_have_the_columns_of_the_first(self, tmp_path, columns, message):
        write(tmp_path / "1.parquet", id=["a"], image=[png(1)])
        write(tmp_path / "2.parquet", **columns)
        with pytest.raises(UsageError, match=message):
            open_source(str(tmp_path))

    def test_ids_that_the_first_does_not_have(self, tmp_path):
        write(tmp_path / "1.parquet", image=[png(1)])
        write(tmp_path / "2.parquet", id=["b"], image=[png(1)])
        with pytest.raises(UsageError, match=r"2.parquet has the id column 'id', and .*1.parquet has none; give all"):
            open_source(str(tmp_path))

    def test_a_table_without_rows_says_nothing(self, tmp_path):
        """As an empty part of a data frame is written."""
        write(tmp_path / "1.parquet", id=pa.nulls(0), image=pa.nulls(0))
        write(tmp_path / "2.parquet", id=["b"], image=[png(1)])
        source = open_source(str(tmp_path))
        assert read_all(source)["sample_id"].to_pylist() == ["b"]
        assert source.columns() == ["id", "image"]
        assert source.found.passed_over == {"tables without rows": 1}

    def test_the_same_values_may_have_other_types(self, tmp_path):
        write(tmp_path / "1.parquet", id=["a"], image=[png(1)])
        write(tmp_path / "2.parquet", image=pa.array([png(2)], pa.large_binary()), more=[1], id=[7])
        assert read_all(open_source(str(tmp_path)))["sample_id"].to_pylist() == ["a", "7"]

    def test_a_file_with_fewer_rows_than_were_listed(self, tmp_path):
        path = write(tmp_path / "t.parquet", id=["a", "b", "c"], image=[png(1)] * 3)
        source = open_source(path)
        write(path, id=["a", "b"], image=[png(1)] * 2)
        with pytest.raises(
            UsageError, match=r"t\.parquet is damaged or has changed: row group 0 gives 2 rows where 3 were"
        ):
            source.read(source.chunks[0])

    def test_special_files_are_never_opened(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        rows = [{"path": path} for path in ("pipe.png", "/dev/zero", ".", "a\0b")]
        (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        errors = read_all(open_source(str(tmp_path / "t.jsonl")))["error"].to_pylist()
        assert errors[:3] == ["the file cannot be read: it is a folder, pipe, socket or device"] * 3
        assert errors[3].startswith("the file cannot be read: ")


class TestUnicodeForms:
    def test_ids_that_are_one_text_are_refused(self):
        ids = pa.chunked_array([["a", "\u00e9.jpg"], ["b", "e\u0301.jpg"]])
        with pytest.raises(UsageError) as caught:
            _refuse_duplicates(ids, "in")
        assert str(caught.value) == (
            r"sample ids '\xe9.jpg' and 'e\u0301.jpg' in in are one text in two Unicode forms (1 ids are), so that no "
            "label could tell them apart; rename one, or name another column of a table with --set "
            "ingest.id_column=NAME"
        )

    def test_equal_ones_are_told_as_such(self):
        with pytest.raises(UsageError, match=r"sample id 'b' stands 2 times in in \(1 ids are repeated\)"):
            _refuse_duplicates(pa.chunked_array([["b", "a", "b"]]), "in")

    @given(st.lists(st.text(alphabet="ae\u0301\u00e9\u1100\u1161\uac00", min_size=1, max_size=3), max_size=6))
    def test_exactly_those(self, ids):
        refused = len({unicodedata.normalize("NFC", one) for one in ids}) < len(ids)
        try:
            _refuse_duplicates(pa.chunked_array([ids], pa.string()), "in")
        except UsageError:
            assert refused
        else:
            assert not refused
