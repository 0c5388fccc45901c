"""The scripts that are carried to a machine with a GPU: they run without one, and say what went wrong."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def device(*arguments, **environment):
    """Call device.sh with this Python; returns status and what it printed."""
    called = subprocess.run(
        ["bash", "benchmarks/device.sh", *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
    )
    return called.returncode, called.stdout, called.stderr


class TestDevice:
    def test_help_names_each_part(self):
        status, text, _ = device("--help")
        assert status == 0
        assert all(f"\n  {part} " in text for part in ("wheels", "pipeline", "speed", "encoder"))

    def test_an_unknown_part(self):
        status, _, errors = device("--small", "speeds")
        assert status == 2
        assert "unknown part speeds" in errors

    def test_what_is_not_there_is_passed_over_and_told(self, tmp_path):
        status, text, _ = device("--small", "wheels", "encoder", WHEELS=str(tmp_path), DATA="", OUT=str(tmp_path))
        assert status == 0
        assert f"| wheels |  | skipped: no wheels in {tmp_path} |" in text
        assert "| encoder |  | skipped: $DATA names no folder with train and test |" in text

    def test_a_part_that_fails_costs_the_next_one_nothing(self, tmp_path):
        (tmp_path / "broken-1-py3-none-any.whl").write_bytes(b"no archive")
        status, text, _ = device(
            "--small", "wheels", "encoder", WHEELS=str(tmp_path), SITE=str(tmp_path / "site"), DATA=""
        )
        assert status == 1
        assert "| failed |" in text
        assert "== wheels: failed; the end of what it printed:" in text
        assert "| encoder |  | skipped" in text


@pytest.mark.slow
def test_speeds_on_any_device(tmp_path):
    figures = tmp_path / "speed.json"
    command = [sys.executable, BENCHMARKS / "gpu.py", "--small", "--json", figures]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    measured = json.loads(figures.read_text())
    assert measured["failed"] == {}
    assert set(measured["seconds"]) == {row["part"] for row in measured["rows"]}
    assert set(measured["seconds"]) == {"limits", "embed", "knn", "temi", "resnet"}
    assert all(np.isfinite(row["value"]) for row in measured["rows"])


def test_a_part_without_memory_costs_the_others_nothing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_bench

    def too_large(bench):
        raise torch.OutOfMemoryError("no memory\nmore of it")

    parts = {"embed": too_large, "temi": lambda bench: bench.add("what", 1.0, "s", goal="less", met=True)}
    bench, saved = gpu_bench.Bench(small=False, device=torch.device("cpu")), []
    failed = gpu_bench.measure(bench, parts, lambda *figures: saved.append(len(bench.rows)))
    assert failed == {"embed": "OutOfMemoryError: no memory"}
    assert [row.part for row in bench.rows] == ["temi"]
    assert bench.rows[0].met is None  # goals are for a GPU
    assert saved == [0, 1]


class TestEncoder:
    @pytest.fixture
    def module(self, monkeypatch):
        monkeypatch.syspath_prepend(BENCHMARKS)
        import self_supervised

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # which wait for each other where other processes run
        yield self_supervised
        torch.set_num_threads(threads)

    @pytest.fixture
    def train(self, module, monkeypatch, tmp_path):
        """Train on a few small pictures; returns figures and vectors."""
        rng, images = np.random.default_rng(0), []
        for _ in range(8):
            sink = io.BytesIO()
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(sink, "PNG")
            images.append(sink.getvalue())
        labels = pa.array([number % 2 for number in range(8)])
        names = [f"picture-{number}" for number in range(8)]
        pq.write_table(pa.table({"image_id": names, "image": images, "label": labels}), tmp_path / "images.parquet")
        small = ["--side", "8", "--batch-size", "8", "--epochs", "3", "--dims", "4"]

        def run(out, *more):
            images = str(tmp_path / "images.parquet")
            where = ["--train", images, "--test", images, "--out", str(tmp_path / out)]
            monkeypatch.setattr(sys, "argv", ["self_supervised.py", *where, *small, *more])
            module.main()
            table = pq.read_table(tmp_path / out / "train.parquet")
            return json.loads((tmp_path / out / "figures.json").read_text()), table

        return run

    def test_stopped_after_an_epoch_and_gone_on(self, train, tmp_path):
        at_once, expected = train("at-once")
        checkpoint = "--checkpoint", str(tmp_path / "state.pt")
        stopped, vectors = train("stopped", *checkpoint, "--seconds", "0")
        assert (stopped["epochs"], stopped["of"]) == (1, 3)
        assert not vectors.equals(expected)
        gone_on, vectors = train("stopped", *checkpoint)
        assert at_once["epochs"] == gone_on["epochs"] == 3
        assert vectors.equals(expected)
        assert vectors["sample_id"][0].as_py() == "picture-0"

    def test_as_many_epochs_as_fit(self, module):
        schedule = module.Schedule(300, seconds=100)
        schedule.fit(done=2, elapsed=30, last=7)
        assert schedule.epochs == 12
        schedule.fit(done=3, elapsed=90, last=50)  # the learning rate goes by the first answer
        assert schedule.epochs == 12
