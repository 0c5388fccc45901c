import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from elfs_ray.data.sources import base, open_source
from elfs_ray.errors import UsageError


def png(level=0):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def read_all(source):
    return pa.concat_tables([source.read(chunk) for chunk in source.chunks])


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/deep/0.png", "3.PNG"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    (tmp_path / "images" / ".hidden").write_bytes(b"x")
    return tmp_path / "images"


def write_table(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


class TestFolder:
    def test_lists_all_files_in_order_with_relative_ids(self, folder):
        rows = read_all(open_source(str(folder), chunk_rows=3))
        assert rows["sample_id"].to_pylist() == ["3.PNG", "a/1.png", "a/deep/0.png", "b/2.png"]
        assert rows["position"].to_pylist() == [0, 1, 2, 3]
        assert rows["uri"][1].as_py() == str(folder / "a/1.png")
        assert rows["error"].null_count == 4

    def test_signature_follows_the_files(self, folder):
        before = open_source(str(folder)).about.signature
        assert open_source(str(folder)).about.signature == before
        (folder / "new.png").write_bytes(png())
        assert open_source(str(folder)).about.signature != before

    def test_a_file_that_goes_away_is_a_reason(self, folder):
        source = open_source(str(folder))
        (folder / "a/1.png").unlink()
        assert "cannot be read" in read_all(source)["error"][1].as_py()


class TestTable:
    @pytest.mark.parametrize("image_type", [pa.binary(), pa.large_binary()])
    def test_bytes(self, tmp_path, image_type):
        columns = {"image_id": ["x", "y", "z"], "image": pa.array([png(), b"", None], image_type)}
        rows = read_all(open_source(write_table(tmp_path / "t.parquet", columns)))
        assert rows["sample_id"].to_pylist() == ["x", "y", "z"]
        assert rows["image"][0].as_py() == png()
        assert rows["error"].to_pylist() == [None, "the image is empty (0 bytes)", "the image is empty (0 bytes)"]

    def test_hugging_face_struct(self, tmp_path):
        images = pa.array([{"bytes": png(), "path": "a.png"}])
        rows = read_all(open_source(write_table(tmp_path / "t.parquet", {"image": images})))
        assert rows["image"][0].as_py() == png()
        assert rows["sample_id"][0].as_py() == "t.parquet#0"

    def test_paths_beside_the_table(self, tmp_path):
        (tmp_path / "one.png").write_bytes(png())
        path = write_table(tmp_path / "t.parquet", {"id": [7, 8], "path": ["one.png", "gone.png"]})
        rows = read_all(open_source(path))
        assert rows["sample_id"].to_pylist() == ["7", "8"]
        assert rows["image"][0].as_py() == png()
        assert "cannot be read" in rows["error"][1].as_py()

    def test_chunks_cover_row_groups_and_files(self, tmp_path):
        for number in range(2):
            write_table(
                tmp_path / f"part-{number}.parquet",
                {"id": [f"{number}-{row}" for row in range(7)], "image": [png()] * 7},
                row_group_size=4,
            )
        source = open_source(str(tmp_path), chunk_rows=3)
        assert source.count == 14
        assert [chunk.rows for chunk in source.chunks] == [3, 1, 3, 3, 1, 3]
        assert read_all(source)["sample_id"].to_pylist() == [f"{n}-{row}" for n in range(2) for row in range(7)]

    @pytest.mark.parametrize("chunk_rows", [1, 3, 7, 100])
    def test_chunks_of_a_row_group_are_read_together(self, tmp_path, chunk_rows):
        columns = {"id": [str(row) for row in range(40)], "image": [png()] * 40}
        source = open_source(write_table(tmp_path / "t.parquet", columns, row_group_size=25), chunk_rows=chunk_rows)
        # Some are done already: what is left has gaps.
        pending = [chunk for chunk in source.chunks if chunk.number % 3 != 1]
        groups = base.together(pending)
        assert [chunk for group in groups for chunk in group] == pending
        row_group = source.entries.read()["group"].to_pylist()
        assert all(len({row_group[chunk.start] for chunk in group}) == 1 for group in groups)
        assert max(map(len, groups)) > 1 or chunk_rows > 7
        tables = [table for group in groups for table in source.read_group(group)]
        for chunk, table in zip(pending, tables, strict=True):
            assert table.equals(source.read(chunk))
            assert table["sample_id"].to_pylist() == [str(chunk.first + row) for row in range(chunk.rows)]

    def test_a_chunk_of_large_images_holds_few(self, tmp_path, monkeypatch):
        monkeypatch.setattr(base, "CHUNK_BYTES", 3 * len(png()))
        rng = np.random.default_rng(0)
        images = [rng.bytes(len(png())) for _ in range(7)]
        for number, data in enumerate(images):
            (tmp_path / "images" / f"{number}.png").parent.mkdir(exist_ok=True)
            (tmp_path / "images" / f"{number}.png").write_bytes(data)
        table = write_table(tmp_path / "t.parquet", {"id": list("abcdefg"), "image": images})
        assert [chunk.rows for chunk in open_source(str(tmp_path / "images")).chunks] == [3, 3, 1]
        assert max(chunk.rows for chunk in open_source(table).chunks) < 4
        for location in (str(tmp_path / "images"), table):
            assert read_all(open_source(location))["image"].to_pylist() == images

    def test_columns_can_be_named(self, tmp_path):
        path = write_table(tmp_path / "t.parquet", {"key": ["a"], "picture": [png()]})
        rows = read_all(open_source(path, image_column="picture", id_column="key"))
        assert rows["sample_id"].to_pylist() == ["a"]


class TestRefuses:
    def check(self, location, message, **options):
        with pytest.raises(UsageError, match=message) as caught:
            read_all(open_source(str(location), **options))
        assert "\n" not in str(caught.value)

    def test_missing(self, folder):
        self.check(folder.parent / "image", r"does not exist; did you mean .*images\?")

    def test_empty(self, tmp_path):
        self.check(tmp_path, "holds no files; pass a folder with images")

    def test_a_file_that_is_no_table(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        self.check(tmp_path / "a.txt", r"neither a folder nor a \.parquet file")

    def test_damaged_table(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
        self.check(tmp_path / "a.parquet", "cannot be read as Parquet")

    def test_table_without_rows(self, tmp_path):
        self.check(write_table(tmp_path / "t.parquet", {"image": pa.array([], pa.binary())}), "holds no rows")

    def test_table_without_images(self, tmp_path):
        path = write_table(tmp_path / "t.parquet", {"n": [1]})
        self.check(path, r"no column that looks like images \(columns: n\)")

    def test_column_that_is_not_there(self, tmp_path):
        path = write_table(tmp_path / "t.parquet", {"id": ["a"], "image": [png()]})
        self.check(path, "ingest.image_column=imag: .* did you mean 'image'", image_column="imag")

    def test_ids_with_nulls(self, tmp_path):
        path = write_table(tmp_path / "t.parquet", {"id": ["a", None], "image": [png(), png()]})
        self.check(path, "column 'id' .* holds nulls")

    def test_columns_named_for_a_folder(self, folder):
        self.check(folder, "are for tables", image_column="image")

    def test_unknown_scheme(self):
        self.check("ftp://somewhere/images", "cannot be opened")

    def test_no_permission(self, ordinary_user, folder):
        folder.chmod(0)
        with ordinary_user():
            self.check(folder, "may not be read by this user|cannot be opened")
