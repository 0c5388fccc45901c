import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.data.digits import write_digits
from elfs_ray.data.images import inspect
from elfs_ray.data.labels import labels_signature, read_labels
from elfs_ray.data.sources import open_source
from elfs_ray.errors import UsageError

IDS = ["001", "002", "003"]


def read(spec, ids=IDS, source=None):
    labels, classes = read_labels(str(spec), ids, source=lambda: open_source(source))
    return labels.tolist(), classes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "sample_id,label\n001,cat\n003,dog\n"),
        ("l.tsv", "filename\tclass\n001\tcat\n003\tdog\n"),
        ("l.jsonl", '{"id": "001", "label": "cat"}\n{"id": "003", "label": "dog"}\n'),
    ],
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == ([0, -1, 1], ["cat", "dog"])


def test_parquet_file(tmp_path):
    pq.write_table(pa.table({"id": IDS, "target": [3, 10, 3]}), tmp_path / "l.parquet")
    assert read(tmp_path / "l.parquet") == ([0, 1, 0], ["3", "10"])


def test_column_of_the_source(tmp_path):
    pq.write_table(pa.table({"id": IDS, "kind": ["b", "a", None], "path": IDS}), tmp_path / "images.parquet")
    assert read("column:kind", source=str(tmp_path / "images.parquet")) == ([1, 0, -1], ["a", "b"])


def test_folders():
    assert read("folders", ["cat/1.png", "dog/x/2.png"]) == ([0, 1], ["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,label\n001,cat\n001,dog\n", "gives '001' two labels, 'cat' and 'dog'"),
        ("sample_id,label\n9,cat\n", "no id in .* is a sample id: labels have ids like '9', samples like '001'"),
        ("sample_id,lable\n001,cat\n", "label"),
        ("", "cannot be read"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "l.csv")


def test_other_wrong_specs(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "none.csv")
    (tmp_path / "labels.xlsx").write_text("x")
    with pytest.raises(UsageError, match=r"of no known kind; pass \.csv"):
        read(tmp_path / "labels.xlsx")
    with pytest.raises(UsageError, match=r"image '1\.png' is in no class folder"):
        read("folders", ["1.png"])


def test_signature_follows_the_file(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("sample_id,label\n001,cat\n")
    before = labels_signature(str(path))
    path.write_text("sample_id,label\n001,doggy\n")
    assert labels_signature(str(path)) != before
    assert labels_signature("folders") == "folders"


def test_digits_are_written_once(tmp_path):
    images, labels = write_digits(tmp_path)
    assert len(list(images.iterdir())) == 1797
    assert len(labels.read_text().splitlines()) == 1798
    assert inspect((images / "digit-0000.png").read_bytes(), max_pixels=10_000)[:2] == (64, 64)
    first = (images / "digit-0000.png").stat().st_mtime_ns
    write_digits(tmp_path)
    assert (images / "digit-0000.png").stat().st_mtime_ns == first
