"""Input, labels and run folder on a real S3-compatible server: the same coreset as on a disk, and plain refusals."""

import io
import os
import pickle
import tempfile
import threading
import uuid
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from elfs_ray import select
from elfs_ray.artifacts import stores
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.run_lock import LOCK_OBJECT
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.data.files import read_uri
from elfs_ray.data.sources import open_source, source_of
from elfs_ray.encoders.weights import read_state_dict
from elfs_ray.errors import RunError, UsageError
from elfs_ray.run.runner import run
from forked import Command
from given_labels import read_labels
from image_files import encode
from object_storage import SECRET, Door
from small import BUDGET, NUM_IMAGES, OPTIONS, Lines, command_line, sections

STRANGE_NAMES = ["a b.png", "c%41.png", "d?e=f.png", "g#h.png", "ü/日本.png", "plain.png"]


def png(level=0):
    return encode(Image.new("L", (8, 8), level))


@pytest.fixture
def folder(object_storage):
    """A folder of its own in the bucket."""
    return f"photos/{uuid.uuid4().hex}"


class TestLocations:
    def test_any_name_of_an_object_is_read(self, object_storage, folder):
        for number, name in enumerate(STRANGE_NAMES):
            object_storage.put(png(number), f"{folder}/my images/{name}")
        location = object_storage.uri(f"{folder}/my%20images")
        source = open_source(location)
        rows = pa.concat_tables([source.read(chunk) for chunk in source.chunks])
        assert rows["sample_id"].to_pylist() == sorted(STRANGE_NAMES)
        assert rows["error"].null_count == len(STRANGE_NAMES)
        assert rows["image"].to_pylist() == [png(STRANGE_NAMES.index(name)) for name in sorted(STRANGE_NAMES)]
        for uri, data in zip(rows["uri"].to_pylist(), rows["image"].to_pylist(), strict=True):
            assert uri.startswith(f"s3://{folder}/my%20images/")
            assert "endpoint" not in uri
            assert read_uri(uri, location) == data

    def test_a_space_may_be_typed(self, object_storage, folder):
        object_storage.put(png(), f"{folder}/my images/1.png")
        assert open_source(object_storage.uri(f"{folder}/my images")).count == 1

    def test_an_object_that_goes_away_is_a_reason(self, object_storage, folder):
        for name in ("1.png", "2.png"):
            object_storage.put(png(), f"{folder}/{name}")
        source = open_source(object_storage.uri(folder))
        object_storage.filesystem.delete_file(f"{folder}/1.png")
        errors = source.read(source.chunks[0])["error"].to_pylist()
        assert "the file cannot be read" in errors[0]
        assert errors[1] is None

    def test_a_store_that_does_not_answer_says_nothing_of_the_images(self, object_storage, folder, monkeypatch):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        object_storage.put(png(), f"{folder}/1.png")
        listed = open_source(object_storage.uri(folder))
        source = source_of(replace(listed.about, location=object_storage.uri(folder, "127.0.0.1:1")), listed.entries)
        with pytest.raises(RunError, match=r"cannot be read now \(AWS Error NETWORK_CONNECTION"):
            source.read(source.chunks[0])

    def test_a_table_names_objects_beside_it(self, object_storage, folder):
        object_storage.put(png(7), f"{folder}/images/a b.png")
        table = io.BytesIO()
        names = ["images/a b.png", f"s3://{folder}/images/a%20b.png"]
        pq.write_table(pa.table({"id": ["x", "y"], "path": names}), table)
        object_storage.put(table.getvalue(), f"{folder}/table.parquet")
        source = open_source(object_storage.uri(f"{folder}/table.parquet"))
        rows = source.read(source.chunks[0])
        assert rows["image"].to_pylist() == [png(7), png(7)]
        assert rows["uri"].to_pylist() == [f"s3://{folder}/images/a%20b.png"] * 2

    def test_labels(self, object_storage, folder):
        object_storage.put(b"id,label\n007,cat\n008,dog\n", f"{folder}/labels.csv")
        labels, classes = read_labels(object_storage.uri(f"{folder}/labels.csv"), ["008", "007"], source="")
        assert (labels.tolist(), classes) == ([1, 0], ["cat", "dog"])

    def test_weights_are_fetched_once(self, object_storage, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        torch.save({"layer.weight": torch.ones(3)}, tmp_path / "saved.pt")
        object_storage.put((tmp_path / "saved.pt").read_bytes(), f"{folder}/weights.pt")
        location = object_storage.uri(f"{folder}/weights.pt")
        assert read_state_dict(location)["layer.weight"].tolist() == [1, 1, 1]
        [copy] = tmp_path.glob("elfs-ray-*/weights/*.pt")
        torch.save({"layer.weight": torch.zeros(3)}, copy)
        assert read_state_dict(location)["layer.weight"].tolist() == [0, 0, 0]
        with pytest.raises(UsageError, match=r"weights file s3://.*none\.pt.* does not exist"):
            read_state_dict(object_storage.uri(f"{folder}/none.pt"))

    def test_the_endpoint_of_the_environment(self, object_storage, folder, monkeypatch):
        object_storage.put(b"data", f"{folder}/x")
        monkeypatch.setenv("AWS_ENDPOINT_URL", object_storage.endpoint)
        assert read_uri(f"s3://{folder}/x") == b"data"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", object_storage.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert read_uri(f"s3://{folder}/x") == b"data"

    def test_another_process_gets_the_endpoint_and_no_secret(self, object_storage, folder, monkeypatch):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
        pickled = pickle.dumps(RunFolder(object_storage.uri(folder)).filesystem)
        assert SECRET.encode() not in pickled
        assert pickle.loads(pickled).__reduce__() == (stores.S3, (None, "http", object_storage.address, 4))
        pickle.loads(pickled).create_dir(folder)


@pytest.fixture
def right(object_storage, folder):
    """A complete and right `run`, but for the option that a test changes."""
    for number in range(4):
        object_storage.put(png(number), f"{folder}/in/{number}.png")
    options = {"--input": object_storage.uri(f"{folder}/in"), "--out": object_storage.uri(f"{folder}/run")}
    return options | {"--budget": "2", "--num-classes": "2"}


WRONG = {
    # name: (option, value, what the line says)
    "bucket of the run": ("--out", "s3://nobucket/run?{query}", "bucket 'nobucket' of s3://nobucket/run"),
    "bucket of the input": ("--input", "s3://nobucket/in?{query}", "s3://nobucket/in?{query} does not exist"),
    "no such folder": ("--input", "s3://photos/none?{query}", "s3://photos/none?{query} does not exist"),
    "no bucket": ("--input", "s3://", "s3:// names no bucket; pass s3://BUCKET/PATH"),
    "unknown option": ("--out", "s3://photos/run?endpoint=x", "unknown option 'endpoint'; known: endpoint_override"),
    "nothing answers": ("--out", "s3://photos/run?endpoint_override=127.0.0.1:1&scheme=http", "Could not connect"),
    "secret in the input": ("--input", f"s3://key:{SECRET}@photos/in", "must not hold credentials"),
    "secret in the run": ("--out", f"s3://key:{SECRET}/more@photos/run", "must not hold credentials"),
    "secret in the labels": ("--labels", f"s3://key:{SECRET}@photos/x.csv", "must not hold credentials"),
}


class TestRefusals:
    @pytest.mark.parametrize("name", WRONG)
    def test_before_the_run(self, call, right, object_storage, folder, name):
        query = f"endpoint_override={object_storage.address}&scheme=http"
        option, value, message = (part.format(query=query) for part in WRONG[name])
        options = right | {option: value}
        code, _, err = call("run", *(f"{key}={value}" for key, value in options.items()))
        assert code == 2, err
        assert message in err
        assert err.count("\n") == 1
        assert SECRET not in err
        assert not object_storage.filesystem.get_file_info(f"{folder}/run").is_file
        assert object_storage.paths(folder) == [f"{folder}/in/{number}.png" for number in range(4)]

    @pytest.mark.parametrize("command", ["run", "status", "embed"])
    def test_wrong_credentials(self, call, right, object_storage, command):
        arguments = [f"{key}={value}" for key, value in right.items()] if command == "run" else [right["--out"]]
        with object_storage.checked_credentials():
            code, _, err = call(command, *arguments)
        assert code == 2, err
        assert err.count("\n") == 1
        assert "AWS Error ACCESS_DENIED" in err
        assert SECRET not in err

    def test_attempts_that_are_no_count(self, call, right, monkeypatch):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
        code, _, err = call("run", *(f"{key}={value}" for key, value in right.items()))
        assert (code, err.count("\n")) == (2, 1)
        assert "AWS_MAX_ATTEMPTS is 'many'; set it to a count from 1 on" in err

    def test_storage_that_closes_during_the_run(self, object_storage, right, monkeypatch):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        with Door(object_storage.address) as door:
            door.closed = True
            out = right["--out"].replace(object_storage.address, door.address)
            config = load_config({"input": right["--input"], "budgets": [2], "num_classes": 2})
            with pytest.raises(RunError, match=r"does not answer as it should .* run the same command again"):
                run(config, RunFolder(out), Reporter())
        assert door.refused == 2


def test_table_input(object_storage, small_input, folder):
    """Bytes in a Parquet file; and a run folder that is moved to another address goes on."""
    images = sorted(small_input[0].iterdir())[:20]
    columns = {"id": [path.name for path in images], "image": [path.read_bytes() for path in images]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    object_storage.put(buffer.getvalue(), f"{folder}/table.parquet")
    table, out = object_storage.uri(f"{folder}/table.parquet"), object_storage.uri(f"{folder}/run")
    config = load_config({"input": table, "budgets": [2], "num_classes": 2})
    manifest = run(config, RunFolder(out), Reporter(), until="ingest")
    assert manifest["records"]["ingest"]["metrics"]["samples"] == 20
    assert Table(RunFolder(out), "samples").read()["sample_id"].to_pylist() == columns["id"]
    with Door(object_storage.address) as door:
        moved = [location.replace(object_storage.address, door.address) for location in (table, out)]
        config = load_config({"input": moved[0], "budgets": [2], "num_classes": 2})
        again = run(config, RunFolder(moved[1]), Reporter(), until="ingest")
    assert again["records"] == manifest["records"]


@pytest.mark.slow
def test_the_whole_run(small_run, small_input, object_storage, folder):
    """Storage refuses writes until the run gives up, then for seconds at a time: the same coreset as on a disk."""
    images, labels = small_input
    object_storage.upload(images, f"{folder}/images")
    object_storage.put(labels.read_bytes(), f"{folder}/labels.csv")
    run_dir = RunFolder(object_storage.uri(f"{folder}/run"))
    with Door(object_storage.address) as door:
        # 1. A process with its own Ray, which finds the endpoint in its environment, and the door closed at `embed`.
        arguments = command_line(f"s3://{folder}/images", f"s3://{folder}/labels.csv", f"s3://{folder}/run")
        endpoint = {"AWS_ENDPOINT_URL": f"http://{door.address}", "AWS_MAX_ATTEMPTS": "2"}
        command = Command(arguments, environment={**os.environ, **endpoint})
        command.wait_until(lambda: "labels" in run_dir.manifest().get("records", {}))
        door.closed = True
        status, errors = command.ended()
        door.closed = False
        assert (status, errors.count("\n")) == (1, 1), errors
        assert "AWS Error" in errors
        assert "run the same command again" in errors
        assert set(run_dir.manifest()["records"]) == {"listing", "ingest", "labels"}
        # It could not give its lock back. How long the next one waits is tested apart.
        run_dir.write_json({**run_dir.read_json(LOCK_OBJECT), "expires": 0.1}, LOCK_OBJECT)

        # 2. The same run in this process, without Ray, through a door that closes for two seconds in every eight.
        refused, ended = door.refused, threading.Event()
        swinging = threading.Thread(target=swing, args=(door, ended))
        swinging.start()
        lines = Lines()
        try:
            result = run_again(object_storage, door, folder, lines)
        finally:
            ended.set()
            swinging.join()
        assert door.refused > refused
    assert "ingest" in lines.units["there"]

    columns = ["sample_id", "index", "rank", "score", "pseudo_label"]
    assert result.table.select(columns).equals(small_run.table.select(columns))
    assert result.table["uri"].to_pylist()[0].startswith(f"s3://{folder}/images/")
    local = RunFolder(small_run.run_dir)
    for artifact in ("embeddings", "neighbors", "pseudo_labels", "dynamics", "labels_true"):
        assert Table(run_dir, artifact).read().equals(Table(local, artifact).read()), artifact
    assert Table(run_dir, "samples").read()["index"].to_pylist() == list(range(NUM_IMAGES))
    assert run_dir.names(".work") == []
    assert "data:image/jpeg" in run_dir.read_bytes("report.html").decode()

    # 3. Nothing is left to do, and no object holds the secret.
    lines = Lines()
    again = run_again(object_storage, None, folder, lines)
    assert again.table.equals(result.table)
    assert set(lines.units["there"]) == set(result.manifest["records"])
    assert again.report == f"s3://{folder}/run/report.html"
    for path in object_storage.paths(f"{folder}/run"):
        assert SECRET.encode() not in object_storage.filesystem.open_input_file(path).read(), path


def run_again(object_storage, door, folder, reporter):
    address = door.address if door else None
    labels = object_storage.uri(f"{folder}/labels.csv", address)
    return select(
        object_storage.uri(f"{folder}/images", address),
        budget=BUDGET,
        num_classes=10,
        out=object_storage.uri(f"{folder}/run", address),
        reporter=reporter,
        **sections({**OPTIONS, "ray.mode": "never", "evaluate.labels": labels}),
    )


def swing(door, ended):
    while not ended.is_set():
        door.closed = True
        ended.wait(2)
        door.closed = False
        ended.wait(6)
