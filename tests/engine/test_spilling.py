"""An object store too small for what is in flight: Ray moves objects to disk, and the run ends with the same result."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from elfs_ray.store import Store
from small import TIMEOUT_SECONDS, command_line

# The least that Ray allows; and batches of pixels of which three do not find room in it.
STORE_MB = 80
IMAGE_SIZE, BATCH_SIZE = 384, 64


def run_until_embedded(images, labels, run_dir, store_mb, folder):
    """The command line, with Ray's files in a folder; returns how many MiB its log says that it moved to disk."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    sets = [f"--set=embed.image_size={IMAGE_SIZE}", f"--set=embed.batch_size={BATCH_SIZE}"]
    sets += ["--set=ray.num_cpus=2", f"--set=ray.object_store_mb={store_mb}"]
    process = subprocess.run(
        [sys.executable, "-m", "elfs_ray.cli", *command_line(images, labels, run_dir), "--until=embed", *sets],
        env={**environment, "RAY_TMPDIR": str(folder), "RAY_BACKEND_LOG_LEVEL": "info"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * TIMEOUT_SECONDS,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    [log] = folder.glob("ray/session_2*/logs/raylet.out")
    return sum(int(moved) for moved in re.findall(r"Spilled (\d+) MiB", log.read_text()))


@pytest.fixture
def ray_folder():
    """Short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_object_store_too_small(small_input, ray_folder, tmp_path):
    moved = {}
    for store_mb in (STORE_MB, 1000):
        (ray_folder / str(store_mb)).mkdir()
        run_dir = tmp_path / str(store_mb)
        moved[store_mb] = run_until_embedded(*small_input, run_dir, store_mb, ray_folder / str(store_mb))
    assert moved[STORE_MB] > 0
    assert moved[1000] == 0
    ours, theirs = (Store(str(tmp_path / str(store_mb))).read_table("embeddings") for store_mb in moved)
    assert ours.equals(theirs)
