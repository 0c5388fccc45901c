"""The listing of an input: the same by tasks as in memory, pieces that are taken up again, and who looks when."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.data.sources import open_input, source_of
from elfs_ray.run.runner import run
from elfs_ray.stages import listing
from elfs_ray.stages.parts import listed
from kinds_of_input import COUNT, KINDS, png, read_all, write_shards
from small import Lines

BUDGETS = {"num_classes": 2, "budgets": [2], "select.method": "random", "neighbors.k": 2}


def list_in_steps(config, store, work="work"):
    """What tasks do for the stage, one after the other."""
    source, runs = listing._look(config, "", store, work)
    files = Table(store, f"{work}/{listing.FILES}")
    pieces = [listing._list_some(source, files, f"{work}/{listing.PIECES}", *each) for each in runs]
    about = listing._join(source, store, work, pieces)
    return source_of(about, Table(store, f"{work}/listing"))


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_list_what_memory_lists(tmp_path, monkeypatch, kind):
    (tmp_path / "input").mkdir()
    location = str(KINDS[kind][0](tmp_path / "input"))
    config = load_config({**BUDGETS, "input": location, "ingest.chunk_rows": 3})
    monkeypatch.setattr("elfs_ray.artifacts.writing.PART_BYTES", 500)  # several parts
    monkeypatch.setattr("elfs_ray.data.sources.folder.FolderSource.files_at_once", 2)
    monkeypatch.setattr(listing, "FILES_AT_ONCE", 2)
    made, held = list_in_steps(config, RunFolder(str(tmp_path / "run"))), open_input(config, location)
    assert made.about == held.about
    assert made.entries.schema == schema.LISTING
    assert made.entries.read().equals(held.entries.read())
    assert made.chunks == held.chunks
    assert read_all(made).equals(read_all(held))
    assert [one.as_py() for one in read_all(made)["position"]] == list(range(COUNT))


def test_shards_that_have_not_changed_are_not_read_again(tmp_path):
    shards = tmp_path / "input"
    shards.mkdir()
    write_shards(shards)
    config, store = load_config({**BUDGETS, "input": str(shards)}), RunFolder(str(tmp_path / "run"))
    before = list_in_steps(config, store)
    first, *others = sorted(shards.glob("*.tar"))
    assert others
    # Who read the first one now would find it damaged; by its name, size and time it is the same.
    was = first.stat()
    first.write_bytes(b"x" * was.st_size)
    os.utime(first, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert list_in_steps(config, store).entries.read().equals(before.entries.read())
    os.utime(first, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    with pytest.raises(Exception, match="damaged"):
        list_in_steps(config, store)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def test_a_stage_goes_by_the_listing_and_a_run_looks_again(photos, tmp_path, call):
    out = tmp_path / "run"
    options = ["--num-classes=2", "--budget=2", "--method=random", "--until=select", "--set=neighbors.k=2"]
    given = ["run", f"--input={photos}", f"--out={out}", *options]
    code, _, err = call(*given)
    assert code == 0, err
    store = RunFolder(str(out))
    (photos / "6.png").write_bytes(png(6))
    code, told, err = call("select", out, "--budget=3")
    assert code == 0, err
    assert f"; `elfs-ray listing {out}` looks again" in told
    assert Table(store, "samples").rows == 6
    code, told, err = call("listing", out)
    assert code == 0, err
    assert "photos/: 7 images read" in told
    assert Table(store, "listing").rows == 7
    code, told, err = call(*given)
    assert code == 0, err
    assert Table(store, "samples").rows == 7


def test_an_input_that_is_too_large_to_look_at_first_is_looked_at_by_tasks(photos, tmp_path, monkeypatch):
    """As if six files were many: nothing is listed by the driver, and what is wrong shows after the listing."""
    monkeypatch.setattr(listed, "LISTED_AT_ONCE", 5)
    config = load_config({**BUDGETS, "input": str(photos), "ray.mode": "never"})
    store, said = RunFolder(str(tmp_path / "run")), Lines()
    assert listed.small_inputs(config, store.records()) == {}
    first = run(config, store, Reporter(), until="select")["records"]
    again = run(config, store, said, until="select")["records"]
    assert again == first
    assert said.units["begun"] == said.units["there"][:1] == ["listing"]  # it was listed again, and is the same
    shutil.copy(photos / "0.png", photos / "7.png")
    changed = run(config, store, Reporter(), until="ingest")["records"]
    assert changed["ingest"]["rows"]["samples"] == 7
    with pytest.raises(Exception, match="budget 9 is over the number of images, 7"):
        run(config.model_copy(update={"budgets": [9]}), RunFolder(str(tmp_path / "other")), Reporter())


def test_another_column_of_labels_counts_though_the_images_are_the_same(tmp_path):
    """Samples do not hold it: the labels rest on the listing, too."""
    table = tmp_path / "photos.parquet"
    columns = {"id": list("abcd"), "image": [png(number) for number in range(4)]}
    values = {**BUDGETS, "input": str(table), "evaluate.labels": "column:label"}
    store = RunFolder(str(tmp_path / "run"))
    classes = []
    for label in (["x", "y", "x", "y"], ["y", "y", "x", "x"]):
        pq.write_table(pa.table({**columns, "label": label}), table)
        run(load_config(values), store, Reporter(), until="labels")
        classes.append(Table(store, "labels_true").read()["class_name"].to_pylist())
    assert classes == [["x", "y", "x", "y"], ["y", "y", "x", "x"]]
