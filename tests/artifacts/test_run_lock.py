"""One driver in a run folder, on a disk and on real object storage: living ones are left alone, dead ones replaced."""

import contextlib
import subprocess
import sys
import threading
import time
import uuid

import pytest

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.run_lock import LOCK_OBJECT, Waits, sole_driver
from elfs_ray.console import Reporter
from elfs_ray.errors import RunError, UsageError
from forked import FORKS
from object_storage import CONDITIONS, Door
from small import Lines

QUICK = Waits(renewed=0.2, expires=1.5, look=0.05, settled=0.1)
ASLEEP = Waits(renewed=600, expires=0.5, look=0.05, settled=0.1)
"""Of an owner that stands still: it renews nothing unless it is asked."""


STORES = {"S3": (), "a store that compares nothing": CONDITIONS, "one that compares new objects": ("If-Match",)}


@pytest.fixture(params=STORES)
def remote(object_storage, request):
    with Door(object_storage.address, drops=STORES[request.param]) as door:
        yield RunFolder(object_storage.uri(f"photos/locks/{uuid.uuid4().hex}", door.address))


@pytest.fixture(params=["disk", "S3", "a store that compares nothing"])
def store(request, tmp_path, object_storage):
    if request.param == "disk":
        yield RunFolder(str(tmp_path / "run"))
        return
    with Door(object_storage.address, drops=STORES[request.param]) as door:
        yield RunFolder(object_storage.uri(f"photos/locks/{uuid.uuid4().hex}", door.address))


def hold(uri, held):
    """A driver in a process of its own, until it is killed."""
    with sole_driver(RunFolder(uri), Reporter(), QUICK):
        held.set()
        time.sleep(600)


@contextlib.contextmanager
def other_process(store):
    held = FORKS.Event()
    process = FORKS.Process(target=hold, args=(store.uri, held))
    process.start()
    try:
        assert held.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_another_process_is_left_alone_until_it_is_killed(store):
    with other_process(store) as process:
        with pytest.raises(UsageError, match="; wait for it or choose"), sole_driver(store, Lines(), QUICK):
            pass
        process.kill()
        process.join()
        with sole_driver(store, Lines(), QUICK) as check:
            check()


def test_the_next_one_need_not_wait(remote):
    for _ in range(2):
        said = Lines()
        with sole_driver(remote, said, QUICK):
            assert remote.exists(LOCK_OBJECT)
        assert said.lines == []


def test_it_waits_as_long_as_the_owner_said(remote):
    """Not as long as itself would hold it: the other was started with another patience."""
    remote.write_json({"owner": "x", "host": "spot-7", "renewed": 3, "expires": 2.0}, LOCK_OBJECT)
    said, begun = Lines(), time.monotonic()
    with sole_driver(remote, said, QUICK):
        assert time.monotonic() - begun >= 2
    assert said.lines == ["  a process on spot-7 worked here; waiting up to 2 s to see if it still does"]


@pytest.mark.parametrize("left", ["nothing", "a lock that was given back", "the lock of a dead driver"])
def test_of_many_that_begin_at_once_one_wins(object_storage, left):
    """In threads that begin together, each with clients of its own; whoever wins holds it until all have tried."""
    rounds, drivers = 8, 5
    with Door(object_storage.address) as door:
        for number in range(rounds):
            store = RunFolder(object_storage.uri(f"photos/locks/{uuid.uuid4().hex}-{number}", door.address))
            if left != "nothing":
                owner = "x" if left == "the lock of a dead driver" else None
                store.write_json({"owner": owner, "host": "spot-7", "renewed": 3, "expires": 0.2}, LOCK_OBJECT)
            begun, tried, won, refused = threading.Barrier(drivers), threading.Barrier(drivers), [], []

            def drive(store=store, begun=begun, tried=tried, won=won, refused=refused):
                own = RunFolder(store.uri)
                begun.wait(60)
                try:
                    with sole_driver(own, Reporter(), Waits(renewed=0.2, expires=60, look=0.05)) as check:
                        tried.wait(60)
                        check()
                        won.append(check)
                except UsageError as error:
                    refused.append(str(error))
                    tried.wait(60)

            threads = [threading.Thread(target=drive) for _ in range(drivers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert (len(won), len(refused)) == (1, drivers - 1)
            assert all("is working on" in text for text in refused)


def test_one_that_was_taken_over_sees_it_before_it_publishes(remote):
    with sole_driver(remote, Lines(), ASLEEP) as check:
        check()
        with sole_driver(remote, Lines(), QUICK) as check_other:
            with pytest.raises(RunError, match="another process took over"):
                check()
            check_other()
    with sole_driver(remote, Lines(), QUICK) as check:  # nobody's: the first gave back only what was its own
        check()


def test_a_look_keeps_others_away(remote):
    """Who looks just before the lock expires has it for as long again."""
    ended = threading.Event()
    with sole_driver(remote, Lines(), ASLEEP) as check:

        def look():
            while not ended.wait(0.1):
                check()

        looking = threading.Thread(target=look)
        looking.start()
        with pytest.raises(UsageError, match="is working on"), sole_driver(remote, Lines(), QUICK):
            pass
        ended.set()
        looking.join()
        check()


def test_storage_that_is_away_for_a_while_changes_nothing(object_storage, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with Door(object_storage.address) as door:
        store = RunFolder(object_storage.uri(f"photos/locks/{uuid.uuid4().hex}", door.address))
        with sole_driver(store, Lines(), QUICK) as check:
            door.closed = True
            while door.refused < 3:
                time.sleep(0.05)
            with pytest.raises(OSError, match="AWS Error SLOW_DOWN"):
                check()
            door.closed = False
            before = store.read_json(LOCK_OBJECT)["renewed"]
            while store.read_json(LOCK_OBJECT)["renewed"] == before:
                time.sleep(0.05)
            check()


@pytest.mark.parametrize("attempts", ["1", "10", "30"])
def test_a_lock_outlasts_the_most_patient_request_of_its_owner(monkeypatch, attempts):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    waits, each = Waits(), filesystems.REQUEST_SECONDS
    assert waits.expires >= waits.renewed + max(int(attempts), filesystems.QUICK_ATTEMPTS) * each


def test_a_local_run_needs_no_boto3(tmp_path):
    code = (
        "import sys; from elfs_ray.artifacts.run_lock import *\n"
        f"with sole_driver(RunFolder({str(tmp_path / 'run')!r}), Reporter()) as check: check()\n"
        "assert 'boto3' not in sys.modules and 'botocore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
