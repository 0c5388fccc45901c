"""Runs from Python: options by section, the folder that nobody named, results that show themselves, single stages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from elfs_ray import EmbedConfig, api, pick, run_stage, select
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from small import BUDGET, LONG_STAGES, NUM_IMAGES, OPTIONS, Lines, sections

REQUIRED = {"input": "photos", "num_classes": 2, "budgets": [1]}


def test_a_section_is_laid_over_a_file(tmp_path):
    (tmp_path / "run.yaml").write_text("embed: {batch_size: 3, image_size: 64}\nselect: {options: {score: el2n}}")
    for given in (EmbedConfig(batch_size=8), {"batch_size": 8}):
        config = load_config({**REQUIRED, "embed": given, "select.method": "aum"}, tmp_path / "run.yaml")
        assert (config.embed.batch_size, config.embed.image_size) == (8, 64)
        assert (config.select.method, config.select.options) == ("aum", {"score": "el2n"})


def test_the_public_names_are_there_and_found():
    code = (
        "import sys, elfs_ray\n"
        "assert not {'torch', 'pyarrow', 'pydantic', 'ray'} & sys.modules.keys()\n"
        "assert all(getattr(elfs_ray, name).__name__ == name for name in elfs_ray.__all__)\n"
        "assert set(elfs_ray.__all__) <= set(dir(elfs_ray))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestDefaultFolder:
    def folder(self, reporter=None, **values):
        return api._default_folder(load_config({**REQUIRED, **values}), reporter or Reporter())

    def test_goes_by_the_input_alone(self):
        first = self.folder()
        assert first.startswith("elfs-ray-photos-")
        assert self.folder(budgets=[7], **{"select.method": "random"}) == first
        assert self.folder(input="photos/") == first
        assert self.folder(input="other/photos") != first

    def test_is_a_good_name(self):
        assert self.folder(input="s3://bucket/a b:c?region=x").startswith("elfs-ray-a-b-c-")
        assert self.folder(input="s3://bucket/a?region=x") == self.folder(input="s3://bucket/a?region=y")
        assert len(self.folder(input="x" * 200)) < 64

    def test_a_second_call_goes_on_there(self, small_run, small_input, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        images, told = small_input[0], Lines()
        name = self.folder(input=str(images))
        shutil.copytree(small_run.run_dir, name)
        options = sections({**OPTIONS, "evaluate.labels": str(small_input[1])})
        result = select(images, BUDGET, num_classes=10, reporter=told, **options)
        assert told.lines[0] == f"run folder {name}; call again to go on there, or name another one with out="
        assert os.path.samefile(result.run_dir, name)
        before = small_run.manifest["records"]
        assert all(result.manifest["records"][stage] == before[stage] for stage in LONG_STAGES)
        assert result.paths == small_run.paths


def test_progress_is_shown_unless_it_is_not_wanted(small_run, small_input, capfd):
    options = sections({**OPTIONS, "evaluate.labels": str(small_input[1])})
    for wanted in (True, False):
        select(small_input[0], BUDGET, num_classes=10, out=small_run.run_dir, progress=wanted, **options)
        captured = capfd.readouterr()
        assert captured.out == ""
        assert bool(captured.err) == wanted


class TestResult:
    def test_paths_and_table(self, small_run):
        table = small_run.to_pandas()
        assert table["rank"].tolist() == list(range(BUDGET))
        assert small_run.paths == table["uri"].tolist()
        assert all(os.path.exists(path) for path in small_run.paths)

    def test_is_short(self, small_run):
        assert repr(small_run) == f"<{BUDGET} of {NUM_IMAGES} selected by elfs, in {small_run.run_dir}>"

    def test_shows_pictures(self, small_run, tmp_path):
        """The first ones, each with its rank; what stands in names is text."""
        assert small_run._repr_html_().count("data:image/jpeg") == 24
        page = tmp_path / "page.html"
        assert small_run.show(5, page) == str(page)
        text = page.read_text()
        assert text.count("data:image/jpeg") == 5
        assert f"the first 5 of {BUDGET}, best first" in text
        assert f"&lt;{BUDGET} of {NUM_IMAGES}" in text
        with pytest.raises(UsageError, match=r"none/page.html cannot be written \(No such file or directory\)"):
            small_run.show(1, tmp_path / "none" / "page.html")

    def test_shows_where_it_can(self, small_run, monkeypatch):
        """Below the cell of a notebook; in the browser elsewhere."""
        opened, shown = [], []
        monkeypatch.setattr("webbrowser.open", opened.append)
        page = Path(small_run.show(2))
        assert opened == [page.as_uri()]
        assert page.read_text().count("data:image/jpeg") == 2
        shell = SimpleNamespace(kernel=object())
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=shown.append))
        assert small_run.show(2) is None
        assert (len(opened), len(shown), shown[0].count("data:image/jpeg")) == (1, 1, 2)


def test_a_stage_of_a_run(small_run, tmp_path):
    """What is complete is not done again, and what it made comes back."""
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    neighbors = run_stage("neighbors", run_dir)["neighbors"]
    assert neighbors.read(0, 3).num_rows == 3
    labels = run_stage("pseudo_labels", run_dir)["pseudo_labels"].column("label")
    assert (labels.shape, np.unique(labels).min()) == ((NUM_IMAGES,), 0)
    assert list(run_stage("select", run_dir)) == [f"coresets/elfs/{BUDGET}"]
    before = RunFolder(small_run.run_dir).records().current
    assert RunFolder(str(run_dir)).records().current == before


def test_pick_takes_what_a_run_takes(small_run):
    """From the same files by the same options: embedded, clustered, rated and searched in this process."""
    samples = Table(RunFolder(small_run.run_dir), "samples").column("uri").tolist()
    given = sections({name: value for name, value in OPTIONS.items() if not name.startswith(("evaluate", "report"))})
    picked = pick(samples, BUDGET, method="elfs", num_classes=10, **given)
    assert [samples[row] for row in picked] == small_run.paths
