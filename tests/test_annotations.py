"""Annotations come back: exported, annotated in the tool's own form, imported, and taken by `--labeled`."""

import json
from xml.etree import ElementTree as ET

import pytest

from elfs_ray.data.labels import read_labels
from elfs_ray.errors import UsageError
from elfs_ray.exports import export_coreset
from elfs_ray.exports.labels import PictureNames, write_labels
from test_exports import NAME, make_run

IDS = ["cats/a b.png", "dogs/ü&<1>\"'.png", "dogs/a b.png"]
ANSWERS = dict(zip(IDS, ("cat & kitten", "d\"o'g", "日本"), strict=True))


@pytest.fixture(params=["files", "table"])
def run(request, tmp_path):
    return make_run(tmp_path, in_table=request.param == "table", ids=IDS)


@pytest.fixture
def bring_back(run, tmp_path):
    """Import the content of a file; returns label by sample id, as the next run reads them."""

    def read(content):
        (tmp_path / "answers").write_text(content, encoding="utf-8")
        count = write_labels(run, tmp_path / "answers", tmp_path / "labels.csv")
        numbers, classes = read_labels(str(tmp_path / "labels.csv"), IDS, source="")
        found = {sample_id: classes[number] for sample_id, number in zip(IDS, numbers, strict=True) if number >= 0}
        assert len(found) == count
        return found

    return read


def annotation(label, **more):
    choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": [choice], **more}


class TestLabelStudio:
    @pytest.fixture
    def tasks(self, run, tmp_path):
        folder = export_coreset(run, NAME, "label-studio", tmp_path / "out", pre_annotations=True)
        return json.loads((folder / "tasks.json").read_text())

    def test_annotated_skipped_and_empty(self, tasks, bring_back):
        for task in tasks:
            task["annotations"] = [
                annotation(ANSWERS[task["data"]["sample_id"]]),
                annotation("skipped", was_cancelled=True),
                annotation("", result=[]),
            ]
        tasks[1]["annotations"][0]["result"][0]["value"]["choices"] = []
        left = tasks[1]["data"]["sample_id"]
        expected = {sample_id: label for sample_id, label in ANSWERS.items() if sample_id != left}
        assert bring_back(json.dumps(tasks)) == expected

    def test_images_that_were_uploaded(self, tasks, bring_back):
        """Label Studio keeps no folder of what is uploaded, and changes the names."""
        names = {IDS[0]: "a_b.png", IDS[1]: "ü1.png", IDS[2]: "a_b.png"}
        for number, task in enumerate(tasks):
            sample_id = task["data"]["sample_id"]
            task["data"] = {"image": f"/data/upload/3/1a2b3c4{number}-{names[sample_id]}"}
            task["annotations"] = [annotation(ANSWERS[sample_id])]
        known = [task for task in tasks if "ü1" in task["data"]["image"]]
        assert bring_back(json.dumps(known)) == {IDS[1]: ANSWERS[IDS[1]]}
        with pytest.raises(UsageError, match=r"a_b.png', which may be 'cats/a b.png' or 'dogs/a b.png'; give"):
            bring_back(json.dumps(tasks))

    def test_annotators_who_disagree(self, tasks, bring_back):
        for task in tasks:
            task["annotations"] = [annotation("cat"), annotation("cat"), annotation("dog")]
        with pytest.raises(UsageError, match=r"two labels to 3 of 3 images, the first .*: 'cat' and 'dog'; keep one"):
            bring_back(json.dumps(tasks))
        for task in tasks:
            task["annotations"][2]["ground_truth"] = True
        assert bring_back(json.dumps(tasks)) == dict.fromkeys(IDS, "dog")

    def test_other_questions_are_passed_over(self, tasks, bring_back):
        blurred = {**annotation("blurred")["result"][0], "from_name": "quality"}
        text = {"from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": ["x"]}}
        tasks[0]["annotations"] = [annotation("cat")]
        tasks[0]["annotations"][0]["result"] += [blurred, text]
        assert list(bring_back(json.dumps(tasks)).values()) == ["cat"]

    def test_several_choices_are_no_label(self, tasks, bring_back):
        tasks[0]["annotations"] = [annotation("cat")]
        tasks[0]["annotations"][0]["result"][0]["value"]["choices"].append("dog")
        with pytest.raises(UsageError, match="'cat' and 'dog'; keep one"):
            bring_back(json.dumps(tasks))


@pytest.mark.parametrize("server_folder", ["", "share/photos/"])
def test_cvat(run, bring_back, tmp_path, server_folder):
    """CVAT gives names back as it has them: below what was uploaded, or below a folder of its share."""
    tree = ET.parse(export_coreset(run, NAME, "cvat", tmp_path / "out") / "annotations.xml")
    unfinished = IDS[2]
    names = PictureNames(dict(zip(IDS, range(3), strict=True)))
    for image in tree.getroot().findall("image"):
        sample_id = names.find(image.get("name"))
        image.set("name", server_folder + image.get("name"))
        image.set("subset", "default")
        if sample_id != unfinished:
            tag = ET.SubElement(image, "tag", label=ANSWERS[sample_id], source="manual")
            ET.SubElement(tag, "attribute", name="sure").text = "yes"
    content = '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(tree.getroot(), encoding="unicode")
    assert bring_back("\ufeff" + content) == {one: ANSWERS[one] for one in IDS if one != unfinished}


def test_coco(run, bring_back, tmp_path):
    """A tool keeps the file's name and drops what it does not know."""
    folder = export_coreset(run, NAME, "coco", tmp_path / "out", pre_annotations=True)
    content = json.loads((folder / "annotations.json").read_text())
    ids = {image["id"]: image.pop("sample_id") for image in content["images"]}
    content["categories"] = [{"id": number, "name": ANSWERS[sample_id]} for number, sample_id in ids.items()]
    for number, found in enumerate(content["annotations"], start=1):
        found["category_id"] = number
    assert bring_back(json.dumps(content)) == ANSWERS


INDICES = {"cats/a b.png": 0, "c.png": 1, "007": 2, "x/e?f.png": 3, "100%41.png": 4, "dogs/a b.png": 5, "y/1/z.png": 6}


@pytest.mark.parametrize(
    ("name", "sample_id"),
    [
        ("cats/a b.png", "cats/a b.png"),
        ("/srv/photos/cats/a b.png", "cats/a b.png"),
        ("https://host/x/cats/a%20b.png?X-Amz-Signature=a/c.png", "cats/a b.png"),
        ("s3://bucket/x/e%3Ff.png", "x/e?f.png"),
        ("/photos/x/e?f.png", "x/e?f.png"),
        ("/photos/100%41.png", "100%41.png"),
        ("https://host/100%2541.png", "100%41.png"),
        ("/data/local-files/?d=photos/cats/a%20b.png", "cats/a b.png"),
        ("/data/local-files/?d=c.png", "c.png"),
        ("/data/upload/12/0a1b2c3d-c.png", "c.png"),
        ("out/images/007.jpg", "007"),
        ("images/index-3.png", "x/e?f.png"),
        ("1/z.png", "y/1/z.png"),
        ("2/z.png", None),
        ("other.png", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_tools_call_a_picture(name, sample_id):
    assert PictureNames(INDICES).find(name) == sample_id


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "are of no known form"),
        ("{}", "are of no known form"),
        ("[" * 100_000, "are of no known form"),
        ("[]", "hold no label"),
        ('[{"image": "a", "label": "b"}]', r"are of no known form \(KeyError: 'data'\); pass a Label Studio export"),
        ('[{"data": {"image": "c.png"}, "annotations": [3]}]', "are of no known form"),
        (json.dumps([{"data": {"sample_id": IDS[0]}, "annotations": [annotation(None)]}]), "None is no name"),
        (json.dumps([{"data": {"sample_id": IDS[0]}, "annotations": [annotation("\ud800")]}]), "are of no known form"),
        ("<annotations>", "are of no known form"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "it declares entities"),
        ('<annotations><tag label="x"/></annotations>', "are of no known form"),
        ('<annotations><image name="no.png"><tag label="x"/></image></annotations>', "name 'no.png', which is no"),
        (
            '<annotations><image name="cats/a b.png"><tag label="x"/><tag label="y"/></image></annotations>',
            "two labels to 1 of 1 images, the first 'cats/a b.png': 'x' and 'y'; keep one",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(tmp_path, content, message):
    store = make_run(tmp_path, in_table=False, ids=IDS)
    (tmp_path / "answers").write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        write_labels(store, tmp_path / "answers", tmp_path / "labels.csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "labels.csv").exists()
