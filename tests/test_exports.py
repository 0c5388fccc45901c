"""Exports: each read back by the tool's own library, where there is one, or as its documents describe the form."""

import io
import json
import shutil
import tarfile
from xml.etree import ElementTree as ET

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools.coco import COCO

from elfs_ray import schema
from elfs_ray.errors import UsageError
from elfs_ray.exports import FORMATS, export_coreset, only_coreset
from elfs_ray.exports.labels import write_labels
from elfs_ray.store import Store

NAME = "elfs/3"
IDS = ["cats/a b.png", "dogs/ü&<1>.png", "c.png"]


def picture(number):
    file = io.BytesIO()
    Image.new("RGB", (10 + number, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def make_run(folder, *, in_table, ids=IDS):
    """A run folder with four samples and a coreset of three, as ingest and selection write them."""
    images, store = folder / "images", Store(str(folder / "run"))
    every = [*ids, "left out.png"]
    samples = []
    for index, sample_id in enumerate(every):
        path = images / sample_id
        if not in_table:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(index))
        uri = "table.parquet" if in_table else str(path)
        row = {
            "sample_id": sample_id,
            "index": index,
            "uri": uri,
            "width": 10 + index,
            "height": 8,
            "content_hash": "x",
        }
        samples.append({**row, "image": picture(index)} if in_table else row)
    table = pa.Table.from_pylist(samples)
    store.write_table(table, schema.samples(carries_bytes=in_table), "samples", "part-000000.parquet")
    ranked = [2, 0, 1]
    coreset = [
        {
            "sample_id": every[index], "index": index, "uri": samples[index]["uri"], "rank": rank, "score": 0.5 * rank,
            "pseudo_label": index, "labeled": False,
        }
        for rank, index in enumerate(ranked)
    ]  # fmt: skip
    store.write_table(pa.Table.from_pylist(coreset), schema.CORESET, f"coresets/{NAME}", "part-000000.parquet")
    stages = {f"coresets/{NAME}": {"fingerprint": "x"}}
    store.update_manifest(input=str(images), config={"num_classes": 3}, stages=stages)
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


def test_label_studio(export):
    folder = export("label-studio", pre_annotations=True)
    tasks = json.loads((folder / "tasks.json").read_text())
    assert sizes(task["data"]["image"] for task in tasks) == RANKED
    interface = ET.parse(folder / "labels.xml").getroot()
    [image], [choices] = interface.findall("Image"), interface.findall("Choices")
    offered = [choice.get("value") for choice in choices.findall("Choice")]
    for task in tasks:
        [result] = task["predictions"][0]["result"]
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
        assert image.get("value") == "$image"
        assert set(result["value"]["choices"]) <= set(offered)


def test_cvat(export):
    root = ET.parse(export("cvat", pre_annotations=True) / "annotations.xml").getroot()
    images = root.findall("image")
    assert [image.get("id") for image in images] == ["0", "1", "2"]
    assert [(int(image.get("width")), int(image.get("height"))) for image in images] == RANKED
    assert sizes(image.get("name") for image in images) == RANKED
    known = [label.findtext("name") for label in root.iter("label")]
    assert [image.find("tag").get("label") for image in images] == ["cluster 2", "cluster 0", "cluster 1"]
    assert known == ["cluster 0", "cluster 1", "cluster 2"]


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
    import datasets  # a second, which the others need not wait for

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
    stages = run.manifest()["stages"]
    run.update_manifest(stages={**stages, "coresets/random/3": {"fingerprint": "y"}})
    with pytest.raises(UsageError, match="holds the coresets elfs/3, random/3; choose one with --coreset"):
        only_coreset(run)


class TestAnnotationsComeBack:
    def back(self, run, tmp_path, content):
        path = tmp_path / "answers"
        path.write_text(content)
        write_labels(run, path, tmp_path / "labels.csv")
        return pd.read_csv(tmp_path / "labels.csv").set_index("sample_id")["label"].to_dict()

    def test_from_label_studio(self, run, export, tmp_path):
        tasks = json.loads((export("label-studio") / "tasks.json").read_text())
        for task, label in zip(tasks, ("cat", "dog", "eel"), strict=True):
            result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
            task["annotations"] = [{"result": [result]}, {"was_cancelled": True, "result": []}]
        assert self.back(run, tmp_path, json.dumps(tasks)) == {IDS[2]: "cat", IDS[0]: "dog", IDS[1]: "eel"}

    def test_from_cvat(self, run, export, tmp_path):
        root = ET.parse(export("cvat") / "annotations.xml")
        for image, label in zip(root.getroot().findall("image"), ("cat", "dog"), strict=False):
            ET.SubElement(image, "tag", label=label, source="manual")
        content = ET.tostring(root.getroot(), encoding="unicode")
        assert self.back(run, tmp_path, content) == {IDS[2]: "cat", IDS[0]: "dog"}

    def test_from_coco(self, run, export, tmp_path):
        content = (export("coco", pre_annotations=True) / "annotations.json").read_text()
        found = self.back(run, tmp_path, content.replace("cluster 2", "cat"))
        assert found == {IDS[2]: "cat", IDS[0]: "cluster 0", IDS[1]: "cluster 1"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "are of no known form"),
            ("{}", "are of no known form"),
            ("[]", "hold no label"),
            ("<annotations>", "are of no known form"),
            ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "it declares entities"),
            ('<annotations><image name="no.png"><tag label="x"/></image></annotations>', "name 'no.png', which is no"),
            (
                '<annotations><image name="c.png"><tag label="x"/><tag label="y"/></image></annotations>',
                "give 'c.png' two labels, 'x' and 'y'; keep one",
            ),
        ],
    )
    def test_what_cannot_be_taken(self, run, tmp_path, content, message):
        with pytest.raises(UsageError, match=message):
            self.back(run, tmp_path, content)
        assert not (tmp_path / "labels.csv").exists()


def test_every_format_is_tested():
    assert len(FORMATS) == 10
