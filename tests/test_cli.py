"""The command line: what it says and its exit status. What it says to wrong uses: `test_wrong_use.py`.

Exit status 1 is that of a store that stops answering (`test_object_storage.py`), 130 that of Ctrl-C (`test_kill.py`).
"""

import os
import shutil
import signal

import pytest

from elfs_ray.artifacts.run_folder import RunFolder


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_folder_that_may_not_be_read(call, ordinary_user, small_input, tmp_path):
    closed = tmp_path / "closed"
    shutil.copytree(small_input[0], closed)
    command = ["run", "--input=closed", "--budget=3", "--num-classes=2", f"--out={tmp_path}/run"]
    command += ["--dry-run", "--set=neighbors.k=5"]
    code, _, err = call(*command)
    assert code == 0, err
    closed.chmod(0)
    with ordinary_user():
        code, _, err = call(*command)
    assert code == 2
    assert "closed" in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(call):
    code, _, err = call("run", "--input=nowhere", "--budget=3", "--num-classes=2", "--out=run", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].endswith("nowhere does not exist; check the path")


def test_without_a_command_the_help_is_shown(call):
    code, out, err = call()
    assert code == 2
    assert "beta-search" in out + err


def test_export_and_import(call, small_run, tmp_path):
    code, out, err = call("export", small_run.run_dir, "--to=cvat", "--out=exported", "--pre-annotations")
    assert (code, err) == (0, "")
    assert out.startswith("40 images of elfs/40 in ")
    code, out, err = call("import-labels", small_run.run_dir, "exported/annotations.xml", "--out=labels.csv")
    assert (code, err) == (0, "")
    assert out == "40 labels in labels.csv; go on with `--labeled labels.csv`\n"
    labels = (tmp_path / "labels.csv").read_text().splitlines()
    assert labels[0] == "sample_id,label"
    assert len(labels) == 41


def test_a_run_is_not_bound_to_where_it_was_computed(call, small_run, tmp_path):
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    store = RunFolder(str(run_dir))
    config = store.manifest()["config"]
    store.update_manifest(config={**config, "ray": {**config["ray"], "address": "gone:6379", "num_cpus": 1}})
    code, _, err = call("report", run_dir)
    assert code == 0, err
    # Nothing is left that says where it was computed.
    assert store.manifest()["config"] == {**config, "ray": {**config["ray"], "mode": "auto", "num_cpus": None}}


def test_methods_are_listed(call):
    code, out, _ = call("methods")
    assert code == 0
    assert all(name in out for name in ("elfs", "ccs", "random", "Zheng et al., ICLR 2025"))


def test_doctor(call, ray_session):
    code, out, err = call("doctor", "--input=nowhere")
    assert code == 2
    assert "ok   ray" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("bad ")] == ["input"]
    assert err == "elfs-ray: this machine lacks what a run needs; the lines marked `bad` say what to do\n"


def test_version(call):
    from elfs_ray import __version__

    assert call("--version")[:2] == (0, f"{__version__}\n")


def test_terminated_outside_of_a_run(call, monkeypatch):
    def examine(config):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.setattr("elfs_ray.planning.doctor.examine", examine)
    code, _, err = call("doctor")
    assert (code, err) == (130, "elfs-ray: stopped; run the same command again to go on from here\n")
