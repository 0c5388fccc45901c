"""The run folder: nothing half-written, interrupted publications completed, completeness judged by fingerprint."""

import pickle

import pyarrow as pa
import pytest

from elfs_ray import schema
from elfs_ray.errors import UsageError
from elfs_ray.store import MANIFEST, Store

TABLE = pa.table({"sample_id": ["a"], "uri": ["/a"], "stage": ["ingest"], "reason": ["empty"]})


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def finished_work(store: Store, name: str = "quarantine") -> str:
    work = store.work_folder("ingest", "0123456789abcdef")
    store.write_table(TABLE, schema.QUARANTINE, work, name, "part-000000.parquet")
    return work


def test_publish_moves_artifacts_and_records(store):
    work = finished_work(store)
    store.publish("ingest", work, {"quarantine": "quarantine"}, {"fingerprint": "f"})
    assert store.read_table("quarantine").to_pylist() == TABLE.to_pylist()
    assert store.is_complete("ingest", "f")
    assert not store.is_complete("ingest", "g")
    assert not store.exists(work)


def test_missing_artifact_is_not_complete(store):
    store.publish("ingest", finished_work(store), {"quarantine": "quarantine"}, {"fingerprint": "f"})
    store.delete("quarantine")
    assert not store.is_complete("ingest", "f")


def test_publication_replaces_the_old_artifact(store):
    for fingerprint in ("f", "g"):
        store.publish("ingest", finished_work(store), {"quarantine": "quarantine"}, {"fingerprint": fingerprint})
    assert store.is_complete("ingest", "g")
    assert store.count_rows("quarantine") == 1


@pytest.mark.parametrize("moved_before_the_kill", [False, True])
def test_interrupted_publication_is_finished(store, moved_before_the_kill):
    work = finished_work(store)
    record = {"unit": "ingest", "fingerprint": "f", "artifacts": {"quarantine": "quarantine"}}
    store.write_json(record, work, "record.json")
    if moved_before_the_kill:
        store.filesystem.move(store.path(work, "quarantine"), store.path("quarantine"))
    assert store.finish_publishing(work)
    assert store.is_complete("ingest", "f")
    assert not store.finish_publishing(work)


def test_table_that_breaks_its_schema_is_not_written(store):
    nulls = TABLE.set_column(3, "reason", pa.nulls(1, pa.string()))
    with pytest.raises(ValueError, match="'reason' with null values to non-nullable"):
        store.write_table(nulls, schema.QUARANTINE, "quarantine", "part.parquet")
    assert store.names("quarantine") == []


def test_failed_write_leaves_nothing(store):
    """A file cannot take the place of a folder: the write fails at the rename, and the temporary file goes too."""
    store.write_bytes(b"inner", "folder", "target", "inner")
    with pytest.raises(OSError, match="target"):
        store.write_bytes(b"data", "folder", "target")
    assert store.names("folder") == ["target"]


def test_work_of_other_options_is_removed(store):
    for fingerprint in ("0" * 16, "1" * 16):
        store.write_bytes(b"x", store.work_folder("embed", fingerprint), "part")
    store.write_bytes(b"x", store.work_folder("test_embed", "2" * 16), "part")
    store.work_folder("embed", "1" * 16)
    assert store.names(".work") == ["embed-" + "1" * 16, "test_embed-" + "2" * 16]


def test_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = pickle.loads(pickle.dumps(Store("run")))
    monkeypatch.chdir("/")
    assert store.path("a") == str(tmp_path / "run" / "a")


def test_damaged_manifest_is_named(store):
    store.write_bytes(b"{", MANIFEST)
    with pytest.raises(UsageError, match=r"manifest.json is damaged; remove the run folder"):
        store.manifest()


def test_artifacts_read_back_with_pandas(store):
    store.publish("ingest", finished_work(store), {"quarantine": "quarantine"}, {"fingerprint": "f"})
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(store.path("quarantine"))["reason"].tolist() == ["empty"]
