"""The run folder, on a disk and on object storage: nothing half-written, completeness judged by fingerprint."""

import pickle
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.run_folder import INDEX_FILE, MANIFEST, RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_index, write_part, write_table
from elfs_ray.errors import UsageError
from object_storage import Door

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


def finished_work(store: RunFolder, name: str = "quarantine") -> str:
    work = store.work_folder("ingest", "0123456789abcdef")
    write_table(store, f"{work}/{name}", TABLE, schema.QUARANTINE)
    return work


def test_publish_moves_artifacts_and_records(store):
    work = finished_work(store)
    store.publish("ingest", work, {"quarantine": "quarantine"}, {"fingerprint": "f"})
    assert Table(store, "quarantine").read().to_pylist() == TABLE.to_pylist()
    assert store.is_complete("ingest", "f")
    assert not store.is_complete("ingest", "g")
    assert not store.exists(work)


def test_parts_without_an_index_are_not_published(store):
    work = finished_work(store)
    store.delete(work, "quarantine", INDEX_FILE)
    with pytest.raises(ValueError, match="quarantine has no part index"):
        store.publish("ingest", work, {"quarantine": "quarantine"}, {"fingerprint": "f"})
    assert store.record("ingest") is None


def test_missing_artifact_is_not_complete(store):
    store.publish("ingest", finished_work(store), {"quarantine": "quarantine"}, {"fingerprint": "f"})
    store.delete("quarantine")
    assert not store.is_complete("ingest", "f")


def test_publication_replaces_the_old_artifact(store):
    for fingerprint in ("f", "g"):
        store.publish("ingest", finished_work(store), {"quarantine": "quarantine"}, {"fingerprint": fingerprint})
    assert store.is_complete("ingest", "g")
    assert Table(store, "quarantine").rows == 1


def publication_begun(store: RunFolder) -> str:
    """Two parts and their record, as they are before the first of them is brought to its place."""
    work = store.work_folder("ingest", "0123456789abcdef")
    parts = [write_part(store, f"{work}/quarantine", row, row, TABLE, schema.QUARANTINE) for row in range(2)]
    write_index(store, f"{work}/quarantine", parts, schema.QUARANTINE)
    record = {"unit": "ingest", "fingerprint": "0123456789abcdef", "artifacts": {"quarantine": "quarantine"}}
    store.write_json(record, work, "record.json")
    return work


def check_recovered(store: RunFolder) -> None:
    store.recover()
    assert store.is_complete("ingest", "0123456789abcdef")
    assert Table(store, "quarantine").rows == 2
    assert store.names(".work") == []


def test_interrupted_publication_is_finished(store):
    publication_begun(store)
    check_recovered(store)


def test_publication_interrupted_after_the_move_is_finished(local_store):
    work = publication_begun(local_store)
    local_store.filesystem.move(local_store.path(work, "quarantine"), local_store.path("quarantine"))
    check_recovered(local_store)


def test_publication_interrupted_between_two_copies_is_finished(remote_store):
    work = publication_begun(remote_store)
    part = "quarantine/part-000000.parquet"
    remote_store.filesystem.copy_file(remote_store.path(work, part), remote_store.path(part))
    check_recovered(remote_store)


def test_work_that_was_deleted_in_part_is_not_published_again(remote_store):
    """Killed after the record went, in the middle of the deletion: what is left must not replace what is published."""
    store = remote_store
    work = publication_begun(store)
    parts = {name: store.read_bytes(work, "quarantine", name) for name in store.names(work, "quarantine")}
    store.finish_publishing(work)
    store.write_bytes(parts["part-000001.parquet"], work, "quarantine", "part-000001.parquet")
    check_recovered(store)


def test_the_record_is_the_first_to_go(remote_store, object_storage, monkeypatch):
    """Published, and then the deletion of many files fails: what is left must not look like a publication to finish."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    work = publication_begun(remote_store)
    with Door(object_storage.address, methods=("POST",)) as door:
        door.closed = True
        with pytest.raises(OSError, match="DeleteObjects"):
            RunFolder(remote_store.uri.replace(object_storage.address, door.address)).finish_publishing(work)
    assert remote_store.names(work) == ["quarantine"]
    check_recovered(remote_store)


def test_an_object_that_is_replaced_while_it_is_read(remote_store, object_storage):
    """A longer manifest comes between the question for its size and the reading: it must not come cut off."""
    remote_store.update_manifest(stages={"ingest": {}})
    with Door(object_storage.address) as door:
        reader = RunFolder(remote_store.uri.replace(object_storage.address, door.address))
        door.after_head = lambda: remote_store.update_manifest(stages={"ingest": {}, "labels": {}})
        assert "ingest" in reader.read_json("manifest.json")["stages"]
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
    assert store.names("folder") == ["target"]


def test_work_of_other_options_is_removed(store):
    for fingerprint in ("0" * 16, "1" * 16):
        store.write_bytes(b"x", store.work_folder("embed", fingerprint), "part")
    store.write_bytes(b"x", store.work_folder("test_embed", "2" * 16), "part")
    store.sole_work_folder("embed", "1" * 16)
    assert store.names(".work") == ["embed-" + "1" * 16, "test_embed-" + "2" * 16]


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
    store.publish("ingest", finished_work(store), {"quarantine": "quarantine"}, {"fingerprint": "f"})
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(store.path("quarantine"))["reason"].tolist() == ["empty"]
