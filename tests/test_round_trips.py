"""Every format, out and back: exported, annotated as its tool does, imported; each label is on its own picture.

The annotators here know nothing but what was exported: they open each picture where the export says it is and write
down what they see, its width, which is another for each picture. So a label on the wrong picture, or a path that opens
another file, shows.
"""

import csv
import io
import json
import shutil
import tarfile
import unicodedata
import uuid
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elfs_ray.data.files import existing
from elfs_ray.data.text_tables import read_text_table
from elfs_ray.errors import UsageError
from elfs_ray.exports import FORMATS, export_coreset
from elfs_ray.exports.labels import write_labels
from elfs_ray.exports.records import read_records
from given_labels import read_labels
from made_records import add_records, record
from test_exports import NAME, make_run

# Ids and, where they are not the ids, names of the files.
PATHS = ["cats/a b.png", "dogs/a b.png", "c.png", "cats/deep/er/d.png", "z.PNG"]
KINDS = {
    "paths": (PATHS, None),
    "equal base names": (["a/1.png", "b/1.png", "b/a/1.png", "1.png", "2.png"], None),
    "numbers that are other files' names": (["2", "3", "1", "0"], ["1.png", "2.png", "3.png", "4.png"]),
    "leading zeros": (["7", "007", "07", "70"], ["d/7.png", "d/007.png", "d/07.png", "d/70.png"]),
    "UUIDs": ([str(uuid.UUID(int=n << 80 | n)) for n in range(1, 5)], ["w/1.png", "w/2.png", "x/1.png", "x/3.png"]),
    "Unicode, composed and not": (["\u00e9.png", "e\u0301.png", "日本/ü.png", "日本/u\u0308.png", "🐱.png"], None),
    "strange names": (["a#b.png", "a%23b.png", "c?d=e.png", "100%.png", "f&g;h+i.png", "\"q\" 'r'.png", ",.png"], None),
    "strange ids": (
        ['a,"b"', "two\nlines", "photos.parquet#0", "photos.parquet#1", " spaces ", "tab\tbed", "../up", "null"],
        [f"{n}.png" for n in range(8)],
    ),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=["files", "table"])
def run(request, tmp_path, kind):
    ids, names = kind
    return make_run(tmp_path, in_table=request.param == "table", ids=ids, names=names)


def seen(picture):
    """What an annotator writes who looks at a picture, by path or bytes."""
    return f"pic-{Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture).width - 10}"


def done(folder, name, content):
    path = folder.parent / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


def annotate_csv(folder):
    with open(folder / "coreset.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    written = io.StringIO()
    writer = csv.DictWriter(written, [*rows[0], "label"])
    writer.writeheader()
    writer.writerows({**row, "label": seen(row["uri"])} for row in rows)
    return done(folder, "done.csv", written.getvalue())


def annotate_tsv(folder):
    """A spreadsheet keeps what it shows, and names columns as it likes but the first."""
    frame = pd.read_csv(folder / "coreset.csv", dtype=str, keep_default_na=False)
    frame["class of it"] = frame["uri"].map(seen)
    frame[["sample_id", "class of it"]].to_csv(folder.parent / "done.tsv", sep="\t", index=False)
    return folder.parent / "done.tsv"


def annotate_parquet(folder):
    frame = pd.read_parquet(folder / "coreset.parquet")
    frame["label"] = frame["uri"].map(seen)
    frame.to_parquet(folder.parent / "done.parquet")
    return folder.parent / "done.parquet"


def annotate_jsonl(folder):
    rows = [json.loads(line) for line in (folder / "coreset.jsonl").read_text().splitlines()]
    return done(folder, "done.jsonl", "".join(json.dumps({**row, "label": seen(row["uri"])}) + "\n" for row in rows))


def label_studio_tasks(folder):
    """As Label Studio exports: the data of each task, its own numbers, and who answered what."""
    tasks = []
    for number, task in enumerate(json.loads((folder / "tasks.json").read_text()), start=1):
        choice = {"choices": [seen(task["data"]["image"])]}
        result = {"id": f"r{number}", "from_name": "label", "to_name": "image", "type": "choices", "value": choice}
        annotation = {"id": 10 + number, "completed_by": 1, "result": [result], "was_cancelled": False}
        tasks.append({"id": 100 + number, "data": task["data"], "meta": task["meta"], "annotations": [annotation]})
    return tasks


def annotate_label_studio(folder):
    return done(folder, "done.json", json.dumps(label_studio_tasks(folder)))


def annotate_cvat(folder):
    """CVAT gives the images of a folder their names below it, and shows the images that were uploaded."""
    uploaded = (folder / "images.txt").read_text(encoding="utf-8").splitlines()
    root = ET.parse(folder / "annotations.xml").getroot()
    images = sorted(root.findall("image"), key=lambda image: image.get("name"), reverse=True)
    for number, image in enumerate(images):  # frames of its own
        image.set("id", str(number))
        [path] = [one for one in uploaded if one.endswith(f"/{image.get('name')}") and below(one, image.get("name"))]
        ET.SubElement(image, "tag", label=seen(path), source="manual")
    return done(folder, "done.xml", ET.tostring(root, encoding="unicode"))


def below(path, name):
    """Whether a name is the whole path below the folder that is uploaded, which is called images here."""
    return Path(path.removesuffix(f"/{name}")).name == "images"


def annotate_coco(folder):
    """A tool that keeps all, with numbers of its own; pycocotools reads what it wrote."""
    from pycocotools.coco import COCO

    content = json.loads((folder / "annotations.json").read_text())
    for image in content["images"]:
        image["id"] = 1000 - image["id"]
        label = seen(image["file_name"])
        category = 1 + len(content["categories"])
        content["categories"].append({"id": category, "name": label})
        box = {"bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
        content["annotations"].append({"id": category, "image_id": image["id"], "category_id": category, **box})
    path = done(folder, "done.json", json.dumps(content))
    assert len(COCO(str(path)).getAnnIds()) == len(content["images"])
    return path


def annotate_coco_plainly(folder):
    """A tool that keeps of an image what COCO has."""
    path = annotate_coco(folder)
    content = json.loads(path.read_text())
    content["images"] = [
        {name: image[name] for name in ("id", "file_name", "width", "height")} for image in content["images"]
    ]
    return done(folder, "done.json", json.dumps(content))


def annotate_fiftyone(folder):
    content = json.loads((folder / "samples.json").read_text())
    for sample in content["samples"]:
        sample["ground_truth"] = {"_cls": "Classification", "label": seen(sample["filepath"])}
    return done(folder, "samples.json", json.dumps(content))


def annotate_fiftyone_with_media(folder):
    """FiftyOne's own export moves the pictures to data/ and numbers those of one name; other fields stay."""
    path = annotate_fiftyone(folder)
    content = json.loads(path.read_text())
    for number, sample in enumerate(content["samples"]):
        sample["filepath"] = f"data/{number}.png"
    return done(folder, "samples.json", json.dumps(content))


def annotate_hugging_face(folder):
    import datasets

    rows = datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train", cache_dir=folder)
    labels = [f"pic-{image.width - 10}" for image in rows["image"]]
    rows.add_column("label", labels).to_parquet(str(folder.parent / "done.parquet"))
    return folder.parent / "done.parquet"


def annotate_webdataset(folder):
    import webdataset

    rows = webdataset.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False)
    found = [{"sample_id": json.loads(row["json"])["sample_id"], "label": seen(row["png"])} for row in rows]
    return done(folder, "done.jsonl", "\n".join(map(json.dumps, found)))


def annotate_symlinks(folder):
    """Sorted by hand into a folder for each class."""
    for path in sorted(folder.iterdir()):
        label = folder.parent / "sorted" / seen(path)
        label.mkdir(parents=True)
        path.rename(label / path.name)
    return folder.parent / "sorted"


ANNOTATORS = [
    ("csv", annotate_csv, {}), ("csv", annotate_tsv, {"question": "class of it"}), ("parquet", annotate_parquet, {}),
    ("jsonl", annotate_jsonl, {}), ("label-studio", annotate_label_studio, {}), ("cvat", annotate_cvat, {}),
    ("coco", annotate_coco, {}), ("coco", annotate_coco_plainly, {}), ("fiftyone", annotate_fiftyone, {}),
    ("fiftyone", annotate_fiftyone_with_media, {}), ("huggingface", annotate_hugging_face, {}),
    ("webdataset", annotate_webdataset, {}), ("symlinks", annotate_symlinks, {}),
]  # fmt: skip


def import_back(run, path, tmp_path, ids, **options):
    matched = write_labels(run, path, tmp_path / "labels.csv", **options)
    numbers, classes = read_labels(str(tmp_path / "labels.csv"), ids, source="")
    return matched, {one: classes[number] for one, number in zip(ids, numbers, strict=True) if number >= 0}


@pytest.mark.parametrize(
    ("form", "annotate", "options"),
    ANNOTATORS,
    ids=[annotate.__name__.removeprefix("annotate_") for _, annotate, _ in ANNOTATORS],
)
def test_every_label_is_on_its_own_picture(run, kind, tmp_path, form, annotate, options):
    ids, _ = kind
    folder = export_coreset(run, NAME, form, tmp_path / "out")
    matched, labels = import_back(run, annotate(folder), tmp_path, ids, **options)
    assert labels == {sample_id: f"pic-{index}" for index, sample_id in enumerate(ids)}
    assert matched.is_complete
    assert matched.summary("x") == f"{len(ids)} labels in x"


def test_every_format_is_brought_back():
    assert {form for form, _, _ in ANNOTATORS} == set(FORMATS)


@pytest.mark.parametrize("table", ["JSON_MIN"])
def test_label_studios_own_tables(tmp_path, table):
    """What its converter makes of the annotated tasks, two annotators included."""
    from label_studio_sdk.converter import Converter

    ids, names = KINDS["numbers that are other files' names"]
    run = make_run(tmp_path, in_table=False, ids=ids, names=names)
    folder = export_coreset(run, NAME, "label-studio", tmp_path / "out")
    tasks = label_studio_tasks(folder)
    tasks[0]["annotations"] *= 2
    tasks[0]["annotations"].append(json.loads(json.dumps(tasks[1]["annotations"][0])))
    tasks[2]["annotations"][0]["result"][0]["value"]["choices"].append("another")
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter((folder / "labels.xml").read_text(), str(tmp_path))
    converter.convert_to_json_min(str(tmp_path / "tasks.json"), str(tmp_path / "min"), is_dir=False)
    [path] = (tmp_path / "min").iterdir()
    matched, labels = import_back(run, path, tmp_path, ids)
    several = tasks[2]["data"]["sample_id"]
    assert labels == {one: f"pic-{index}" for index, one in enumerate(ids) if one != several}
    assert matched.without == {several: "several labels"}
    assert matched.by_majority == 1


def test_ids_that_pandas_made_numbers(tmp_path):
    """007 came back as 7, which is another sample's id: the picture says so, and the file is refused."""
    ids, names = KINDS["leading zeros"]
    run = make_run(tmp_path, in_table=False, ids=ids, names=names)
    folder = export_coreset(run, NAME, "csv", tmp_path / "out")
    frame = pd.read_csv(folder / "coreset.csv")
    frame["label"] = "x"
    frame.to_csv(tmp_path / "done.csv", index=False)
    with pytest.raises(UsageError, match=r"d/0+7.png' the sample_id '7'; it was exported with '0+7'; put the right"):
        write_labels(run, tmp_path / "done.csv", tmp_path / "labels.csv")
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize("in_table", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_the_record_is_what_was_written(tmp_path, form, in_table):
    """Every name, place and number stands in the export's own files; the key travels where there is room for it."""
    run = make_run(tmp_path, in_table=in_table, ids=PATHS)
    folder = export_coreset(run, NAME, form, tmp_path / "out")
    [record] = read_records(run)
    assert (record.form, record.coreset, record.out) == (form, NAME, str(tmp_path / "out"))
    assert record.question == ("label" if form == "label-studio" else None)
    assert sorted(one.sample_id for one in record.samples) == sorted(PATHS)
    assert {one.sample_id: one.index for one in record.samples} == {one: n for n, one in enumerate(PATHS)}
    if form not in ("huggingface", "webdataset"):
        assert {one.index: Image.open(one.place).width - 10 for one in record.samples} == {n: n for n in range(5)}
    names = {"label-studio": "tasks.json", "coco": "annotations.json", "fiftyone": "samples.json"}
    if form in names:
        text = (folder / names[form]).read_text()
        assert text.count(f'"elfs_ray_export": "{record.key}"') == len(PATHS)
    if form == "cvat":
        images = ET.parse(folder / "annotations.xml").getroot().findall("image")
        assert {(int(image.get("id")), image.get("name")) for image in images} == {
            (one.id, one.name) for one in record.samples
        }
    if form == "coco":
        images = json.loads((folder / "annotations.json").read_text())["images"]
        assert [(image["id"], image["file_name"]) for image in images] == [
            (one.id, one.place) for one in record.samples
        ]
    if form == "webdataset":
        with tarfile.open(folder / "shard-000000.tar") as archive:
            assert {one.name for one in record.samples} == {name for name in archive.getnames() if "json" not in name}
    if form == "symlinks":
        assert {one.name for one in record.samples} == {path.name for path in folder.iterdir()}


def test_a_record_is_read_by_pandas_alone(tmp_path):
    run = make_run(tmp_path, in_table=False, ids=PATHS)
    export_coreset(run, NAME, "cvat", tmp_path / "out")
    [path] = (tmp_path / "run" / "exports").iterdir()
    frame = pd.read_parquet(path)
    assert list(frame) == ["sample_id", "index", "name", "place", "file_name", "id"]
    assert sorted(frame["file_name"]) == ["a b.png", "a b.png", "c.png", "d.png", "z.PNG"]
    assert frame["id"].tolist() == [0, 1, 2, 3, 4]


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@given(st.dictionaries(WORDS, WORDS.filter(str.strip), min_size=1, max_size=5))
def test_a_written_csv_reads_back_as_it_was(tmp_path_factory, answers):
    """Ids and labels of any characters: through a Label Studio file to the CSV file and into the next run."""
    folder = tmp_path_factory.mktemp("any")
    ids = list(answers)
    run = make_run(folder, in_table=False, ids=ids, names=[f"{n}.png" for n in range(len(ids))], ranked=range(len(ids)))
    export_coreset(run, NAME, "jsonl", folder / "out")
    rows = [{"sample_id": one, "label": label} for one, label in answers.items()]
    (folder / "done.jsonl").write_text("\n".join(map(json.dumps, rows)))
    matched = write_labels(run, folder / "done.jsonl", folder / "labels.csv")
    assert matched.labels == {one: unicodedata.normalize("NFC", label) for one, label in answers.items()}
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("sample_id", "label"), *matched.labels.items()]
    table = read_text_table("labels.csv", *existing(str(folder / "labels.csv")))
    assert dict(zip(*table.to_pydict().values(), strict=True)) == matched.labels
    shutil.rmtree(folder)


def test_the_command_line(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path, in_table=False, ids=[f"{n}.png" for n in range(1, 10)])
    run.update_manifest(records={}, name="run")
    add_records(run, record("select/elfs/3"))
    code, out, err = call("export", "run", "--to=label-studio", "--out=out")
    assert (code, err) == (0, "")
    tasks = label_studio_tasks(tmp_path / "out")
    for task in tasks[:7]:
        task["annotations"][0]["was_cancelled"] = True
    tasks.append({"data": {"image": "other/1.jpg"}, "annotations": []})
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    code, out, err = call("import-labels", "run", "done.json", "--out=done.csv", "--strict")
    told = (
        "7 of 9 images have none (skipped: '3.png', '1.png', '2.png', '4.png', '5.png' and 2 more); "
        "1 unknown image passed over: 'other/1.jpg'"
    )
    expected = f"elfs-ray: 2 labels in annotations done.json; {told}; --strict takes nothing less than all\n"
    assert (code, out, err) == (2, "", expected)
    assert not (tmp_path / "done.csv").exists()
    code, out, err = call("import-labels", "run", "done.json", "--out=done.csv")
    assert (code, err) == (0, "")
    assert out == f"2 labels in done.csv; {told}; go on with `--labeled done.csv`\n"
    assert (tmp_path / "done.csv").read_text() == "sample_id,label\n8.png,pic-7\n9.png,pic-8\n"
