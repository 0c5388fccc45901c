"""One driver in a run folder, on a disk and on real object storage: living ones are left alone, dead ones replaced."""

import contextlib
import multiprocessing
import time
import uuid

import pytest

from elfs_ray.artifacts import run_lock
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.run_lock import LEASE
from elfs_ray.console import Reporter
from elfs_ray.errors import RunError, UsageError
from object_storage import Door


class Lines(Reporter):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def quick(monkeypatch):
    """Shorter waits, in the same proportions."""
    for name, seconds in {"RENEWED": 0.2, "EXPIRES": 1.5, "SETTLED": 0.1, "LOOK": 0.05}.items():
        monkeypatch.setattr(run_lock, f"{name}_SECONDS", seconds)


@pytest.fixture
def remote(object_storage):
    return RunFolder(object_storage.uri(f"photos/leases/{uuid.uuid4().hex}"))


@pytest.fixture(params=["disk", "object storage"])
def store(request, tmp_path, remote):
    return remote if request.param == "object storage" else RunFolder(str(tmp_path / "run"))


def hold(uri, renewed_seconds, held):
    """A driver in a process of its own, until it is killed."""
    run_lock.RENEWED_SECONDS = renewed_seconds
    with run_lock.sole_driver(RunFolder(uri), Reporter()):
        held.set()
        time.sleep(600)


def check_for_a_minute(check):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        check()
        time.sleep(0.05)


@contextlib.contextmanager
def other_process(store):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(store.uri, run_lock.RENEWED_SECONDS, held))
    process.start()
    try:
        assert held.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_another_process_is_left_alone_until_it_is_killed(store, quick):
    with other_process(store) as process:
        with pytest.raises(UsageError, match="; wait for it or choose"), run_lock.sole_driver(store, Lines()):
            pass
        process.kill()
        process.join()
        with run_lock.sole_driver(store, Lines()) as check:
            check()


def test_the_next_one_need_not_wait(remote, quick):
    with run_lock.sole_driver(remote, Lines()):
        assert remote.exists(LEASE)
    assert not remote.exists(LEASE)
    said = Lines()
    with run_lock.sole_driver(remote, said):
        assert said.lines == []


def test_one_that_expired_says_why_it_waits(remote, quick):
    remote.write_json({"owner": "x", "host": "spot-7", "renewed": 3}, LEASE)
    said, begun = Lines(), time.monotonic()
    with run_lock.sole_driver(remote, said):
        assert time.monotonic() - begun >= run_lock.EXPIRES_SECONDS
    assert said.lines == ["  a process on spot-7 worked here; waiting up to 2 s to see if it still does"]


def test_of_two_at_once_the_last_writer_stays(remote, quick, monkeypatch):
    """Another writes between our writing and our reading it back."""
    pause = time.sleep
    another = {"owner": "x", "host": "spot-7", "renewed": 1}
    monkeypatch.setattr(time, "sleep", lambda seconds: (pause(seconds), remote.write_json(another, LEASE)))
    with pytest.raises(UsageError, match="on spot-7, is working on"), run_lock.sole_driver(remote, Lines()):
        pass
    assert remote.read_json(LEASE) == another


def test_one_that_was_taken_over_stops(remote, quick):
    with run_lock.sole_driver(remote, Lines()) as check:
        remote.write_json({"owner": "x", "host": "spot-7", "renewed": 1}, LEASE)
        with pytest.raises(RunError, match="another process took over"):
            check_for_a_minute(check)
    assert remote.read_json(LEASE)["owner"] == "x"


def test_storage_that_is_away_for_a_while_changes_nothing(object_storage, quick, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with Door(object_storage.address) as door:
        store = RunFolder(object_storage.uri(f"photos/leases/{uuid.uuid4().hex}", door.address))
        with run_lock.sole_driver(store, Lines()) as check:
            door.closed = True
            while door.refused < 3:
                time.sleep(0.05)
            door.closed = False
            before = store.read_json(LEASE)["renewed"]
            while store.read_json(LEASE)["renewed"] == before:
                time.sleep(0.05)
            check()
