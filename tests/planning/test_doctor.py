"""What the doctor says of this machine, and of what is wrong on it."""

import os
import platform
import pwd
import re

import pytest
import torch

from elfs_ray.config_loading import load_config
from elfs_ray.planning import doctor
from elfs_ray.planning.doctor import LIBRARIES, NO_INPUT, examine
from elfs_ray.workers import hardware
from elsewhere import ASCII, NAMELESS, give_to, run_python


def findings(**options):
    config = load_config({"input": NO_INPUT, "num_classes": 2, "budgets": [1], **options})
    return {finding.name: finding for finding in examine(config)}


def test_all_is_well_here(ray_session, small_input):
    found = findings(input=str(small_input[0]))
    assert [one for one in found.values() if one.state == "bad"] == []
    assert set(LIBRARIES) < found.keys()
    assert found["encoder"].seen == "efficientnet-lite0: 1280 values for an image of 224 pixels"
    assert "2 processors" in found["ray"].seen
    assert found["input"].seen.startswith("240 files or rows (folder)")


def test_ray_is_not_started_for_what_works_without(small_input, monkeypatch):
    monkeypatch.setattr("elfs_ray.run.where._connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = findings(input=str(small_input[0]))
    assert found["ray"].seen.endswith("not started: a run over 240 images works without it")
    assert findings(input="/none")["ray"].seen.endswith("not started: the input cannot be used")


@pytest.mark.parametrize(
    ("options", "name", "seen", "remedy"),
    [
        ({"embed.weights": "/none.pt"}, "encoder", "weights file /none.pt does not exist", "check the path"),
        ({"embed.encoder": "efficientnet-lite"}, "encoder", "unknown encoder", "choose one of efficientnet-lite0"),
        ({"input": "/none"}, "input", "/none does not exist", "check the path"),
    ],
)
def test_what_is_wrong_has_a_remedy(ray_session, options, name, seen, remedy):
    found = findings(**options)[name]
    assert found.state == "bad"
    assert found.seen.startswith(seen)
    assert found.remedy.startswith(remedy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has half precision")
@pytest.mark.parametrize(("has", "state", "default"), [(True, "ok", "bfloat16"), (False, "weak", "float32")])
def test_arithmetic_that_processors_lack(ray_session, monkeypatch, has, state, default):
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: has)
    assert findings()["gpu"].seen.endswith(f"networks on images in {default}")
    assert findings(**{"embed.dtype": "bfloat16"})["gpu"].state == state


def test_little_room_is_weak(ray_session, monkeypatch):
    for name in ("MIN_FREE_DISK", "MIN_MEMORY", "MIN_SHARED"):
        monkeypatch.setattr(doctor, name, 2**60)
    found = findings()
    for name in ("memory", "shared memory", "temporary files"):
        assert (found[name].state, bool(found[name].remedy)) == ("weak", True)


EARLY = """
from elfs_ray.config_loading import load_config
from elfs_ray.planning.doctor import NO_INPUT, examine
config = load_config({"input": NO_INPUT, "num_classes": 2, "budgets": [1]})
for found in examine(config):
    print(found.name, found.state, found.seen, found.remedy, sep="|")
    if found.name == "machine folder":
        break
"""


@pytest.fixture
def seen(tmp_path):
    """What is found about where it runs, as state, what was seen and remedy of each."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "tmp"
    folder.mkdir()
    if os.getuid() == 0:
        give_to(NAMELESS, folder)

    def examine_in(cwd=tmp_path, **environment):
        ended = run_python("-c", EARLY, cwd=cwd, **{"TMPDIR": folder, "RAY_TMPDIR": "/tmp", **environment})
        assert ended.stderr == ""
        return {line.partition("|")[0]: line.split("|")[1:] for line in ended.stdout.splitlines()}

    return examine_in, folder


def test_a_usual_place(seen, tmp_path):
    examine_in, folder = seen
    found = examine_in(HOME=tmp_path)
    name, uid = pwd.getpwuid(os.geteuid()).pw_name, os.geteuid()
    assert found.pop("temporary files")[0] in ("ok", "weak")  # weak on a full disk
    assert found == {
        "python": ["ok", platform.python_version(), ""],
        "user": ["ok", f"{name} ({uid}), home {tmp_path}", ""],
        "caches": ["ok", f"in {tmp_path}/.cache", ""],
        "search path": ["ok", "nothing hides a module of Python's own", ""],
        "terminal": ["ok", "utf-8", ""],
        "machine folder": ["ok", f"{folder}/elfs-ray-{uid}", ""],
    }


def test_a_user_without_a_name_whose_home_cannot_be_written_to(seen):
    examine_in, folder = seen
    found = examine_in(cwd="/", user=NAMELESS, HOME="/", **ASCII)
    own = f"{folder}/elfs-ray-{NAMELESS}"
    assert found["user"] == ["ok", f"without a name ({NAMELESS}), home /", ""]
    assert found["caches"] == [
        "weak", f"the home / cannot be written to: in {own}, which may not stay",
        "set HOME, or NUMBA_CACHE_DIR, HF_HOME, TORCH_HOME, to what you can write to",
    ]  # fmt: skip
    assert found["terminal"] == ["ok", r"ascii: other characters are escaped, as \xe4", ""]
    assert found["machine folder"] == ["ok", own, ""]
    assert examine_in(cwd="/", user=NAMELESS)["user"] == [
        "ok", f"without a name ({NAMELESS}), home one of its own, {own}/home, as it has none", "",
    ]  # fmt: skip


def test_files_that_hide_modules(seen, tmp_path):
    examine_in, _ = seen
    (tmp_path / "statistics.py").touch()
    assert examine_in()["search path"] == [
        "ok", f"passed over, as they have names of Python's own modules: {tmp_path}/statistics.py", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "told"),
    [("none", "is no folder; make it, or set TMPDIR"), ("x" * 80, "too many for the sockets that Ray makes there")],
)
def test_a_folder_for_temporary_files_that_does_not_do(seen, tmp_path, name, told):
    examine_in, _ = seen
    (tmp_path / ("x" * 80)).mkdir()
    state, *said = examine_in(TMPDIR=tmp_path / name, RAY_TMPDIR=None)["temporary files"]
    assert state == "bad"
    assert said[0].startswith(f"TMPDIR={tmp_path / name} ")
    assert told in "; ".join(said)


def test_a_machine_folder_that_others_took_or_may_take(seen):
    examine_in, folder = seen
    taken = folder / f"elfs-ray-{os.geteuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    state, told, remedy = examine_in()["machine folder"]
    assert state == "weak"
    assert re.fullmatch(rf"{taken}-\w+, as {taken} is not a folder of yours that is closed to others", told)
    assert remedy == f"remove {taken}, or set TMPDIR to a folder of your own"
    taken.rmdir()
    folder.chmod(0o777)
    found = examine_in()["machine folder"]
    assert found == ["weak", f"{taken}, which others may rename", f"run `chmod +t {folder}`, or set TMPDIR"]
