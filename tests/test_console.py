"""How a run tells of itself, and what it would do."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.console import (
    LOG_INTERVAL_SECONDS,
    JsonReporter,
    LogForm,
    Reporter,
    make_reporter,
    told_rate,
    told_time,
)
from elsewhere import ASCII, ROOT, run_python
from small import TIMEOUT_SECONDS, command_line


@pytest.fixture
def ingest(small_input, tmp_path):
    required = ["--input", small_input[0], "--budget=20", "--num-classes=10", "--out", tmp_path / "run"]
    return ["run", *required, "--until=ingest"]


@pytest.fixture
def small_command(small_run, small_input, tmp_path):
    """The small run once more, in a copy of its folder."""
    return command_line(*small_input, shutil.copytree(small_run.run_dir, tmp_path / "run"))


def test_json_is_an_object_on_each_line(call, ingest):
    code, out, _ = call(*ingest, "--log=json")
    said = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {line["event"] for line in said} == {"message"}
    assert said[0]["text"].startswith(f"Working on {ingest[2]} up to the stage ingest, in ")
    assert [(line["state"], line["unit"]) for line in said if "unit" in line] == [
        ("begun", "listing"), ("done", "listing"), ("begun", "ingest"), ("done", "ingest"),
    ]  # fmt: skip
    assert said[-1]["text"].startswith("Checked 240 images, all usable (")
    assert said[-1]["seconds"] > 0


def test_quiet_says_nothing_but_results(call, ingest):
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
    # Ten seconds until the first ten came, most of which went into a start; thirty more in the next ten.
    told = json.loads(line)
    del told["time"]
    assert told == {
        "event": "progress", "task": "embedding", "unit": "images",
        "done": 60, "total": 100, "per_second": 3.0, "seconds_left": 13.3,
    }  # fmt: skip


def test_progress_of_what_takes_minutes_each(tell_at):
    """Nothing until one has ended, no rate until two have; then the time left runs down while the next one is on."""
    updates = {50.0: 0, 130.0: 1, 140.0: 1, 230.0: 2, 240.0: 2, 290.0: 2}
    assert tell_at(LogForm.auto, "evaluating", "trainings", 4, 0, updates) == [
        "  evaluating: 1/4 trainings",
        "  evaluating: 2/4 trainings, 36.0 trainings/h, 3 min left",
        "  evaluating: 2/4 trainings, 36.0 trainings/h, 2 min left",
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
    assert [line.removesuffix("to do").strip() for line in out.splitlines()[1:]] == [
        "Listing the images",
        "Checking the images",
        "Embedding the images with efficientnet-lite0",
        "Finding the nearest neighbours of the images",
        "Clustering the images",
        "Training the proxy on the pseudo-labels of the images",
        "Trying cut-offs for 20 images by elfs",
        "Selecting 20 images by elfs",
    ]
    assert all(line.rstrip().endswith("to do") for line in out.splitlines()[1:])
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_several_methods_names_what_they_share_once(call, ingest):
    code, out, _ = call(*ingest[:-1], "--until=select", "--dry-run", "--methods=kcenter,d2")
    assert code == 0
    first, *lines = out.splitlines()
    assert "kcenter, d2" in first
    doing = [line.removesuffix("to do").strip() for line in lines]
    assert len(doing) == len(set(doing))
    assert doing[-2:] == ["Selecting 20 images by kcenter", "Selecting 20 images by d2"]


def test_a_dry_run_knows_what_is_complete(call, small_command):
    code, out, _ = call(*small_command, "--dry-run", "--seed=7")
    assert code == 0
    states = dict(re.split("  +", line.strip()) for line in out.splitlines()[1:])
    assert states["Embedding 240 images with efficientnet-lite0"] == "there already"
    assert states["Clustering 240 images"] == "to do"


def test_a_dry_run_refuses_what_a_run_would(call, ingest):
    code, _, err = call(*ingest, "--dry-run", "--budget=241")
    assert code == 2
    assert "budget 241 is over the number of images, 240" in err


def test_a_run_has_the_name_given(call, ingest, tmp_path):
    call(*ingest, "--name=autumn photos")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["name"] == "autumn photos"


STREAMS = "from elfs_ray.console import prepare_streams; prepare_streams(); "


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", rb"5 \xb1 1, \u2500, \udce4"),
        ("latin-1", b"5 \xb1 1, \\u2500, \\udce4"),
        ("utf-8", "5 ± 1, ─, \\udce4".encode()),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(tmp_path, encoding, said):
    """A plus-minus sign, a line of a box, and a byte of a file name that is no text."""
    for stream in ("stdout", "stderr"):
        code = f"{STREAMS} import sys; print('5 \u00b1 1, \u2500, \udce4', file=sys.{stream})"
        ended = subprocess.run(
            [sys.executable, "-c", code.encode("unicode_escape")], capture_output=True, cwd=tmp_path, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
        )  # fmt: skip
        assert getattr(ended, stream) == said + b"\n"


def test_tables_on_an_ascii_terminal(tmp_path):
    row = {"method": "elfs", "budget": 40, "model": "mlp", "mean": 0.9, "std": 0.01, "seeds": 5, "difference": None,
           "select_seconds": 1, "total_seconds": 2}  # fmt: skip
    code = (
        "from elfs_ray.cli.app import out\nfrom elfs_ray.report.summary import comparison_table\n"
        f"{STREAMS}\nout.print(comparison_table([{row!r}]))"
    )
    ended = run_python("-c", code, cwd=tmp_path, **ASCII)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].split() == ["elfs", "90.0", r"\xb1", "1.0", "5", "-", "1", "2"]


def test_names_on_an_ascii_terminal_are_those_of_the_files(tmp_path):
    """Python alone would read them as other names, and pyarrow would refuse these."""
    RunFolder(str(tmp_path / "Läufe")).update_manifest(name="Käse", input="/bilder/ß", records={}, finished=None)
    ended = run_python("-m", "elfs_ray.cli", "status", tmp_path / "Läufe", cwd=tmp_path, **ASCII)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == r"run K\xe4se over /bilder/\xdf"
    ended = run_python("-m", "elfs_ray.cli", "status", tmp_path / "Zäune", cwd=tmp_path, **ASCII)
    assert ended.stderr.startswith(rf"elfs-ray: {tmp_path}/Z\xe4une holds no run")
    assert ended.returncode == 2


@pytest.mark.parametrize("command", [["methods"], ["--help"], ["run", "--help"], ["--version"]])
def test_a_reader_that_went_away(command):
    """As `| head` does: no word, no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "elfs_ray.cli", *command],
        stdout=writing, stderr=subprocess.PIPE, check=False, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    os.close(writing)
    assert (ended.stderr, ended.returncode) == (b"", 1)


def test_no_output_at_all(tmp_path):
    """What a library prints must not get into a file of ours."""
    code = f"{STREAMS} print(open('file', 'w').fileno() > 2, file=open('told', 'w')); import os; os.write(1, b'x')"
    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        subprocess.run(
            ["/bin/sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert (tmp_path / "told").read_text(encoding="utf-8") == "True\n"
        assert (tmp_path / "file").read_bytes() == b""
        ended = subprocess.run(
            ["/bin/sh", "-c", f'"$0" -m elfs_ray.cli status none {closed}', sys.executable], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 2
        assert ("holds no run" in ended.stderr) == ("2>" not in closed)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_escape_sequences_where_they_are_not_wanted(tmp_path, environment):
    """On a terminal: a pipe gets none anyhow."""
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "elfs_ray.cli", "status", "none"]
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "FORCE_COLOR")}
    started = subprocess.Popen(
        command, cwd=tmp_path, env={**given, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment}, stderr=follower,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(follower)
    told = os.read(leader, 10_000)
    started.wait()
    assert b"holds no run" in told
    assert b"\x1b[3" not in told
