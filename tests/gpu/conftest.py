"""What the tests on a GPU share: the pictures, the run on the GPU, the same on processors, and figures to be kept."""

import json
import os
from pathlib import Path

import pytest

import runs
from elfs_ray.artifacts.run_folder import RunFolder
from shapes import write_shapes

HERE = Path(__file__).parent
NUM_IMAGES = 512


def pytest_collection_modifyitems(items):
    """Skip without a GPU. Set ELFS_RAY_GPU_TESTS=cpu to try the same tests on processors."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(not runs.AVAILABLE, reason="torch sees no CUDA device"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder of images and file of labels."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), NUM_IMAGES)


@pytest.fixture(scope="session")
def stores(pictures, tmp_path_factory):
    """The run on the GPU, and the one on processors, from start to end; beside each other, to save time."""
    folder = tmp_path_factory.mktemp("runs")
    names = {"device": False, "processors": True}
    started = [
        runs.start(*pictures, folder / name, on_processors=on_processors) for name, on_processors in names.items()
    ]
    try:
        for process in started:
            runs.finish(process)
    finally:
        for process in started:
            process.kill()
    return tuple(RunFolder(str(folder / name)) for name in names)


@pytest.fixture(scope="session")
def measured():
    """What all tests measured, by name."""
    return {}


@pytest.fixture
def figures(measured):
    """The same, written to the file in $ELFS_RAY_GPU_FIGURES after each test: a later one may be stopped."""
    yield measured
    if path := os.environ.get("ELFS_RAY_GPU_FIGURES"):
        Path(path).write_text(json.dumps(measured, indent=2))
