"""Five pictures, and no option but what is asked for: sizes fit, and what a method does not read is not computed."""

import shutil

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.run.runner import run


def test_five_images(small_input, tmp_path):
    images, out = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    for image in sorted(small_input[0].iterdir())[:5]:
        shutil.copy(image, images)
    values = {"input": str(images), "num_classes": 2, "budgets": [1, 4]}
    store, command = RunFolder(str(out)), f"<code>elfs-ray map {out}</code>"

    records = run(load_config({**values, "select.method": "random"}), store, Reporter())["records"]
    assert set(records) == {"listing", "ingest", "select/random/1", "select/random/4"}
    report = store.read_bytes("report.html").decode()
    assert command in report
    assert 'id="map"' not in report

    run(load_config({**values, "select.method": "random"}), store, Reporter(), until="map")
    report = store.read_bytes("report.html").decode()
    assert command not in report
    assert 'id="map"' in report

    run(load_config({**values, "select.method": "typiclust"}), store, Reporter())
    assert Table(store, "neighbors").matrix("ids").shape == (5, 2)
    for method in ("random", "typiclust"):
        assert len(set(Table(store, f"coresets/{method}/4").column("index").tolist())) == 4
