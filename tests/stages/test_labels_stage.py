"""Labels of candidates and of test images: each is used, or reported, and a run stops before its long stages."""

from dataclasses import replace

import pyarrow as pa
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.run.runner import run
from elfs_ray.stages import labeled
from elfs_ray.stages import labels as stage
from elfs_ray.stages.context import StageContext
from made_records import add_records, fingerprints, record
from test_exports import picture

CANDIDATES, BROKEN = [f"{number}.png" for number in range(6)], ["broken.png"]
TEST, BROKEN_TEST = ["t0.png", "t1.png", "mu\u0308.png"], ["broken-test.png"]


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text, **_):
        self.lines.append(text)


def write_ids(store, prefix, good, bad):
    samples = {"sample_id": good, "index": range(len(good)), "uri": good, "width": 1, "height": 1, "content_hash": good}
    table = pa.table({name: [value] * len(good) if value == 1 else list(value) for name, value in samples.items()})
    of_samples = schema.samples(carries_bytes=False, has_images=True)
    write_table(store, f"{prefix}samples", table.cast(of_samples), of_samples)
    rows = [{"sample_id": one, "uri": one, "stage": "ingest", "reason": "x"} for one in bad]
    write_table(store, f"{prefix}quarantine", pa.Table.from_pylist(rows, schema.QUARANTINE), schema.QUARANTINE)


@pytest.fixture
def bring(in_process, tmp_path):
    """Run the stage over candidates (and test images) that are in the run folder; returns the record's metrics."""
    store = RunFolder(str(tmp_path / "run"))
    write_ids(store, "", CANDIDATES, BROKEN)
    write_ids(store, "test/", TEST, BROKEN_TEST)

    def write(name, labels):
        (tmp_path / name).write_text("id,label\n" + "".join(f"{one},{label}\n" for one, label in labels.items()))
        return str(tmp_path / name)

    def bring(labels, prefix="", test_labels=None, separate=True, **options):
        values = {"input": "/photos", "num_classes": 2, "budgets": [1], **options}
        values["evaluate.labels"] = write("labels.csv", labels)
        if separate:
            values["evaluate.test_input"] = "/test"
        if test_labels:
            values["evaluate.test_labels"] = write("test.csv", test_labels)
        unit, reporter = Unit("labels", prefix), Lines()
        given = load_config(values), store, unit, store.work_folder(unit, "0"), in_process, reporter, store.records()
        metrics = stage.run(StageContext(*given)).metrics
        add_records(store, record(str(unit), metrics=metrics))
        return metrics, [line.replace(str(tmp_path), "") for line in reporter.lines]

    return bring


LABELS = {"0.png": "a", "1.png": "b", "3.png": "a", "broken.png": "a"}
TEST_LABELS = {"t0.png": "a", "m\u00fc.png": "b"}


def test_of_candidates_alone(bring):
    metrics, lines = bring(LABELS, separate=False)
    assert metrics == {
        "classes": ["a", "b"], "labelled": 3, "given": 4, "matched": 3, "quarantined": 1, "elsewhere": 0, "unmatched": 0
    }  # fmt: skip
    assert lines == ["  1 of 4 labels belong to images in quarantine", "  3 of 6 images have a label"]


def test_labels_of_no_image_stop_the_run_unless_that_is_allowed(bring):
    stray = {**LABELS, "x.png": "a", "y.png": "c"}
    told = (
        "/labels.csv: 4 of 6 labels belong to images of /photos; 2 do not, such as 'x.png' "
        "(images are called like '0.png')"
    )
    with pytest.raises(
        UsageError, match=r"labels.csv: 4 of 6 labels belong .* fix the ids, or pass --allow-unmatched$"
    ):
        bring(stray, separate=False)
    metrics, lines = bring(stray, separate=False, allow_unmatched=True)
    assert (metrics["given"], metrics["matched"], metrics["unmatched"], metrics["classes"]) == (6, 3, 2, ["a", "b"])
    assert f"  {told}" in lines


class TestOneFileForBoth:
    def test_a_label_is_of_either(self, bring):
        both = {**LABELS, **TEST_LABELS, "broken-test.png": "a"}
        metrics, lines = bring(both)
        assert (metrics["matched"], metrics["labelled"]) == (3, 3)
        assert lines == ["  1 of 7 labels belong to images in quarantine", "  3 of 6 images have a label"]
        metrics, lines = bring(both, "test")
        assert (metrics["given"], metrics["matched"], metrics["quarantined"]) == (7, 2, 1)
        assert (metrics["elsewhere"], metrics["unmatched"]) == (4, 0)
        assert lines[-1] == "  2 of 3 images have a label"

    def test_or_it_is_refused_when_both_are_known(self, bring):
        both = {**LABELS, **TEST_LABELS, "x.png": "a"}
        bring(both)
        message = (
            r"6 of 7 labels belong to images of /photos or /test; 1 does not, such as 'x.png' \(images are called like"
        )
        with pytest.raises(UsageError, match=message):
            bring(both, "test")
        metrics, lines = bring(both, "test", allow_unmatched=True)
        assert metrics["unmatched"] == 1
        assert any("6 of 7 labels belong to images of /photos or /test; 1 does not" in line for line in lines)

    def test_two_files_are_judged_each_alone(self, bring):
        with pytest.raises(UsageError, match=r"4 of 6 labels belong to images of /photos; 2 do not, such as 't0.png'"):
            bring({**LABELS, **TEST_LABELS}, test_labels=TEST_LABELS)
        bring(LABELS, test_labels=TEST_LABELS)
        with pytest.raises(UsageError, match=r"2 of 3 labels belong to images of /test; 1 does not, such as '0.png'"):
            bring(LABELS, "test", test_labels={**TEST_LABELS, "0.png": "a"})


class TestClassesOfTestImages:
    def test_those_that_no_candidate_has_are_told(self, bring):
        bring(LABELS, test_labels=TEST_LABELS)
        metrics, lines = bring(LABELS, "test", test_labels={**TEST_LABELS, "t1.png": "c"})
        assert metrics["of_unknown_classes"] == 1
        told = "1 test images are of classes that no candidate has, such as 'c'; the evaluation leaves them out"
        assert lines == [f"  {told}"]

    def test_none_of_both_is_refused(self, bring):
        bring(LABELS, test_labels=TEST_LABELS)
        message = (
            r"test.csv gives test images classes like '1.0', and the candidates have classes like 'a': none is of both"
        )
        with pytest.raises(UsageError, match=message):
            bring(LABELS, "test", test_labels={"t0.png": "1.0"})

    def test_composed_letters_are_one_class_and_look_alikes_none(self, bring):
        candidates = {"0.png": "M\u00fcll", "1.png": "b"}
        bring(candidates, test_labels=TEST_LABELS)
        metrics, _ = bring(candidates, "test", test_labels={"t0.png": "Mu\u0308ll"})
        assert metrics["of_unknown_classes"] == 0
        with pytest.raises(UsageError, match="the classes 'b' and 'b ' look the same"):
            bring(candidates, "test", test_labels={"t0.png": "b "})


@pytest.mark.parametrize("key", ["0001", "cat/0001"])
def test_the_name_of_a_shard_is_no_class(in_process, tmp_path, key):
    """Ids begin with it where the shards share keys."""
    store = RunFolder(str(tmp_path / "run"))
    of_samples = schema.samples(carries_bytes=False, has_images=False)
    config = load_config({"input": "/shards", "num_classes": 2, "budgets": [1], "evaluate.labels": "folders"})
    for number, sample_id in enumerate((f"shard-00/{key}", "cat/0001")):
        prefix = ("", "test/")[number]
        uri = f"/shards/shard-00.tar#{sample_id.removeprefix('shard-00/')}"
        rows = [{"sample_id": sample_id, "index": 0, "uri": uri}]
        write_table(store, f"{prefix}samples", pa.Table.from_pylist(rows, of_samples), of_samples)
        empty = schema.QUARANTINE.empty_table()
        write_table(store, f"{prefix}quarantine", empty, schema.QUARANTINE)
    context = StageContext(config, store, Unit("labels"), ".work/labels", in_process, Reporter())
    with pytest.raises(
        UsageError, match=r"the id 'shard-00/.*0001' begins with the name of a tar shard, .*'column:cls'"
    ):
        stage.run(context)
    candidates = Records({Unit("labels"): record("labels", metrics={"classes": ["cat"]})})
    of_test_images = replace(context, unit=Unit("labels", "test"), records=candidates)
    assert stage.run(of_test_images).metrics["classes"] == ["cat"]


def test_labels_that_are_there_already(bring, in_process, tmp_path):
    store, reporter = RunFolder(str(tmp_path / "run")), Lines()
    known = tmp_path / "known.csv"
    values = {"input": "/photos", "num_classes": 2, "budgets": [2], "select.labeled": str(known)}
    known.write_text("id,label\n1.png,a\nbroken.png,b\nx.png,c\n")
    message = "known.csv: 2 of 3 labels belong to images of /photos; 1 does not, such as 'x.png'"
    context = StageContext(load_config(values), store, Unit("labeled"), ".work/labeled", in_process, reporter)
    with pytest.raises(UsageError, match=message):
        labeled.run(context)
    labeled.run(replace(context, config=load_config({**values, "allow_unmatched": True})))
    written = Table(store, ".work/labeled/labels_known").read()
    assert written.schema == schema.LABELS
    assert written["label"].to_pylist() == [-1, 0, -1, -1, -1, -1]
    aside, stray, some = reporter.lines
    assert aside == "  1 of 3 labels belong to images in quarantine"
    assert stray == f"  {tmp_path}/{message} (images are called like '0.png')"
    assert some == "  1 of 6 images have a label"


@pytest.fixture
def folders(tmp_path):
    """Twelve candidates and six test images."""
    for name, numbers in (("images", range(12)), ("test", range(12, 18))):
        (tmp_path / name).mkdir()
        for number in numbers:
            (tmp_path / name / f"{number}.png").write_bytes(picture(number))
    return tmp_path


def config_of(folder, numbers, **options):
    path = folder / "labels.csv"
    path.write_text("id,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in numbers))
    values = {"input": str(folder / "images"), "num_classes": 2, "budgets": [4], "neighbors.k": 5}
    return load_config({**values, "select.method": "random", "embed.image_size": 32, **options})


def test_allowing_changes_nothing_that_is_computed(folders):
    separate = {"evaluate.labels": str(folders / "labels.csv"), "evaluate.test_input": str(folders / "test")}
    config, found = config_of(folders, range(18), **separate), []
    for allowed in (False, True):
        config = config.model_copy(update={"allow_unmatched": allowed})
        found.append(fingerprints(config, num_samples=12))
    assert found[0] == found[1]
    # Candidates that change are held against the one file again.
    (folders / "images" / "more.png").write_bytes(picture(99))
    after = fingerprints(config, num_samples=12)
    assert after["test/ingest"] == found[0]["test/ingest"]
    assert after["test/labels"] != found[0]["test/labels"]


def test_the_run_stops_before_the_long_stages(folders):
    """One folder: whatever the labels say, the images are ingested once."""
    store = RunFolder(str(folders / "run"))
    given = {"select.labeled": str(folders / "labels.csv")}
    with pytest.raises(UsageError, match=r"labels.csv: 12 of 13 labels belong to images of .*/images; 1 does not"):
        run(config_of(folders, range(13), **given), store, Reporter(), until="embed")
    assert set(store.manifest()["records"]) == {"listing", "ingest"}
    with pytest.raises(UsageError, match="samples have labels already, which leaves nothing of the budget of 1"):
        run(config_of(folders, range(12), budgets=[1], **given), store, Reporter(), until="embed")
    assert set(store.manifest()["records"]) == {"listing", "ingest", "labeled"}

    both = {"evaluate.labels": str(folders / "labels.csv"), "evaluate.test_input": str(folders / "test")}
    with pytest.raises(
        UsageError, match=r"18 of 19 labels belong to images of .*/images or .*/test; 1 does not, such as '18"
    ):
        run(config_of(folders, range(19), **both), store, Reporter(), until="embed")
    before = {"listing", "test/listing", "ingest", "labeled", "labels", "test/ingest"}
    assert set(store.manifest()["records"]) == before

    stages = run(config_of(folders, range(18), **both), store, Reporter(), until="labels")["records"]
    assert set(stages) == {*before, "test/labels"}
    assert not store.records().stale
    names = {prefix: Table(store, f"{prefix}labels_true").read().to_pydict() for prefix in ("", "test/")}
    for table in names.values():
        assert table["class_name"] == [str(int(one.removesuffix(".png")) % 2) for one in table["sample_id"]]
    assert [stages[unit]["metrics"]["matched"] for unit in ("labels", "test/labels")] == [12, 6]
