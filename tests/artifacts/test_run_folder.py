"""The run folder, on a disk and on object storage: nothing half-written, completeness judged by fingerprint."""

import pickle
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.manifest import MANIFEST
from elfs_ray.artifacts.record import Record, Unit
from elfs_ray.artifacts.run_folder import INDEX_FILE, RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.errors import UsageError
from object_storage import Door

INGEST = Unit("ingest")
TABLE = pa.table({"sample_id": ["a"], "uri": ["/a"], "stage": ["ingest"], "reason": ["empty"]})


@pytest.fixture
def local_store(tmp_path):
    return RunFolder(str(tmp_path / "run"))


@pytest.fixture
def remote_store(object_storage):
    return RunFolder(object_storage.uri(f"photos/stores/{uuid.uuid4().hex}"))


@pytest.fixture(params=["local_store", "remote_store"])
def store(request):
    return request.getfixturevalue(request.param)


def publish(store: RunFolder, fingerprint: str) -> None:
    work = store.work_folder(INGEST, fingerprint)
    write_table(store, f"{work}/rejected", TABLE, schema.QUARANTINE)
    record = Record(INGEST, 1, fingerprint, fingerprint, artifacts=("quarantine",))
    store.publish(work, record, {"quarantine": "rejected"})


def is_complete(store: RunFolder, fingerprint: str) -> bool:
    return store.is_complete(store.records().get(INGEST), fingerprint)


def test_publish_moves_artifacts_and_records(store):
    for fingerprint in ("f", "g"):
        publish(store, fingerprint)
        assert Table(store, "quarantine").read().to_pylist() == TABLE.to_pylist()
        assert is_complete(store, fingerprint)
    assert not is_complete(store, "f")
    assert store.names(".work") == []


def test_parts_without_an_index_are_not_published(store):
    work = store.work_folder(INGEST, "f")
    write_table(store, f"{work}/rejected", TABLE, schema.QUARANTINE)
    store.delete(work, "rejected", INDEX_FILE)
    with pytest.raises(ValueError, match="quarantine has no part index"):
        store.publish(work, Record(INGEST, 1, "f", "f", artifacts=("quarantine",)), {"quarantine": "rejected"})
    assert not store.records()


def test_missing_artifact_is_not_complete(store):
    publish(store, "f")
    store.delete("quarantine")
    assert not is_complete(store, "f")


def test_an_object_that_is_replaced_while_it_is_read(remote_store, object_storage):
    """A longer manifest comes between the question for its size and the reading: it must not come cut off."""
    remote_store.update_manifest(records={"ingest": {}})
    with Door(object_storage.address) as door:
        reader = RunFolder(remote_store.uri.replace(object_storage.address, door.address))
        door.after_head = lambda: remote_store.update_manifest(records={"ingest": {}, "labels": {}})
        assert "ingest" in reader.read_json("manifest.json")["records"]
        assert door.after_head is None


def test_table_that_breaks_its_schema_is_not_written(store):
    nulls = TABLE.set_column(3, "reason", pa.nulls(1, pa.string()))
    with pytest.raises(ValueError, match="'reason' with null values to non-nullable"):
        store.write_table(nulls, schema.QUARANTINE, "quarantine", "part.parquet")
    assert store.names("quarantine") == []


def test_vectors_are_stored_as_they_are_and_ids_as_codes(local_store):
    """Parquet codes values by default, which is the slower way for numbers of which none comes twice."""
    ids, similarity = ([[number] * 2 for number in range(3)] for _ in range(2))
    table = pa.table({"sample_id": list("abc"), "index": range(3), "ids": ids, "similarity": similarity})
    local_store.write_table(table, schema.neighbors(2), "neighbors.parquet")
    group = pq.read_metadata(local_store.path("neighbors.parquet")).row_group(0)
    coded = [group.column(number).has_dictionary_page for number in range(group.num_columns)]
    assert coded == [True, True, True, False]


def test_failed_write_leaves_nothing(local_store):
    """A file cannot take the place of a folder: the write fails at the rename, and the temporary file goes too."""
    store = local_store
    store.write_bytes(b"inner", "folder", "target", "inner")
    with pytest.raises(OSError, match="target"):
        store.write_bytes(b"data", "folder", "target")
    assert (store.names("folder"), store.names(".tmp")) == (["target"], [])


def test_work_of_other_options_is_removed(store):
    embed = Unit("embed")
    for fingerprint in ("0" * 16, "1" * 16):
        store.write_bytes(b"x", store.work_folder(embed, fingerprint), "part")
    store.write_bytes(b"x", store.work_folder(Unit("embed", "test"), "2" * 16), "part")
    store.sole_work_folder(embed, "1" * 16)
    assert store.names(".work") == ["embed-" + "1" * 16, "test-embed-" + "2" * 16]


def test_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = pickle.loads(pickle.dumps(RunFolder("run")))
    monkeypatch.chdir("/")
    assert store.path("a") == str(tmp_path / "run" / "a")


def test_damaged_manifest_is_named(store):
    store.write_bytes(b"{", MANIFEST)
    with pytest.raises(UsageError, match=r"manifest.json is damaged; remove the run folder"):
        store.manifest()


def test_artifacts_read_back_with_pandas(local_store):
    store = local_store
    publish(store, "f")
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(store.path("quarantine"))["reason"].tolist() == ["empty"]
