"""Small pictures for the page: by the run's own limit, of any shape; a gap where there is none to make."""

import base64
import io

import pyarrow as pa
import pytest
from PIL import Image

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.writing import write_table
from elfs_ray.report.thumbnails import Pictures
from image_files import encode, exif, with_exif


def pictures(folder, files, **ingest):
    """Thumbnails of images in a table, in their order."""
    store = RunFolder(str(folder / "run"))
    row = {"uri": "table.parquet", "width": 1, "height": 1, "content_hash": "x"}
    rows = [{**row, "sample_id": str(index), "index": index, "image": data} for index, data in enumerate(files)]
    table = pa.Table.from_pylist(rows)
    write_table(store, "samples", table, schema.samples(carries_bytes=True))
    store.update_manifest(input="table.parquet", config={"ingest": ingest}, records={})
    made = Pictures(store, 10**6).make({index: f"{index}." for index in range(len(files))})
    assert [(one.sample_id, one.caption) for one in made] == [(str(n), f"{n}.") for n in range(len(files))]
    return [one.data and decoded(one.data) for one in made]


def decoded(text):
    assert text.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))


def test_the_limit_is_that_of_the_run(tmp_path):
    files = [encode(Image.new("RGB", size, "red")) for size in ((30, 30), (31, 30))]
    small, gap = pictures(tmp_path, files, max_pixels=900)
    assert small.size == (30, 30)
    assert gap == ""


def test_a_limit_above_that_of_pillow_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (made,) = pictures(tmp_path, [encode(Image.new("RGB", (100, 100), "red"))], max_pixels=10_000)
    assert made.size == (96, 96)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1, 1), (1, 1)), ((1, 60_000), (1, 96)), ((60_000, 1), (96, 1)), ((3, 2000), (1, 96)), ((200, 100), (96, 48))],
)
def test_of_any_shape(tmp_path, size, shown):
    (made,) = pictures(tmp_path, [encode(Image.new("RGB", size, (200, 100, 50)))])
    assert made.size == shown
    assert made.getpixel((0, 0)) == pytest.approx((200, 100, 50), abs=6)


def test_what_cannot_be_decoded_is_a_gap(tmp_path):
    damaged = with_exif("JPEG", exif((0x010E, 4, 1, 7), (0x0112, 3, 1, 6)))
    gap, turned = pictures(tmp_path, [b"no image", damaged])
    assert gap == ""
    assert turned.size == (24, 32)


def test_no_metadata_go_into_the_page(tmp_path):
    (made,) = pictures(tmp_path, [encode(Image.new("RGB", (20, 20)), "JPEG", comment=b"by somebody")])
    assert "comment" not in made.info
