"""Exports: each read back by the tool's own library, where one fits beside ours, or as its documents describe the form.

CVAT has no library that reads its XML but datumaro, which needs an older NumPy than ours from version 1 on; 0.5.0 read
both exports below, by hand. FiftyOne needs a MongoDB server: 1.13.5 with MongoDB 6.0 read `samples.json`, with and
without pseudo-labels, found the pictures and exported the same again, by hand.
"""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools.coco import COCO

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.writing import write_table
from elfs_ray.errors import UsageError
from elfs_ray.exports import FORMATS, export_coreset, only_coreset
from elfs_ray.exports.records import read_records
from elfs_ray.exports.rows import read_coreset
from image_files import encode
from made_records import add_records, record

NAME = "elfs/3"
IDS = ["cats/a b.png", "dogs/ü&<1>.png", "c.png"]


def picture(number):
    return encode(Image.new("RGB", (10 + number, 8), (number, 0, 0)))


def make_run(folder, *, in_table, ids=IDS, names=None, pictures=None, ranked=None):
    """A run folder with a coreset of all samples but the last, as ingest and selection write them.

    `names` are those of the files below `images`, where they are not the ids; `pictures` their content,
    `ranked` the order of the coreset.
    """
    images, store = folder / "images", RunFolder(str(folder / "run"))
    every, names = [*ids, "left out.png"], [*(names or ids), "left out.png"]
    pictures = pictures or [picture(index) for index in range(len(every))]
    samples = []
    for index, sample_id in enumerate(every):
        path = images / names[index]
        if not in_table:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pictures[index])
        uri = "table.parquet" if in_table else str(path)
        row = {
            "sample_id": sample_id,
            "index": index,
            "uri": uri,
            "width": 10 + index,
            "height": 8,
            "content_hash": "x",
        }
        samples.append({**row, "image": pictures[index]} if in_table else row)
    table = pa.Table.from_pylist(samples)
    write_table(store, "samples", table, schema.samples(carries_bytes=in_table))
    ranked = ranked or [2, 0, 1, *range(3, len(ids))]
    coreset = [
        {
            "sample_id": every[index], "index": index, "uri": samples[index]["uri"], "rank": rank, "score": 0.5 * rank,
            "pseudo_label": index, "labeled": False,
        }
        for rank, index in enumerate(ranked)
    ]  # fmt: skip
    write_table(store, f"coresets/{NAME}", pa.Table.from_pylist(coreset), schema.CORESET)
    store.update_manifest(input=str(images), config={"num_classes": 3})
    add_records(store, record(f"select/{NAME}"))
    return store


@pytest.fixture(params=["files", "table"])
def run(request, tmp_path):
    return make_run(tmp_path, in_table=request.param == "table")


@pytest.fixture
def export(run, tmp_path):
    def write(form, **options):
        return export_coreset(run, NAME, form, tmp_path / "out", **options)

    return write


def sizes(paths):
    return [Image.open(path).size for path in paths]


RANKED = [(12, 8), (10, 8), (11, 8)]


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_tables(export, form):
    path = export(form) / f"coreset.{form}"
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda path: pd.read_json(path, lines=True)}[form]
    rows = read(path)
    assert rows["sample_id"].tolist() == [IDS[2], IDS[0], IDS[1]]
    assert rows["rank"].tolist() == [0, 1, 2]
    assert rows["score"].tolist() == [0.0, 0.5, 1.0]
    assert rows["width"].tolist() == [12, 10, 11]
    assert sizes(rows["uri"]) == RANKED


@pytest.mark.parametrize("pre_annotations", [True, False])
def test_label_studio(export, pre_annotations):
    from label_studio_sdk.label_interface import LabelInterface  # a second, which the others need not wait for

    folder = export("label-studio", pre_annotations=pre_annotations)
    tasks = json.loads((folder / "tasks.json").read_text())
    assert sizes(task["data"]["image"] for task in tasks) == RANKED
    interface = LabelInterface((folder / "labels.xml").read_text())
    interface.validate()
    for task in tasks:
        predictions = task.pop("predictions", [])
        assert interface.validate_task(task)
        assert len(predictions) == pre_annotations
        assert all(interface.validate_prediction(one, return_errors=True) == [] for one in predictions)


def test_cvat(export, run):
    """Elements and attributes as CVAT documents them for images 1.1; names are paths below what is uploaded."""
    folder = export("cvat", pre_annotations=True)
    root = ET.parse(folder / "annotations.xml").getroot()
    assert (root.tag, root.findtext("version"), root.findtext("meta/task/size")) == ("annotations", "1.1", "3")
    images = root.findall("image")
    names = [image.get("name") for image in images]
    assert [image.get("id") for image in images] == ["0", "1", "2"]
    assert names == sorted(names)
    assert names[:2] == ["c.png", "cats/a b.png"]
    below = folder / "images" if (folder / "images").is_dir() else Path(run.manifest()["input"])
    assert sizes(below / name for name in names) == RANKED
    assert [(int(image.get("width")), int(image.get("height"))) for image in images] == RANKED
    assert sizes((folder / "images.txt").read_text(encoding="utf-8").splitlines()) == RANKED
    labels = root.findall("meta/task/labels/label")
    assert [label.findtext("name") for label in labels] == ["cluster 0", "cluster 1", "cluster 2"]
    assert {label.findtext("type") for label in labels} == {"tag"}
    assert [image.find("tag").get("label") for image in images] == ["cluster 2", "cluster 0", "cluster 1"]


def test_coco(export):
    coco = COCO(str(export("coco", pre_annotations=True) / "annotations.json"))
    images = coco.loadImgs(coco.getImgIds())
    assert sizes(image["file_name"] for image in images) == RANKED
    [found] = coco.loadAnns(coco.getAnnIds(imgIds=[images[0]["id"]]))
    assert coco.loadCats([found["category_id"]])[0]["name"] == "cluster 2"
    assert found["bbox"] == [0, 0, 12, 8]


def test_fiftyone(export):
    folder = export("fiftyone", pre_annotations=True)
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert sizes(sample["filepath"] for sample in samples) == RANKED
    assert samples[0]["pseudo_label"] == {"_cls": "Classification", "label": "cluster 2"}


def test_hugging_face(export):
    import datasets  # as above

    rows = datasets.load_dataset("parquet", data_files=str(export("huggingface") / "train.parquet"), split="train")
    assert [image.size for image in rows["image"]] == RANKED
    assert rows["sample_id"][:] == [IDS[2], IDS[0], IDS[1]]


def test_webdataset(export):
    import webdataset

    pattern = str(export("webdataset") / "shard-000000.tar")
    rows = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("pil"))
    assert [row["png"].size for row in rows] == RANKED
    assert [row["json"]["sample_id"] for row in rows] == [IDS[2], IDS[0], IDS[1]]


def test_shards_are_cut(run, tmp_path, monkeypatch):
    monkeypatch.setattr("elfs_ray.exports.folders.SHARD_BYTES", 1)
    folder = export_coreset(run, NAME, "webdataset", tmp_path / "out")
    names = []
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as archive:
            names.append(archive.getnames())
    assert names == [[f"{rank:09d}.png", f"{rank:09d}.json"] for rank in range(3)]


def test_symlinks(export):
    paths = sorted(export("symlinks").iterdir())
    assert sizes(paths) == RANKED
    assert [path.name[:7] for path in paths] == ["000000-", "000001-", "000002-"]


@pytest.mark.parametrize("form", ["csv", "label-studio", "cvat", "coco", "fiftyone"])
def test_images_may_be_reached_elsewhere(tmp_path, form):
    store = make_run(tmp_path, in_table=False)
    folder = export_coreset(store, NAME, form, tmp_path / "out", url="https://host/x/")
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "https://host/x/cats/a%20b.png" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("location", ["s3://photos/my images", "s3://photos/my%20images?region=eu-west-1"])
def test_names_below_a_folder_in_a_store(tmp_path, location):
    coreset = read_coreset(make_run(tmp_path, in_table=False), NAME, pre_annotations=False, url="/x/")
    sample = replace(coreset.samples[0], uri="s3://photos/my%20images/cats/a%20b%3F.png")
    coreset = replace(coreset, location=location, samples=[sample])
    assert [name for _, name in coreset.names(tmp_path)] == ["cats/a b?.png"]
    assert [coreset.place(*named) for named in coreset.names(tmp_path)] == ["/x/cats/a%20b%3F.png"]


def test_names_of_files_that_a_table_names(tmp_path):
    coreset = read_coreset(make_run(tmp_path, in_table=False), NAME, pre_annotations=False, url=None)
    coreset = replace(coreset, location=str(tmp_path / "images" / "table.parquet"))
    assert [name for _, name in coreset.names(tmp_path)] == [IDS[2], IDS[0], IDS[1]]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "ids",
    [
        ["1", "1.png", "1.png/2.png"],  # the same file, and a file that is a folder
        ["日本" * 60 + ".png", "x" * 255, "a/" * 40 + "b.png"],
    ],
)
def test_ids_that_make_no_file_names(tmp_path, form, ids):
    store = make_run(tmp_path, in_table=True, ids=ids)
    folder = export_coreset(store, NAME, form, tmp_path / "out")
    if form == "cvat":
        root = ET.parse(folder / "annotations.xml").getroot()
        places = {image.get("name"): [int(image.get("width")), 8] for image in root.findall("image")}
        assert {name: list(Image.open(folder / "images" / name).size) for name in places} == places
        [record] = read_records(store)
        exported = {one.name: one.sample_id for one in record.samples}
        found = {exported[name]: width - 10 for name, [width, _] in places.items()}
        assert found == dict(zip(ids, range(3), strict=True))
    if form == "symlinks":
        assert sorted(sizes(folder.iterdir())) == sorted(RANKED)


def test_a_name_that_xml_cannot_hold(tmp_path):
    store = make_run(tmp_path, in_table=False, ids=["a", "b\x07", "c"])
    with pytest.raises(UsageError, match=r"XML cannot hold all characters of 'b\\x07'; rename the image, or use"):
        export_coreset(store, NAME, "cvat", tmp_path / "out")


def test_names_stay_below_the_folder(tmp_path):
    ids = ["../../evil.png", "/etc/evil", "..", "a/../../b"]
    store = make_run(tmp_path, in_table=True, ids=ids[:3])
    folder = export_coreset(store, NAME, "csv", tmp_path / "deep" / "out")
    written = [path for path in tmp_path.rglob("*evil*") if path.is_file()]
    assert len(written) == 2
    assert all(path.is_relative_to(folder) for path in written)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "xls"}, "unknown export format 'xls'; known: csv, parquet"),
        ({"name": "zcore/3"}, "holds no coreset 'zcore/3'; it holds elfs/3"),
        ({"out": "full"}, "full is there already and is no empty folder; choose another --out"),
    ],
)
def test_wrong_use(run, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").touch()
    chosen = {"name": NAME, "form": "csv", "out": "out", **arguments}
    with pytest.raises(UsageError, match=message):
        export_coreset(run, chosen["name"], chosen["form"], tmp_path / chosen["out"])
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_gone(tmp_path):
    store = make_run(tmp_path, in_table=False)
    shutil.rmtree(tmp_path / "images" / "cats")
    with pytest.raises(UsageError, match=r"image 'cats/a b.png' cannot be read any more .* restore it, then export"):
        export_coreset(store, NAME, "webdataset", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_only_coreset(run):
    assert only_coreset(run) == NAME
    add_records(run, record("select/random/3"))
    with pytest.raises(UsageError, match="holds the coresets elfs/3, random/3; choose one with --coreset"):
        only_coreset(run)


def test_a_stale_coreset_is_refused(run, tmp_path):
    add_records(run, record(f"select/{NAME}", rests_on={"embed": "before"}), record("embed"))
    with pytest.raises(
        UsageError, match=rf"coreset '{NAME}' of .* is stale \(embed has changed\); run the same command"
    ):
        export_coreset(run, NAME, "csv", tmp_path / "out")
    with pytest.raises(UsageError, match="holds no coreset"):
        only_coreset(run)


def test_every_format_is_tested():
    assert len(FORMATS) == 10
