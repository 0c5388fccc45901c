"""How a run tells of itself, and what it would do."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from elfs_ray.console import (
    LOG_INTERVAL_SECONDS,
    JsonReporter,
    LogForm,
    Reporter,
    make_reporter,
    told_rate,
    told_time,
)
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


@pytest.fixture
def tell_at(monkeypatch, capsys):
    """What a meter says when it is told, at some times, how much is done."""

    def tell(form, title, unit, total, first, updates):
        clock = iter([0.0, *updates])
        monkeypatch.setattr("elfs_ray.console.time", SimpleNamespace(monotonic=lambda: next(clock)))
        with make_reporter(form, Console(file=sys.stdout)).meter(title, total, unit, done=first) as meter:
            for done in updates.values():
                meter.update(done)
        return capsys.readouterr().out.splitlines()

    return tell


def test_progress_tells_rate_and_time_left(tell_at):
    [line] = tell_at(LogForm.json, "embedding", "images", 100, 20, {10.0: 30, LOG_INTERVAL_SECONDS: 60})
    told = json.loads(line)
    del told["time"]
    assert told == {
        "event": "progress", "task": "embedding", "unit": "images",
        "done": 60, "total": 100, "per_second": 40 / LOG_INTERVAL_SECONDS, "seconds_left": LOG_INTERVAL_SECONDS,
    }  # fmt: skip


def test_progress_of_what_takes_minutes_each(tell_at):
    """Nothing until one has ended; then the time left runs down while the next one is on."""
    updates = {50.0: 0, 100.0: 1, 110.0: 1, 140.0: 1, 210.0: 1, 300.0: 2}
    assert tell_at(LogForm.auto, "evaluating", "trainings", 4, 0, updates) == [
        "  evaluating: 1/4 trainings, 36.0 trainings/h, 5 min left",
        "  evaluating: 1/4 trainings, 36.0 trainings/h, 4 min left",
        "  evaluating: 1/4 trainings, 36.0 trainings/h, 3 min left",
        "  evaluating: 2/4 trainings, 24.0 trainings/h, 5 min left",
    ]


@pytest.mark.parametrize(
    ("rate", "told"), [(12_345.67, "12,345.7 x/s"), (1, "1.0 x/s"), (0.5, "30.0 x/min"), (0.01, "36.0 x/h")]
)
def test_rates_read_well(rate, told):
    assert told_rate(rate, "x") == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (9_000, "2.5 h")]
)
def test_times_read_well(seconds, told):
    assert told_time(seconds) == told


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
