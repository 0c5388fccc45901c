"""Images that could be read at ingest and no longer can later: they go to quarantine by name, and the run goes on.

The files are damaged while the run is on, when it says that the stage begins.
"""

import itertools
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfs_ray.artifacts import writing
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import join_contents, samples_content
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.data.unusable import Unusable, UnusableImagesError
from elfs_ray.errors import RunError, UsageError
from elfs_ray.run.runner import run
from small import AtBegin, write_labels_of

COUNT = 24


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """A part for each chunk of images, or for seven embeddings."""
    monkeypatch.setattr(writing, "PART_BYTES", 1)
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", 7)


@pytest.fixture
def images(small_input, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(small_input[0].iterdir())[:COUNT]:
        shutil.copy(path, folder)
    return folder


def config_of(images, **options):
    values = {
        "input": str(images),
        "budgets": [4],
        "num_classes": 2,
        "select.method": "random",
        "embed.image_size": 32,
        "embed.checkpoint_rows": 8,
        "embed.batch_size": 4,
        "ingest.chunk_rows": 10,
        "ingest.max_bad_fraction": 0.1,
        "neighbors.k": 5,
    }
    return load_config({**values, **options})


def damage(images, gone=5, cut=17):
    """Remove one image and cut off another."""
    (images / f"digit-{gone:04d}.png").unlink()
    path = images / f"digit-{cut:04d}.png"
    path.write_bytes(path.read_bytes()[:60])


def keys(store, artifact="samples"):
    return Table(store, artifact).read(columns=["sample_id", "index"]).to_pydict()


def test_embed_goes_on_without_them(images, small_input, tmp_path):
    (images / "zzz-empty.png").write_bytes(b"")
    labels = write_labels_of(images, small_input[1], tmp_path / "labels.csv")
    config = config_of(images, **{"evaluate.labels": str(labels), "ingest.max_bad_fraction": 0.15})
    store = RunFolder(str(tmp_path / "run"))
    reporter = AtBegin("embed", lambda: damage(images))
    manifest = run(config, store, reporter, until="embed")

    names = [f"digit-{number:04d}.png" for number in range(COUNT) if number not in (5, 17)]
    expected = {"sample_id": names, "index": list(range(len(names)))}
    assert keys(store) == expected
    assert keys(store, "embeddings") == expected
    assert keys(store, "labels_true") == expected
    quarantine = {row["sample_id"]: row for row in Table(store, "quarantine").read().to_pylist()}
    assert {name: row["stage"] for name, row in quarantine.items()} == {
        "zzz-empty.png": "ingest",
        "digit-0005.png": "embed",
        "digit-0017.png": "embed",
    }
    assert quarantine["digit-0005.png"]["reason"] == "the file cannot be read: No such file or directory"
    assert "the image is truncated" in quarantine["digit-0017.png"]["reason"]
    assert manifest["records"]["ingest"]["rows"] == {"samples": COUNT - 2, "quarantine": 3}
    numbers = manifest["records"]["ingest"]["metrics"]
    assert (numbers["inputs"], numbers["samples"], numbers["quarantined"]) == (COUNT + 1, COUNT - 2, 3)
    assert [part.rows for part in Table(store, "samples").parts()] == [9, 9, 4]
    assert [part.rows for part in Table(store, "embeddings").parts()] == [7, 7, 7, 1]
    [said] = [line for line in reporter.lines if "set aside" in line]
    assert "image 'digit-0005.png' and 1 more could be read at ingest and no longer can" in said

    # As if they had never been there: the same embeddings, and nothing is left to do.
    for name in ("digit-0005.png", "digit-0017.png", "zzz-empty.png"):
        (images / name).unlink(missing_ok=True)
    fresh = RunFolder(str(tmp_path / "fresh"))
    labels = write_labels_of(images, small_input[1], tmp_path / "fewer.csv")
    run(config_of(images, **{"evaluate.labels": str(labels)}), fresh, Reporter(), until="embed")
    assert Table(store, "embeddings").read().equals(Table(fresh, "embeddings").read())
    assert Table(store, "labels_true").read().equals(Table(fresh, "labels_true").read())


def test_interrupted_after_they_were_set_aside(images, tmp_path):
    """What was encoded before is not encoded again."""
    config, store = config_of(images), RunFolder(str(tmp_path / "run"))

    class Interrupted(AtBegin):
        def line(self, text, **about):
            super().line(text, **about)
            if "set aside" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, store, Interrupted("embed", lambda: damage(images, gone=0, cut=1)), until="embed")
    assert Table(store, "samples").rows == COUNT - 2
    assert not store.exists("embeddings")
    (images / "digit-0001.png").unlink()  # a list of files that holds what the samples do
    manifest = run(config, store, Reporter(), until="embed")
    assert keys(store, "embeddings") == keys(store)
    assert len(keys(store)["index"]) == COUNT - 2
    assert manifest["records"]["embed"]["metrics"]["images_per_second"] == 0


def test_too_many_stop_the_run_by_name(images, tmp_path):
    def remove_all():
        for path in images.iterdir():
            path.unlink()

    store = RunFolder(str(tmp_path / "run"))
    with pytest.raises(UsageError) as told:
        run(config_of(images), store, AtBegin("embed", remove_all), until="embed")
    assert " of 24 inputs (" in str(told.value)
    assert "more than ingest.max_bad_fraction=0.1; the first is 'digit-" in str(told.value)
    assert Table(store, "samples").rows == COUNT
    assert Table(store, "quarantine").rows == 0


def test_evaluation_on_images_selects_anew(images, small_input, tmp_path):
    """An image that is lost after the embedding takes its embedding with it."""
    extra = sorted(small_input[0].iterdir())[COUNT:40]
    for path in extra:
        shutil.copy(path, images)
    options = {
        "select.method": "kcenter",
        "evaluate.labels": str(write_labels_of(images, small_input[1], tmp_path / "labels.csv")),
        "evaluate.models": ["resnet-small"],
        "evaluate.seeds": 2,
        "evaluate.steps": 2,
        "evaluate.image_size": 16,
    }
    store = RunFolder(str(tmp_path / "run"))
    lost = AtBegin("evaluate/kcenter/4", lambda: damage(images))
    before = {}

    def remember(text, **about):
        if about.get("unit") == "evaluate/kcenter/4" and not before:
            before.update(embeddings=Table(store, "embeddings").read())
        lost.line(text, **about)

    reporter = Reporter()
    reporter.line = remember
    manifest = run(config_of(images, **options), store, reporter, until="evaluate")
    stages = Table(store, "quarantine").read().to_pydict()
    assert stages["sample_id"] == ["digit-0005.png", "digit-0017.png"]
    assert stages["stage"] == ["evaluate"] * 2
    kept = np.array([row for row in range(COUNT + len(extra)) if row not in (5, 17)])
    assert Table(store, "embeddings").read()["vector"].equals(before["embeddings"].take(kept)["vector"])
    assert keys(store, "embeddings")["index"] == list(range(len(kept)))
    assert manifest["records"]["embed"]["metrics"]["images_per_second"] == 0
    coreset = Table(store, "coresets/kcenter/4").read().to_pylist()
    samples = dict(zip(keys(store)["index"], keys(store)["sample_id"], strict=True))
    assert all(samples[row["index"]] == row["sample_id"] for row in coreset)
    assert manifest["records"]["evaluate/kcenter/4"]["rows"] == {"evaluation/kcenter/4": 4}


def test_the_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UnusableImagesError([Unusable(3, "b", "x"), Unusable(1, "a", "y")], "test")))
    assert error.images == [Unusable(1, "a", "y"), Unusable(3, "b", "x")]
    assert error.prefix == "test"
    assert str(error) == "image 'a' and 1 more could be read at ingest and no longer can: y"
    assert isinstance(error, RunError)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 20), max_size=6), seed=st.integers(0, 1000))
def test_content_does_not_depend_on_the_parts(cuts, seed):
    names = [f"{name}-{seed}" for name in range(20)]
    columns = {"index": range(20), "sample_id": names, "uri": names, "content_hash": names}
    table = pa.table({**columns, "index": pa.array(range(20), pa.int64())})
    edges = [0, *sorted(cuts), 20]
    parts = [table.slice(first, last - first) for first, last in itertools.pairwise(edges)]
    whole = join_contents([samples_content(table)])
    assert join_contents(map(samples_content, parts)) == whole
    swapped = table.set_column(1, "sample_id", pa.array([names[1], names[0], *names[2:]]))
    assert join_contents([samples_content(swapped)]) != whole
