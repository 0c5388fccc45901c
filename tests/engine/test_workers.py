"""One training worker or two: the same result, but for the order of sums."""

import json
import shutil

import numpy as np
import pytest

from elfs_ray.config import load_config
from elfs_ray.console import Reporter
from elfs_ray.engine.artifacts import read_column, read_dynamics
from elfs_ray.pipeline import run
from elfs_ray.store import Store

# An odd number: the shares of two workers differ by one.
ODD_BATCH = 33


@pytest.fixture
def again_from(small_run, tmp_path):
    """Run the stages after one, again and in another way, in a copy of the small run."""

    def rerun(name, first, until, **options):
        folder = shutil.copytree(small_run.run_dir, tmp_path / name)
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        stages = list(manifest["stages"])
        manifest["stages"] = {unit: manifest["stages"][unit] for unit in stages[: stages.index(first)]}
        path.write_text(json.dumps(manifest))
        store = Store(str(folder))
        values = {name.replace("__", "."): value for name, value in options.items()}
        config = load_config(values, base=manifest["config"])
        return store, run(config, store, Reporter(), until=until)

    return rerun


@pytest.mark.timeout(300)
def test_two_training_workers_give_what_one_gives(again_from):
    options = {"cluster__batch_size": ODD_BATCH, "proxy__batch_size": ODD_BATCH}
    one, _ = again_from("one", "cluster", "proxy", **options)
    two, manifest = again_from("two", "cluster", "proxy", **options, cluster__workers=2, proxy__workers=2)
    assert [manifest["stages"][stage]["chosen"]["workers"] for stage in ("cluster", "proxy")] == [2, 2]
    labels = [read_column(store, "pseudo_labels", "label") for store in (one, two)]
    assert (labels[0] == labels[1]).mean() >= 0.99
    confidence = [read_column(store, "pseudo_labels", "confidence") for store in (one, two)]
    np.testing.assert_allclose(*confidence, atol=0.01)
    if (labels[0] == labels[1]).all():
        dynamics = [read_dynamics(store)["aum"] for store in (one, two)]
        np.testing.assert_allclose(*dynamics, rtol=1e-3, atol=1e-3)
