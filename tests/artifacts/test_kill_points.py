"""A driver killed before, within and after every write, rename, copy and deletion; and a disk that loses its power."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
import zlib
from pathlib import Path
from types import MappingProxyType

import pytest

import kill_points
from elfs_ray.artifacts.run_folder import RunFolder
from kill_points import BEGUN, NOW, Counter, contents, drive, finished_rows, prepare, turn_away, watched


@pytest.fixture
def new(request, tmp_path, monkeypatch):
    """Makes run folders that hold some files, on a disk or on object storage."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what is killed leaves to the system what it wrote
    storage = request.getfixturevalue("object_storage") if request.param == "object storage" else None

    def make(files=MappingProxyType({})):
        name = uuid.uuid4().hex
        store = RunFolder(storage.uri(f"photos/kills/{name}") if storage else str(tmp_path / name))
        for path, data in files.items():
            store.write_bytes(data, path)
        return store

    return make


@contextlib.contextmanager
def killer():
    """Drives a run folder until it kills itself before a step."""
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, kill_points.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )

    def kill(store, name, program, last):
        print(json.dumps([store.uri, name, program, last]), file=process.stdin, flush=True)
        assert os.waitstatus_to_exitcode(int(process.stdout.readline())) == -signal.SIGKILL

    with process:
        yield kill
        process.stdin.close()


# What is stored is all the same to object storage; each step takes longer there.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("new", "name"), [("disk", "rows"), ("disk", "kinds"), ("object storage", "few")], indirect=["new"]
)
def test_killed_at_every_step(new, name):
    store, counter = new(), Counter()
    prepare(store, name)
    begun = contents(store)
    drive(watched(store, counter), name, NOW)
    expected = contents(store)
    with killer() as kill:
        for last in range(1, counter.count + 1):
            store = new(begun)
            kill(store, name, "drive", last)
            drive(store, name, NOW)
            assert contents(store) == expected, last


@pytest.mark.slow
@pytest.mark.parametrize("new", ["disk", "object storage"], indirect=True)
def test_pixels_that_are_decoded_in_part_are_gone_on_with(new):
    store, counter = new(), Counter()
    kill_points.take_in(store)
    begun = contents(store)
    kill_points.decode(watched(store, counter))
    expected = contents(store)
    assert sum(name.startswith("pixels/2-1-now/") for name in expected) == 3  # two parts and their index
    with killer() as kill:
        for last in range(1, counter.count + 1):
            store = new(begun)
            kill(store, "", "decode", last)
            kill_points.decode(store)
            assert contents(store) == expected, last


@pytest.mark.parametrize("new", ["disk", "object storage"], indirect=True)
def test_work_that_is_deleted_in_part_is_not_gone_on_with(new):
    store, counter = new(), Counter()
    prepare(store, "rows")
    begun, work = contents(store), store.work_folder(list(kill_points.UNITS["rows"])[-1], BEGUN)
    expected = finished_rows(store, work)
    assert contents(store) == begun
    turn_away(watched(store, counter), "rows")
    with killer() as kill:
        for last in range(1, counter.count + 1):
            store = new(begun)
            kill(store, "rows", "turn away", last)
            store.recover()
            assert finished_rows(store, work) == expected, last


class Power:
    """A disk that keeps, when its power goes, only what was synced."""

    def __init__(self, root):
        self._root, self._files, self._folders, self._held = root, {}, {}, {}

    def fsync(self, descriptor):
        path, number = os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_ino
        self._held.setdefault(number, os.dup(descriptor))  # so that no other file gets this number
        if os.path.isdir(path):
            self._folders[number] = names_in(path)
        else:
            self._files[number] = Path(path).read_bytes()

    def left(self, is_late, path="", number=None):
        """Contents as they were synced, under the names that were; where `is_late` says so of a folder, those of now.

        The system writes a folder back when it likes, so it may know of a change and another folder of none before it.
        """
        path, number = path or self._root, number or os.stat(self._root).st_ino
        names = names_in(self._held.get(number, path)) if is_late(path) else self._folders.get(number, {})
        return {
            name: self.left(is_late, f"{path}/{name}", child) if is_folder else self._files.get(child, b"")
            for name, (child, is_folder) in names.items()
        }


def names_in(folder):
    with os.scandir(folder) as entries:
        return {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}


def write(tree, path):
    path.mkdir()
    for name, found in tree.items():
        write(found, path / name) if isinstance(found, dict) else (path / name).write_bytes(found)


@pytest.mark.slow
@pytest.mark.parametrize("late", ["none", "all", "some", "others"])
def test_power_that_goes_at_any_step(tmp_path, monkeypatch, late):
    store, left = RunFolder(str(tmp_path / "run")), []
    power = Power(store.path())

    def is_late(path):
        chance = zlib.crc32(f"{path.removeprefix(store.path())} {len(left)}".encode()) // 7 % 2
        return {"none": False, "all": True, "some": chance, "others": not chance}[late]

    def note():
        tree = power.left(is_late)
        if not left or tree != left[-1]:
            left.append(tree)

    monkeypatch.setattr(os, "fsync", power.fsync)
    prepare(store, "rows")
    drive(watched(store, note), "rows", NOW)
    note()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    assert len(left) > 20
    for number, tree in enumerate(left):
        again = RunFolder(str(tmp_path / str(number)))
        write(tree, Path(again.path()))
        drive(again, "rows", NOW)
        assert contents(again) == contents(store), number
