"""A disk that really is full in the middle of a run: one line, nothing half-written, and with more room it goes on."""

import subprocess

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from forked import Command
from small import command_line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with almost no room, and a way to enlarge it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.strip()}")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
def test_disk_full(small_disk, small_input, small_run):
    disk, enlarge = small_disk
    arguments = [*command_line(*small_input, disk / "run"), "--until=embed"]
    status, said = Command(arguments).ended()
    lines = said.strip().splitlines()
    assert status == 2, lines
    assert len(lines) == 1
    assert "the disk is full" in lines[0]
    assert "free some space and run the same command again" in lines[0]
    store = RunFolder(str(disk / "run"))
    assert all(store.exists(name) for record in store.manifest()["records"].values() for name in record["artifacts"])
    assert not store.exists("embeddings")
    enlarge()
    assert Command(arguments).ended() == (0, "")
    assert Table(store, "embeddings").read().equals(Table(RunFolder(small_run.run_dir), "embeddings").read())
