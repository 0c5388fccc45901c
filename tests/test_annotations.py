"""Annotations come back: exported, annotated in the tool's own form, imported, and taken by `--labeled`.

What becomes of unusual files stands here; test_round_trips.py brings every format back whole, with every kind of id.
"""

import json
import shutil
from xml.etree import ElementTree as ET

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.errors import UsageError
from elfs_ray.exports import export_coreset
from elfs_ray.exports.labels import write_labels
from elfs_ray.exports.records import read_records
from given_labels import read_labels
from made_records import add_records, record
from test_exports import NAME, make_run

IDS = ["cats/a b.png", "dogs/ü&<1>\"'.png", "dogs/a b.png"]
ANSWERS = dict(zip(IDS, ("cat & kitten", "d\"o'g", "日本"), strict=True))


@pytest.fixture(params=["files", "table"])
def run(request, tmp_path):
    return make_run(tmp_path, in_table=request.param == "table", ids=IDS)


@pytest.fixture
def importing(run, tmp_path):
    """Import the content of a file; returns label by sample id, as the next run reads them, and what was matched."""

    def read(content, ending="", **options):
        path = tmp_path / f"answers{ending}"
        path.write_text(content, encoding="utf-8")
        matched = write_labels(run, path, tmp_path / "labels.csv", **options)
        numbers, classes = read_labels(str(tmp_path / "labels.csv"), IDS, source="")
        labels = {sample_id: classes[number] for sample_id, number in zip(IDS, numbers, strict=True) if number >= 0}
        assert labels == matched.labels
        return labels, matched

    return read


@pytest.fixture
def bring_back(importing):
    return lambda content, *arguments, **options: importing(content, *arguments, **options)[0]


@pytest.fixture
def refused(importing, tmp_path):
    """The one line with which the import of some content is refused; nothing is written."""

    def read(content, *arguments, **options):
        with pytest.raises(UsageError) as caught:
            importing(content, *arguments, **options)
        assert not (tmp_path / "labels.csv").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return read


def annotation(label, question="label", **more):
    choice = {"from_name": question, "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": [choice], **more}


def tasks_of(run, folder, name=NAME, **options):
    """What Label Studio imports."""
    return json.loads((export_coreset(run, name, "label-studio", folder, **options) / "tasks.json").read_text())


def answered(tasks, label=None):
    """Tasks with one answer each: a label, or that of `ANSWERS`."""
    for task in tasks:
        task["annotations"] = [annotation(label or ANSWERS[task["data"]["sample_id"]])]
    return tasks


class TestLabelStudio:
    @pytest.fixture
    def tasks(self, run, tmp_path):
        tasks = tasks_of(run, tmp_path / "out", pre_annotations=True)
        return sorted(tasks, key=lambda task: IDS.index(task["data"]["sample_id"]))

    def test_annotated_skipped_and_empty(self, tasks, importing):
        for task in tasks:
            task["annotations"] = [
                annotation(ANSWERS[task["data"]["sample_id"]]),
                annotation("skipped", was_cancelled=True),
                annotation("", result=[]),
            ]
        tasks[1]["annotations"][0]["result"][0]["value"]["choices"] = []
        labels, matched = importing(json.dumps(tasks))
        assert labels == {one: ANSWERS[one] for one in (IDS[0], IDS[2])}
        assert matched.without == {IDS[1]: "skipped"}
        assert matched.answers == {"label": 2, "skipped": 3, "not answered": 4}

    def test_images_that_were_uploaded_are_known_by_the_export(self, tasks, importing):
        """Label Studio keeps no folder of what is uploaded, and changes the names; the export's key still tells."""
        for number, task in enumerate(answered(tasks)):
            task["data"]["image"] = f"/data/upload/3/1a2b3c4{number}-a_b.png"
        assert importing(json.dumps(tasks))[0] == ANSWERS

    def test_a_name_that_ends_like_ours_is_another_image(self, tasks, refused):
        for task in answered(tasks):
            task["data"] = {"image": f"/data/upload/3/1a2b3c4d-{task['data']['sample_id'].rpartition('/')[2]}"}
        line = refused(json.dumps(tasks))
        assert "name no image that was exported: they name '/data/upload/3/1a2b3c4d-a b.png', the label-studio" in line

    def test_a_foreign_project_with_our_ids(self, tasks, importing):
        """Its sample ids are ours, its pictures are not, and it knows no key of our export."""
        foreign = [{"data": {"image": f"s3://theirs/{n}.png", "sample_id": one}, "annotations": [annotation("theirs")]}
                   for n, one in enumerate(IDS)]  # fmt: skip
        tasks[0]["annotations"] = [annotation("ours")]
        labels, matched = importing(json.dumps([*foreign, *tasks[:1]]))
        assert labels == {IDS[0]: "ours"}
        assert matched.unknown == ["'s3://theirs/0.png'", "'s3://theirs/1.png'", "'s3://theirs/2.png'"]
        assert matched.without == {IDS[1]: "not in the file", IDS[2]: "not in the file"}
        foreign[0]["data"]["elfs_ray_export"] = "f00"
        assert importing(json.dumps([*foreign, *tasks[:1]]))[1].unknown == matched.unknown

    def test_an_image_and_an_id_that_differ(self, tasks, refused):
        tasks[0]["data"]["sample_id"] = IDS[1]
        tasks[0]["annotations"] = [annotation("x")]
        image = tasks[0]["data"]["image"].rpartition("/")[2]
        line = refused(json.dumps(tasks))
        assert f"{image}' the sample_id {IDS[1]!r}; it was exported with 'cats/a b.png'; put the right one back" in line

    @pytest.mark.parametrize("gone", ["sample_id", "image", "elfs_ray_export"])
    def test_either_is_enough(self, tasks, bring_back, gone):
        for task in answered(tasks):
            del task["data"][gone]
        assert bring_back(json.dumps(tasks)) == ANSWERS

    def test_annotators_who_disagree(self, tasks, importing):
        tasks[0]["annotations"] = [annotation("cat"), annotation("dog"), annotation("cat")]
        tasks[1]["annotations"] = [annotation("cat"), annotation("dog")]
        tasks[2]["annotations"] = [annotation("cat"), annotation("cat"), annotation("dog", ground_truth=True)]
        labels, matched = importing(json.dumps(tasks))
        assert labels == {IDS[0]: "cat", IDS[2]: "dog"}
        assert matched.without == {IDS[1]: "tied"}
        assert matched.by_majority == 2
        assert matched.answers == {"label": 3, "outvoted": 3, "tied": 2}
        assert (
            matched.summary("x.csv") == f"2 labels in x.csv (2 by majority); 1 of 3 images has none (tied: {IDS[1]!r})"
        )

    def test_the_question_is_the_one_that_was_exported(self, tasks, importing, refused):
        """A second question is passed over; who answers that alone gives no label; --question takes it instead."""
        tasks[0]["annotations"] = [annotation("cat")]
        blurred = annotation("blurred", "quality")["result"][0]
        text = {"from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": ["x"]}}
        tasks[0]["annotations"][0]["result"] += [blurred, text]
        tasks[1]["annotations"] = [annotation("sharp", "quality")]
        tasks[2]["annotations"] = [annotation("", result=[text])]
        labels, matched = importing(json.dumps(tasks))
        assert labels == {IDS[0]: "cat"}
        assert matched.without == {IDS[1]: "another question", IDS[2]: "another question"}
        labels, matched = importing(json.dumps(tasks), question="quality")
        assert labels == {IDS[0]: "blurred", IDS[1]: "sharp"}

    def test_a_question_that_nobody_answered(self, tasks, refused):
        for task, question in zip(tasks, ("quality", "animal", "quality"), strict=True):
            task["annotations"] = [annotation("x", question)]
        expected = "annotations answers hold no answer to 'label', but to 'quality', 'animal'; name one with --question"
        assert refused(json.dumps(tasks)) == expected

    def test_several_choices_are_no_label(self, tasks, importing):
        answered(tasks, "cat")
        tasks[0]["annotations"][0]["result"][0]["value"]["choices"].append("dog")
        tasks[1]["annotations"][0]["result"][0]["value"]["choices"].append("cat")
        labels, matched = importing(json.dumps(tasks))
        assert labels == {IDS[1]: "cat", IDS[2]: "cat"}
        assert matched.without == {IDS[0]: "several labels"}

    def test_labels_compare_in_nfc(self, tasks, importing):
        for task in tasks:
            task["annotations"] = [annotation("e\u0301t\u00e9"), annotation("\u00e9te\u0301")]
        labels, matched = importing(json.dumps(tasks))
        assert labels == dict.fromkeys(IDS, "\u00e9t\u00e9")
        assert matched.by_majority == 0

    def test_strict(self, tasks, importing, refused):
        assert importing(json.dumps(answered(tasks)), strict=True)[0] == ANSWERS

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda tasks: tasks[1]["annotations"][0].update(was_cancelled=True), f"(skipped: {IDS[1]!r})"),
            (lambda tasks: tasks[1].update(annotations=[]), f"(not answered: {IDS[1]!r})"),
            (lambda tasks: tasks[1].update(annotations=[annotation("x", "note")]), f"(another question: {IDS[1]!r})"),
            (lambda tasks: tasks.pop(1), f"(not in the file: {IDS[1]!r})"),
            (
                lambda tasks: tasks.append({"data": {"image": "other/1.jpg"}, "annotations": [annotation("x")]}),
                "3 labels in annotations answers; 1 unknown image passed over: 'other/1.jpg'",
            ),
        ],
    )  # fmt: skip
    def test_strict_refuses_all_that_is_passed_over(self, tasks, refused, change, told):
        change(answered(tasks, "x"))
        line = refused(json.dumps(tasks), strict=True)
        assert told in line
        assert line.endswith("; --strict takes nothing less than all")

    def test_two_rounds_in_one_project(self, tasks, run, importing, tmp_path):
        """The tasks of two exports; each is known by its own key, and both are expected."""
        coreset = Table(run, f"coresets/{NAME}")
        write_table(run, "coresets/random/1", coreset.read(0, 1), coreset.schema)
        add_records(run, record("select/random/1"))
        second = answered(tasks_of(run, tmp_path / "more", "random/1"), "x")
        answered(tasks, "x")
        assert len(second) == 1
        labels, matched = importing(json.dumps([*tasks[:2], *second]))
        assert labels == dict.fromkeys(IDS, "x")
        assert matched.is_complete
        labels, matched = importing(json.dumps(second))
        assert labels == {IDS[2]: "x"}
        assert matched.is_complete
        labels, matched = importing(json.dumps([*tasks[:1], *second]))
        assert matched.without == {IDS[1]: "not in the file"}


class TestCvat:
    @pytest.fixture
    def tree(self, run, tmp_path):
        return ET.parse(export_coreset(run, NAME, "cvat", tmp_path / "out") / "annotations.xml")

    @pytest.fixture
    def ids(self, tree, run):
        [record] = read_records(run)
        return {one.name: one.sample_id for one in record.samples}

    @staticmethod
    def text(tree):
        return '\ufeff<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(tree.getroot(), encoding="unicode")

    @pytest.fixture
    def annotated(self, tree, ids):
        for image in tree.getroot().findall("image"):
            image.set("subset", "default")
            tag = ET.SubElement(image, "tag", label=ANSWERS[ids[image.get("name")]], source="manual")
            ET.SubElement(tag, "attribute", name="sure").text = "yes"
        return tree

    def test_names_come_back_as_they_are(self, annotated, bring_back):
        assert bring_back(self.text(annotated)) == ANSWERS

    def test_numbers_of_frames_say_nothing(self, annotated, bring_back):
        """A task with more images has others; here they are those of other images of ours."""
        images = annotated.getroot().findall("image")
        for image, number in zip(images, (2, 0, 1), strict=True):
            image.set("id", str(number))
        assert bring_back(self.text(annotated)) == ANSWERS

    def test_a_folder_of_the_tools_own_is_named(self, annotated, bring_back, refused):
        for image in annotated.getroot().findall("image"):
            image.set("name", "share/photos/" + image.get("name"))
        line = refused(self.text(annotated))
        assert "name no image that was exported: they name 'share/photos/cats/a b.png', the cvat export" in line
        assert bring_back(self.text(annotated), prefix="share/photos/") == ANSWERS

    def test_what_lies_outside_of_that_folder_is_another_image(self, annotated, importing):
        first, *others = annotated.getroot().findall("image")
        for image in others:
            image.set("name", "share/" + image.get("name"))
        labels, matched = importing(self.text(annotated), prefix="share/")
        assert IDS[0] not in labels
        assert matched.unknown == [repr(first.get("name"))]

    def test_one_name_twice(self, annotated, refused):
        first, second, _ = annotated.getroot().findall("image")
        second.set("name", first.get("name"))
        name = repr(first.get("name"))
        assert f"hold two pictures, {name} and {name}, that are both 'cats/a b.png'" in refused(self.text(annotated))

    def test_several_tags_and_shapes_alone(self, annotated, ids, importing):
        first, second, third = annotated.getroot().findall("image")
        ET.SubElement(first, "tag", label="another")
        second.remove(second.find("tag"))
        ET.SubElement(second, "box", label="cat", xtl="0", ytl="0", xbr="1", ybr="1")
        labels, matched = importing(self.text(annotated))
        left = ids[third.get("name")]
        assert labels == {left: ANSWERS[left]}
        reasons = {ids[first.get("name")]: "several labels", ids[second.get("name")]: "another question"}
        assert matched.without == reasons


class TestCoco:
    @pytest.fixture
    def content(self, run, tmp_path):
        """As a tool writes it that keeps of an image what COCO has."""
        content = json.loads((export_coreset(run, NAME, "coco", tmp_path / "out") / "annotations.json").read_text())
        for number, image in enumerate(content["images"], start=1):
            content["categories"].append({"id": number, "name": ANSWERS[image.pop("sample_id")]})
            content["annotations"].append({"id": number, "image_id": image["id"], "category_id": number})
            del image["elfs_ray_export"]
        return content

    def test_ids_are_the_tools_own(self, content, bring_back):
        for part, key in ((content["images"], "id"), (content["annotations"], "image_id")):
            for one in part:
                one[key] = {1: 2, 2: 3, 3: 1}[one[key]]
        assert bring_back(json.dumps(content)) == ANSWERS

    def test_names_below_the_input(self, content, run, bring_back):
        [record] = read_records(run)
        names = {one.place: one.name for one in record.samples}
        for image in content["images"]:
            image["file_name"] = names[image["file_name"]]
        assert bring_back(json.dumps(content)) == ANSWERS

    def bare(self, content):
        for image in content["images"]:
            image["file_name"] = image["file_name"].rpartition("/")[2]
        return content

    def test_a_bare_name_that_one_image_has(self, content, importing):
        content["images"] = [image for image in self.bare(content)["images"] if image["file_name"] != "a b.png"]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        labels, matched = importing(json.dumps(content))
        assert labels == {IDS[1]: ANSWERS[IDS[1]]}
        assert matched.without == {IDS[0]: "not in the file", IDS[2]: "not in the file"}

    def test_a_bare_name_that_two_have(self, content, refused):
        line = refused(json.dumps(self.bare(content)))
        assert (
            "name 'a b.png', which may be 'cats/a b.png' or 'dogs/a b.png'; give the tool the names that were" in line
        )

    def test_a_bare_name_that_the_file_has_twice(self, content, refused):
        """Of one of them nobody knows where it comes from."""
        self.bare(content)
        content["images"] = [image for image in content["images"] if image["file_name"] != "a b.png"]
        content["images"].append({**content["images"][0], "id": 9})
        content["annotations"] = []
        assert f"that are both {IDS[1]!r} of the export; keep one" in refused(json.dumps(content))

    def test_another_folder_is_another_image(self, content, importing):
        moved = content["images"][0]
        moved["file_name"] = "elsewhere/" + moved["file_name"].rpartition("/")[2]
        labels, matched = importing(json.dumps(content))
        assert len(labels) == 2
        assert matched.unknown == [repr(moved["file_name"])]

    def test_two_images_with_one_id(self, content, refused):
        content["images"][1]["id"] = content["images"][0]["id"]
        first, second = (image["file_name"] for image in content["images"][:2])
        line = refused(json.dumps(content)).replace("answers", "x")
        assert line.startswith("annotations x hold two images with the id 1, ")
        assert first.rpartition("/")[2] in line
        assert second.rpartition("/")[2] in line

    def test_two_categories_with_one_id(self, content, refused):
        content["categories"][1]["id"] = 1
        assert "hold two categories with the id 1, '日本' and 'cat & kitten'; give each" in refused(json.dumps(content))

    @pytest.mark.parametrize(("key", "value"), [("image_id", 99), ("category_id", 99)])
    def test_an_annotation_of_nothing(self, content, refused, key, value):
        content["annotations"][0][key] = value
        assert f"hold one with {key} {value}, which nothing in the file has" in refused(json.dumps(content))

    def test_several_categories(self, content, importing):
        """Two boxes of one category are one label; of two, none, however many boxes each has."""
        of_first, of_second, _ = content["annotations"]
        content["annotations"] += [of_first, of_second, {**of_second, "category_id": of_first["category_id"]}]
        labels, matched = importing(json.dumps(content))
        ids = [IDS[2], IDS[0], IDS[1]]  # in order of rank
        assert labels == {one: ANSWERS[one] for one in (ids[0], ids[2])}
        assert matched.without == {ids[1]: "several labels"}

    def test_a_sample_id_that_contradicts_the_name(self, content, refused):
        content["images"][0]["sample_id"] = IDS[0]
        assert f"the sample_id {IDS[0]!r}; it was exported with {IDS[2]!r}" in refused(json.dumps(content))

    def test_a_sample_id_decides_between_bare_names(self, content, bring_back):
        for image, sample_id in zip(self.bare(content)["images"], (IDS[2], IDS[0], IDS[1]), strict=True):
            image["sample_id"] = sample_id
        assert bring_back(json.dumps(content)) == ANSWERS


class TestTables:
    @pytest.fixture(autouse=True)
    def exported(self, run, tmp_path):
        export_coreset(run, NAME, "csv", tmp_path / "out")

    def test_columns_are_questions(self, bring_back, refused):
        rows = "sample_id,label,mood\n" + "".join(f'"{one.replace(chr(34), chr(34) * 2)}",x,y\n' for one in IDS)
        assert bring_back(rows, ".csv") == dict.fromkeys(IDS, "x")
        assert bring_back(rows, ".csv", question="mood") == dict.fromkeys(IDS, "y")

    def test_a_question_that_is_no_column(self, refused):
        line = refused(f"sample_id,mood\n{IDS[0]},y\n", ".csv")
        assert line == "annotations answers.csv hold no answer to 'label', but to 'mood'; name one with --question"

    def test_no_ids(self, refused):
        line = refused("name,label\na,b\n", ".csv")
        assert (
            line
            == "annotations answers.csv have no column 'sample_id'; their columns: name, label; keep that of the export"
        )

    def test_empty_labels_are_none(self, importing):
        rows = [
            {"sample_id": IDS[0], "label": "x"},
            {"sample_id": IDS[1], "label": None},
            {"sample_id": IDS[2], "label": " "},
        ]
        labels, matched = importing("\n".join(map(json.dumps, rows)), ".jsonl")
        assert labels == {IDS[0]: "x"}
        assert matched.without == {IDS[1]: "not answered", IDS[2]: "not answered"}

    def test_several_annotators(self, importing):
        rows = [(IDS[0], "x"), (IDS[0], "y"), (IDS[0], "x"), (IDS[2], "x"), (IDS[2], "y"), ("who", "x")]
        content = "\n".join(json.dumps({"sample_id": one, "label": label}) for one, label in rows)
        labels, matched = importing(content, ".jsonl")
        assert labels == {IDS[0]: "x"}
        assert matched.without == {IDS[2]: "tied", IDS[1]: "not in the file"}
        assert matched.unknown == ["'who'"]
        assert matched.answers == {"label": 2, "outvoted": 1, "tied": 2, "unknown": 1}

    def test_numbers(self, bring_back):
        content = "\n".join(
            json.dumps({"sample_id": one, "label": label}) for one, label in zip(IDS, (1, 2.0, 2.5), strict=True)
        )
        assert bring_back(content, ".jsonl") == dict(zip(IDS, ("1", "2", "2.5"), strict=True))


class TestSeveralExports:
    """Two exports whose names differ: those of pictures in a table depend on what else is exported."""

    @pytest.fixture
    def store(self, tmp_path):
        store = make_run(tmp_path, in_table=True, ids=["1", "1.png", "2"])
        export_coreset(store, NAME, "cvat", tmp_path / "first")
        table = Table(store, f"coresets/{NAME}").read()
        alone = table.filter([one == "1.png" for one in table["sample_id"].to_pylist()])
        write_table(store, "coresets/random/1", alone, table.schema)
        add_records(store, record("select/random/1"))
        export_coreset(store, "random/1", "cvat", tmp_path / "second")
        return store

    def test_a_name_that_both_gave_is_refused_until_one_is_named(self, store, tmp_path):
        first, second = ({one.name: one.sample_id for one in record.samples} for record in read_records(store))
        assert first == {"2.png": "2", "1.png": "1", "index-1.png": "1.png"}
        assert second == {"1.png": "1.png"}
        (tmp_path / "done.xml").write_text('<annotations><image name="1.png"><tag label="x"/></image></annotations>')
        with pytest.raises(UsageError, match=r"name '1.png', which may be '1' or '1.png'; .* --export which export"):
            write_labels(store, tmp_path / "done.xml", tmp_path / "labels.csv")
        for exported, sample_id in zip(read_records(store), ("1", "1.png"), strict=True):
            found = write_labels(store, tmp_path / "done.xml", tmp_path / "labels.csv", export=exported.name)
            assert found.labels == {sample_id: "x"}
        with pytest.raises(UsageError, match=r"has no export 'x'; it has cvat-elfs-3-[0-9a-f]{12}, cvat-random-1-"):
            write_labels(store, tmp_path / "done.xml", tmp_path / "labels.csv", export="x")

    def test_the_same_again_replaces_its_record(self, store, tmp_path):
        before = {record.name: record for record in read_records(store)}
        shutil.rmtree(tmp_path / "first")
        export_coreset(store, NAME, "cvat", tmp_path / "first")
        after = {record.name: record for record in read_records(store)}
        assert after.keys() == before.keys()
        assert [record.samples for record in after.values()] == [before[name].samples for name in after]


def test_exports_of_one_coreset_stand_beside_each_other(run, tmp_path, importing):
    """The same images under other URLs are another export: tasks of both come back, also when each has lost its key."""
    tasks = [tasks_of(run, tmp_path / name, url=f"https://{name}") for name in ("one", "two")]
    records = read_records(run)
    assert [record.samples[0].place.partition("//")[2][:3] for record in records] == ["one", "two"]
    for exported, some in zip(records, tasks, strict=True):
        assert {task["data"]["elfs_ray_export"] for task in some} == {exported.key}
        assert importing(json.dumps(answered(some)))[0] == ANSWERS
        for task in some:
            task["data"] = {"image": task["data"]["image"]}
        assert importing(json.dumps(some))[0] == ANSWERS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "are of no known form"),
        ("{}", "are of no known form"),
        ("[" * 100_000, "are of no known form"),
        ("[]", "hold no label; finish some images first"),
        ('[{"image": "a", "label": "b"}]', r"are of no known form \(KeyError: 'data'\); pass a Label Studio export"),
        ('[{"data": {"image": "c.png"}, "annotations": [3]}]', "are of no known form"),
        (json.dumps([{"data": {"sample_id": IDS[0]}, "annotations": [annotation(None)]}]), "None is no name"),
        (json.dumps([{"data": {"sample_id": IDS[0]}, "annotations": [annotation("\ud800")]}]), "are of no known form"),
        ("<annotations>", "are of no known form"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "it declares entities"),
        ('<annotations><tag label="x"/></annotations>', "are of no known form"),
        ('<annotations><track id="0" label="x"/></annotations>', "it holds tracks of a video"),
        (
            '<annotations><image name="no.png"><tag label="x"/></image></annotations>',
            "name no image that was exported: they name 'no.png', the csv export of elfs/3 'dogs/a b.png'; pass",
        ),
        (
            '<annotations><image name="cats/a b.png"><tag label="x"/><tag label="y"/></image></annotations>',
            r"answers; 3 of 3 images have none \(several labels: 'cats/a b.png'; not in the file: .*; finish some",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(tmp_path, content, message):
    store = make_run(tmp_path, in_table=False, ids=IDS)
    export_coreset(store, NAME, "csv", tmp_path / "out")
    (tmp_path / "answers").write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        write_labels(store, tmp_path / "answers", tmp_path / "labels.csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "labels.csv").exists()


def test_a_run_that_was_exported_by_an_earlier_version(tmp_path):
    store = make_run(tmp_path, in_table=False, ids=IDS)
    (tmp_path / "answers").write_text(json.dumps([{"data": {"sample_id": IDS[0]}, "annotations": [annotation("x")]}]))
    with pytest.raises(UsageError) as caught:
        write_labels(store, tmp_path / "answers", tmp_path / "labels.csv")
    expected = "has no record of an export, as earlier versions wrote none; export again: the names are the same"
    assert str(caught.value) == f"{store.uri} {expected}"
    export_coreset(store, NAME, "label-studio", tmp_path / "out")
    assert write_labels(store, tmp_path / "answers", tmp_path / "labels.csv").labels == {IDS[0]: "x"}


def test_records_in_an_object_store(object_storage, tmp_path):
    local = make_run(tmp_path, in_table=True, ids=IDS)
    object_storage.upload(tmp_path / "run", "photos/exported")
    store = RunFolder(object_storage.uri("photos/exported"))
    tasks = tasks_of(store, tmp_path / "out")
    assert read_records(local) == []
    (tmp_path / "answers").write_text(json.dumps(answered(tasks)))
    assert write_labels(store, tmp_path / "answers", tmp_path / "labels.csv").labels == ANSWERS
    assert len(object_storage.paths("photos/exported/exports")) == 1


def test_a_damaged_record(tmp_path):
    store = make_run(tmp_path, in_table=False, ids=IDS)
    export_coreset(store, NAME, "csv", tmp_path / "out")
    [record] = (tmp_path / "run" / "exports").iterdir()
    record.write_bytes(record.read_bytes()[:-10])
    with pytest.raises(UsageError, match=rf"exports/{record.name} is damaged \(.*\); remove it, and export again"):
        read_records(store)


def test_a_run_folder_that_cannot_be_written_to(tmp_path, ordinary_user):
    store = make_run(tmp_path, in_table=False, ids=IDS)
    (tmp_path / "out").mkdir(mode=0o777)
    (tmp_path / "run").chmod(0o555)
    tmp_path.chmod(0o777)
    with (
        ordinary_user(),
        pytest.raises(UsageError, match=r"run cannot be written to \(Permission denied\), and keeps what"),
    ):
        export_coreset(store, NAME, "csv", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
