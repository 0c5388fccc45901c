"""How a run tells of itself, and what it would do."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from elfs_ray.console import LOG_INTERVAL_SECONDS, JsonReporter, LogForm, Reporter, make_reporter
from small import command_line


@pytest.fixture
def ingest(small_input, tmp_path):
    required = ["--input", small_input[0], "--budget=20", "--num-classes=10", "--out", tmp_path / "run"]
    return ["run", *required, "--until=ingest"]


@pytest.fixture
def small_command(small_run, small_input, tmp_path):
    """The small run once more, in a copy of its folder."""
    return command_line(*small_input, shutil.copytree(small_run.run_dir, tmp_path / "run"))


def test_json_is_an_object_on_each_line(call, ingest, ray_session):
    code, out, _ = call(*ingest, "--log=json")
    said = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {line["event"] for line in said} == {"message"}
    assert said[-1]["text"].startswith("ingest: 240 samples")


def test_quiet_says_nothing_but_results(call, ingest, ray_session):
    assert call(*ingest, "--log=quiet") == (0, "", "")


def test_the_result_for_a_program(call, small_command, tmp_path):
    code, out, _ = call(*small_command, "--log=json")
    result = json.loads(out.splitlines()[-1])
    assert code == 0
    assert result["event"] == "result"
    assert result["coresets"] == [f"{tmp_path}/run/coresets/elfs/40"]
    assert result["report"] == [f"{tmp_path}/run/report.html"]
    assert call(*small_command, "--log=quiet")[1].split() == [*result["coresets"], *result["report"]]


@pytest.mark.parametrize(("form", "kind"), [(LogForm.quiet, Reporter), (LogForm.json, JsonReporter)])
def test_forms(form, kind):
    assert type(make_reporter(form, None)) is kind


def test_progress_tells_rate_and_time_left(monkeypatch, capsys):
    clock = iter([100.0, 110.0, 100.0 + LOG_INTERVAL_SECONDS])
    monkeypatch.setattr("elfs_ray.console.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with make_reporter(LogForm.json, Console(file=sys.stdout)).meter("embedding", 100, "images", done=20) as meter:
        meter.update(30)
        meter.update(60)
    [told] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    del told["time"]
    assert told == {
        "event": "progress", "task": "embedding", "unit": "images",
        "done": 60, "total": 100, "per_second": 40 / LOG_INTERVAL_SECONDS, "seconds_left": LOG_INTERVAL_SECONDS,
    }  # fmt: skip


def test_a_dry_run_does_nothing(call, ingest, tmp_path):
    code, out, _ = call(*ingest[:-1], "--until=select", "--dry-run")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        [unit, "to", "do"]
        for unit in ("ingest", "embed", "neighbors", "cluster", "proxy", "beta_search/elfs/20", "coresets/elfs/20")
    ]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_several_methods_names_what_they_share_once(call, ingest):
    code, out, _ = call(*ingest[:-1], "--until=select", "--dry-run", "--methods=kcenter,d2")
    assert code == 0
    first, *lines = out.splitlines()
    assert "kcenter, d2" in first
    units = [line.split()[0] for line in lines]
    assert len(units) == len(set(units))
    assert units[:2] == ["ingest", "embed"]
    assert units[-2:] == ["coresets/kcenter/20", "coresets/d2/20"]


def test_a_dry_run_knows_what_is_complete(call, small_command):
    code, out, _ = call(*small_command, "--dry-run", "--seed=7")
    assert code == 0
    states = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
    assert states["embed"].strip() == "complete"
    assert states["cluster"].strip() == "to do"


def test_a_dry_run_refuses_what_a_run_would(call, ingest):
    code, _, err = call(*ingest, "--dry-run", "--budget=241")
    assert code == 2
    assert "budget 241 is over the number of images, 240" in err


def test_a_run_has_the_name_given(call, ingest, tmp_path, ray_session):
    call(*ingest, "--name=autumn photos")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["name"] == "autumn photos"
