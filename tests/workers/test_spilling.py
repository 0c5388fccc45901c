"""An object store too small for what is in flight: Ray moves objects to disk, and the run ends with the same result."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import timm
import torch

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.run.runner import run
from small import BUDGET, NUM_IMAGES, OPTIONS, TIMEOUT_SECONDS, command_line

# The least that Ray allows; and batches of pixels of which two do not find room. The network is small: pixels matter.
# One part of all images: a task decodes as long as there is room.
STORE_MB = 80
EMBED = {
    "ingest.chunk_rows": NUM_IMAGES,
    "embed.encoder": "timm:test_resnet",
    "embed.image_size": 448,
    "embed.batch_size": 80,
    "ray.num_cpus": 2,
}


def run_until_embedded(images, labels, run_dir, folder, options):
    """The command line, with Ray's files in a folder; returns how many MiB its log says that it moved to disk."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    sets = [f"--set={name}={value}" for name, value in options.items()]
    sets += [f"--set=ray.object_store_mb={STORE_MB}", "--set=ray.mode=always"]
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


@pytest.mark.slow
def test_object_store_too_small(small_input, ray_folder, tmp_path):
    images, labels = small_input
    network = timm.create_model("test_resnet", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = {**OPTIONS, **EMBED, "embed.weights": str(tmp_path / "weights.pt")}
    assert run_until_embedded(images, labels, tmp_path / "small", ray_folder, options) > 0
    in_process = {**options, "ray.mode": "never"}
    config = load_config({"input": str(images), "budgets": [BUDGET], "num_classes": 10, **in_process})
    run(config, RunFolder(str(tmp_path / "enough")), Reporter(), until="embed")
    ours, theirs = (Table(RunFolder(str(tmp_path / name)), "embeddings").read() for name in ("small", "enough"))
    assert ours.equals(theirs)
