"""What is done again when the input changes, or only its files' times do: a new machine downloads its images again."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.artifacts.record import Record, Records
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.run.outline import State, outline
from elfs_ray.run.runner import run
from made_records import fingerprints, planned
from small import write_labels_of

PREPARED = ("embed", "neighbors")


@pytest.fixture
def images(small_input, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(small_input[0].iterdir())[:24]:
        shutil.copy(path, folder)
    return folder


def config_of(images: Path, **options):
    values = {"input": str(images), "budgets": [4], "num_classes": 2, "embed.image_size": 32, "neighbors.k": 5}
    return load_config({**values, **options})


def touch(*paths: Path) -> None:
    for path in paths:
        os.utime(path, ns=(1, 1))


def test_files_that_only_got_new_times_are_read_again_and_no_more(images, small_input, tmp_path):
    labels = write_labels_of(images, small_input[1], tmp_path / "labels.csv")
    config = config_of(images, **{"evaluate.labels": str(labels)})
    store = RunFolder(str(tmp_path / "run"))
    before = run(config, store, Reporter(), until="neighbors")["records"]

    touch(*images.iterdir(), labels)
    states = {str(step.unit): step.state for step in outline([config], store, until="neighbors")}
    assert states == {
        **dict.fromkeys(("listing", "ingest", "labels"), State.TO_DO),
        **dict.fromkeys(PREPARED, State.PRESUMED),
    }
    after = run(config, store, Reporter(), until="neighbors")["records"]
    assert all(after[unit]["fingerprint"] != before[unit]["fingerprint"] for unit in ("ingest", "labels"))
    assert all(after[unit]["content"] == before[unit]["content"] for unit in ("ingest", "labels"))
    assert all(after[unit] == before[unit] for unit in PREPARED)
    assert {step.state for step in outline([config], store, until="neighbors")} == {State.COMPLETE}

    one, another = sorted(images.iterdir())[:2]
    shutil.copy(another, one)
    shutil.copy(one, images / f"more-{one.name}")
    assert {step.state for step in outline([config], store, until="neighbors")} == {State.TO_DO}
    (images / f"more-{one.name}").unlink()
    changed = run(config, store, Reporter(), until="neighbors")["records"]
    assert all(changed[unit]["fingerprint"] != after[unit]["fingerprint"] for unit in PREPARED)
    assert changed["labels"]["content"] == before["labels"]["content"]


def test_half_finished_embeddings_survive_new_times(images, tmp_path):
    """The work folder bears the fingerprint of its step."""
    config, store, seen = config_of(images), RunFolder(str(tmp_path / "run")), []
    for _ in range(2):
        run(config, store, Reporter(), until="ingest")
        seen.append(fingerprints(config, num_samples=24, records=store.records()))
        touch(*images.iterdir())
    before, after = seen
    assert before["ingest"] != after["ingest"]
    assert before["embed"] == after["embed"]


def with_content(config, content):
    """Records of an input that holds this, whatever its files are called now."""
    ingest = planned(config, num_samples=24)["ingest"]
    return Records({ingest.unit: Record(ingest.unit, 1, ingest.fingerprint, content)})


def test_labels_in_the_input_may_change_where_its_images_do_not(images, tmp_path):
    files = sorted(images.iterdir())
    table = {"id": [path.name for path in files], "image": [path.read_bytes() for path in files]}
    location = tmp_path / "table.parquet"

    def steps(labels: list[str | None]) -> dict[str, str]:
        pq.write_table(pa.table({**table, "half": labels}), location)
        touch(location)
        config = config_of(location, **{"select.labeled": "column:half"})
        return fingerprints(config, num_samples=24, records=with_content(config, "the same images"))

    before, after = steps([None] * 22 + ["cat", "dog"]), steps([None] * 22 + ["lion", "tiger"])
    assert before["pseudo_labels"] == after["pseudo_labels"]
    assert {unit for unit in before if before[unit] == after[unit]} == {
        *("listing", "embed", "neighbors", "pseudo_labels", "duplicates", "map"),
    }


def test_a_supervised_proxy_rests_on_its_embeddings(images, small_input):
    options = {"select.supervised": True, "evaluate.labels": str(small_input[1])}
    small, large = (
        fingerprints(config_of(images, **options, **{"embed.image_size": side}), num_samples=24) for side in (32, 64)
    )
    assert small["labels"] == large["labels"]
    assert small["supervised/proxy"] != large["supervised/proxy"]
