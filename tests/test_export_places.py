"""Every path and URL that an export writes opens the picture that it stands for, and files are called what they are."""

import io
import json
import struct
import tarfile
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.data.files import read_uri
from elfs_ray.data.image_kinds import IMAGE_KINDS
from elfs_ray.errors import UsageError
from elfs_ray.exports import FORMATS, export_coreset
from elfs_ray.exports.records import read_records
from test_exports import NAME, make_run, picture

STRANGE = ["a b.png", "c#d.png", "e?f=g.png", "100%.png", "a%20b.png", "ü/日本.png", "e\u0301.png", "h&i+j;k.png"]
WITH_PLACES = ("csv", "parquet", "jsonl", "label-studio", "cvat", "coco", "fiftyone", "symlinks")


def places(form, folder, ids):
    """The path or URL of each sample in the files of an export, in order of id."""
    if form == "cvat":  # in order of rank, as the table of any other form
        return (folder / "images.txt").read_text(encoding="utf-8").splitlines()
    if form == "symlinks":
        return [str(path) for path in sorted(folder.iterdir())]
    if form in ("csv", "parquet", "jsonl"):
        read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": partial(pd.read_json, lines=True)}[form]
        return read(folder / f"coreset.{form}")["uri"].tolist()
    if form == "label-studio":
        return [task["data"]["image"] for task in json.loads((folder / "tasks.json").read_text())]
    if form == "coco":
        return [image["file_name"] for image in json.loads((folder / "annotations.json").read_text())["images"]]
    return [sample["filepath"] for sample in json.loads((folder / "samples.json").read_text())["samples"]]


def run_of(folder, ids, *, in_table=False, uri_of=None):
    """A run folder in order of id; `uri_of` makes uris of the files' paths."""
    store = make_run(folder, in_table=in_table, ids=ids, ranked=range(len(ids)))
    if uri_of is not None:
        for name in ("samples", f"coresets/{NAME}"):
            table = Table(store, name).read()
            uris = pa.array([uri_of(Path(uri)) for uri in table["uri"].to_pylist()])
            changed = table.set_column(table.schema.get_field_index("uri"), table.schema.field("uri"), uris)
            write_table(store, name, changed, table.schema)
    return store


def numbers(data):
    """Which pictures some bytes are."""
    return [Image.open(io.BytesIO(one)).width - 10 for one in data]


@pytest.mark.parametrize("form", WITH_PLACES)
@pytest.mark.parametrize("in_table", [False, True])
def test_strange_names_open(tmp_path, form, in_table):
    folder = export_coreset(run_of(tmp_path, STRANGE, in_table=in_table), NAME, form, tmp_path / "my out #1")
    found = places(form, folder, STRANGE)
    assert numbers(Path(place).read_bytes() for place in found) == list(range(len(STRANGE)))


URIS = {
    "file:": lambda path: path.as_uri(),
    "points": lambda path: f"{path.parent}/../{path.parent.name}/./{path.name}",
    "points through a link": lambda path: f"{path.parents[1]}/aside/link/../{path.name}",
    "file: and points": lambda path: f"file://{path.parent}/../{path.parent.name}/{path.name}",
}


@pytest.mark.parametrize("form", WITH_PLACES)
@pytest.mark.parametrize("uri_of", URIS.values(), ids=URIS)
def test_paths_written_in_other_ways_open(tmp_path, form, uri_of):
    """`link/..` is where the link leads, not where it stands."""
    ids = ["a b.png", "ü.png", "100 percent.png"]
    (tmp_path / "images" / "inside").mkdir(parents=True)
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "link").symlink_to(tmp_path / "images" / "inside", target_is_directory=True)
    store = run_of(tmp_path, ids, uri_of=uri_of)
    folder = export_coreset(store, NAME, form, tmp_path / "out")
    found = places(form, folder, ids)
    assert numbers(Path(place).read_bytes() for place in found) == [0, 1, 2]
    assert not any(".." in place or "file:" in place for place in found)
    if form == "cvat":
        images = ET.parse(folder / "annotations.xml").getroot().findall("image")
        assert sorted(image.get("name") for image in images) == sorted(ids)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Be silent."""


@pytest.fixture
def served(tmp_path):
    """Address of a server of the folder of images, or of the export."""
    servers = []

    def serve(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("form", ["csv", "label-studio", "cvat", "coco", "fiftyone"])
@pytest.mark.parametrize("in_table", [False, True])
def test_urls_open(tmp_path, served, form, in_table):
    address = served(tmp_path / "out" if in_table else tmp_path / "images")
    store = run_of(tmp_path, STRANGE, in_table=in_table)
    folder = export_coreset(store, NAME, form, tmp_path / "out", url=address)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found = places(form, folder, STRANGE)
    assert numbers(opener.open(place, timeout=30).read() for place in found) == list(range(len(STRANGE)))


def test_urls_of_what_label_studio_serves_itself(tmp_path):
    """It takes the path of a file from the query of a URL."""
    store = run_of(tmp_path, STRANGE)
    folder = export_coreset(store, NAME, "label-studio", tmp_path / "out", url="/data/local-files/?d=images")
    found = [parse_qs(urlsplit(place).query)["d"][0] for place in places("label-studio", folder, STRANGE)]
    assert numbers((tmp_path / path).read_bytes() for path in found) == list(range(len(STRANGE)))


def test_links_point_to_files_whatever_the_url(tmp_path):
    folder = export_coreset(run_of(tmp_path, STRANGE), NAME, "symlinks", tmp_path / "out", url="https://host/x")
    assert numbers(path.read_bytes() for path in sorted(folder.iterdir())) == list(range(len(STRANGE)))


def test_links_end_as_their_files_do(tmp_path):
    store = make_run(tmp_path, in_table=False, ids=["1", "b.PNG", "c.jpg"], names=["x.png", "y.png", "z.png"])
    folder = export_coreset(store, NAME, "symlinks", tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["000000-c.jpg.png", "000001-1.png", "000002-b.PNG"]


@pytest.mark.parametrize("form", FORMATS)
def test_objects_open(object_storage, tmp_path, form):
    """URIs say nothing of how the store is reached; with that of the input they open."""
    bucket = f"photos/{form}/my images"
    for number, name in enumerate(STRANGE):
        object_storage.put(picture(number), f"{bucket}/{name}")
    like = object_storage.uri(f"photos/{form}/my%20images")
    store = run_of(tmp_path, STRANGE, uri_of=lambda path: object_uri(form, path.relative_to(tmp_path / "images")))
    store.update_manifest(input=like)
    if form == "symlinks":
        with pytest.raises(
            UsageError, match=r"image 'a b.png' is at s3://photos/symlinks/my%20images/a%20b.png, where no"
        ):
            export_coreset(store, NAME, form, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    folder = export_coreset(store, NAME, form, tmp_path / "out")
    [record] = read_records(store)
    if form in WITH_PLACES:
        found = places(form, folder, STRANGE)
        assert sorted(one.place for one in record.samples) == sorted(found)
        assert numbers(read_uri(place, like) for place in found) == list(range(len(STRANGE)))
        assert sorted(one.name for one in record.samples) == sorted(STRANGE)
    elif form == "webdataset":
        assert numbers(members(folder / "shard-000000.tar").values()) == list(range(len(STRANGE)))
    else:
        rows = pq.read_table(folder / "train.parquet")["image"].to_pylist()
        assert numbers(row["bytes"] for row in rows) == list(range(len(STRANGE)))


def object_uri(form, name):
    from elfs_ray.artifacts.filesystems import uri_of

    return uri_of(f"photos/{form}/my images/{name}", "s3://")


def test_a_file_that_no_link_can_point_to_any_more(tmp_path):
    store = run_of(tmp_path, ["a.png", "b.png"])
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(UsageError, match=r"image 'b.png' is no longer at .*images/b.png; restore it, then export"):
        export_coreset(store, NAME, "symlinks", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_samples_of_one_file(tmp_path):
    """CVAT could not tell them apart; others know them by the sample id."""
    store = run_of(tmp_path, ["a.png", "b.png"], uri_of=lambda path: str(path.with_name("a.png")))
    with pytest.raises(
        UsageError, match=r"'a.png' and 'b.png' are both called 'a.png', and CVAT knows images by name alone"
    ):
        export_coreset(store, NAME, "cvat", tmp_path / "out")
    assert export_coreset(store, NAME, "label-studio", tmp_path / "out").is_dir()


def test_a_path_that_no_list_can_hold(tmp_path):
    (tmp_path / "two\nlines").mkdir()
    store = run_of(tmp_path / "two\nlines", ["a.png"])
    with pytest.raises(UsageError, match=r"no list of files can hold the line break in '.*two\\nlines/images/a.png'"):
        export_coreset(store, NAME, "cvat", tmp_path / "out")


def test_a_url_with_a_secret_is_refused(tmp_path):
    with pytest.raises(UsageError, match="must not hold credentials") as caught:
        export_coreset(run_of(tmp_path, ["a.png"]), NAME, "csv", tmp_path / "out", url="https://host/x?token=hush")
    assert "hush" not in str(caught.value)


def members(path):
    """Name and bytes of each picture of a shard."""
    with tarfile.open(path) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if not one.name.endswith(".json")}


def encoded(kind, **options):
    """A small picture of a kind that Pillow writes, or None."""
    Image.init()
    for mode in ("RGB", "1"):
        file = io.BytesIO()
        try:
            Image.new(mode, (16, 16)).save(file, kind, **options)
        except (OSError, KeyError):
            continue
        return file.getvalue()
    return None


WRITTEN = {kind.name: data for kind in IMAGE_KINDS if (data := encoded(kind.name)) is not None}
ENDING = {kind.name: kind.endings[0] for kind in IMAGE_KINDS}
_ENTRIES = ((256, 3, 1), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1), (279, 4, 1))
BIG_ENDIAN = b"MM\0*" + struct.pack(">LB3xH", 12, 127, len(_ENTRIES)) + b"".join(
    struct.pack(">HHL", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">L", value))
    for tag, kind, value in _ENTRIES
) + bytes(4)  # fmt: skip
"""A TIFF of one pixel, as Pillow never writes it."""


def test_pillow_writes_most_kinds():
    assert len(WRITTEN) >= 15
    tiff = Image.open(io.BytesIO(BIG_ENDIAN))
    assert (tiff.format, tiff.size, tiff.getpixel((0, 0))) == ("TIFF", (1, 1), 127)


class TestKinds:
    """A picture of each kind, whose ids say nothing of it, or something else."""

    @pytest.fixture
    def kinds(self):
        return {**WRITTEN, "MM": BIG_ENDIAN, "unknown": encoded("IM")}

    @pytest.fixture
    def store(self, tmp_path, kinds):
        ids = [f"{number}.photo" for number in range(len(kinds))]
        return make_run(
            tmp_path, in_table=True, ids=ids, pictures=[*kinds.values(), picture(0)], ranked=range(len(ids))
        )

    @pytest.fixture
    def endings(self, kinds):
        return [{**ENDING, "MM": "tif", "unknown": "img"}[name] for name in kinds]

    def test_webdataset(self, store, kinds, endings, tmp_path):
        import webdataset

        path = export_coreset(store, NAME, "webdataset", tmp_path / "out") / "shard-000000.tar"
        names = [f"{rank:09d}.{ending}" for rank, ending in enumerate(endings)]
        assert members(path) == dict(zip(names, kinds.values(), strict=True))
        rows = list(webdataset.WebDataset(str(path), shardshuffle=False))
        assert [row[ending] for row, ending in zip(rows, endings, strict=True)] == list(kinds.values())

    def test_hugging_face(self, store, kinds, endings, tmp_path):
        table = pq.read_table(export_coreset(store, NAME, "huggingface", tmp_path / "out") / "train.parquet")
        rows = table["image"].to_pylist()
        assert [row["path"] for row in rows] == [f"{number}.photo.{ending}" for number, ending in enumerate(endings)]
        assert [row["bytes"] for row in rows] == list(kinds.values())

    @pytest.mark.parametrize("form", WITH_PLACES)
    def test_files(self, store, kinds, endings, tmp_path, form):
        found = places(form, export_coreset(store, NAME, form, tmp_path / "out"), None)
        assert [place.rpartition(".")[2] for place in found] == endings
        assert [Path(place).read_bytes() for place in found] == list(kinds.values())


@pytest.mark.parametrize(
    ("sample_id", "kind", "name"),
    [
        ("a.jpeg", "JPEG", "a.jpeg"),
        ("a.JPG", "JPEG", "a.JPG"),
        ("a.jpeg", "PNG", "a.jpeg.png"),
        ("a.tiff", "TIFF", "a.tiff"),
        ("a.tiff", "WEBP", "a.tiff.webp"),
        ("a.j2k", "JPEG2000", "a.j2k"),
        ("ajpg", "JPEG", "ajpg.jpg"),
        ("jpg", "JPEG", "jpg.jpg"),
        ("a/jpg", "JPEG", "a/jpg.jpg"),
    ],
)
def test_an_ending_is_kept_if_it_is_right(tmp_path, sample_id, kind, name):
    store = make_run(tmp_path, in_table=True, ids=[sample_id], pictures=[WRITTEN[kind], picture(0)], ranked=[0])
    export_coreset(store, NAME, "csv", tmp_path / "out")
    [record] = read_records(store)
    assert [one.name for one in record.samples] == [name]
