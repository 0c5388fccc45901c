"""Every wrong use of the command line and of the Python API is one line: the thing, the value seen and the remedy."""

import os
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np  # noqa: F401 - the same
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elfs_ray import Result, cli, pick, run_stage, select  # noqa: F401 - what the calls in the file name, here and below
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.errors import UsageError
from elfs_ray.exports import export_coreset
from elfs_ray.exports.labels import write_labels  # noqa: F401
from elfs_ray.methods import get_method  # noqa: F401
from test_exports import make_run, picture

GOLDEN = Path(__file__).parents[1] / "golden" / "wrong_use.txt"
SIGNS = ("$ elfs-ray ", ">>> ")
TASK = (
    '[{"data": {"sample_id": "%s"}, "annotations": [{"result": '
    '[{"from_name": "label", "type": "choices", "value": {"choices": ["x"]}}]}]}]'
)


class Harmful:
    """Its pickle runs a command when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all that the wrong uses name: made once, since none of them may change it."""
    here = tmp_path_factory.mktemp("wrong")
    for folder in ("input", "empty", "other", "damaged", "pickled"):
        (here / folder).mkdir()
    for number in range(12):
        (here / "input" / f"{number}.png").write_bytes(picture(number))
    for name, text in {
        "other/thesis.txt": "mine", "damaged/manifest.json": "{", "notes.txt": "x", "bad.parquet": "PAR1",
        "list.yaml": "- 1\n", "labels.csv": "id,label\n0.png,1\n", "wrong.tsv": "a\tb\n1\t2\n", "empty.json": "[]",
        "others.json": TASK % "q", "finished.json": TASK % "1",
    }.items():  # fmt: skip
        (here / name).write_text(text)
    pq.write_table(pa.table({"number": [1]}), here / "numbers.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), here / "nothing.parquet")
    (here / "pickled" / "data_batch_1").write_bytes(pickle.dumps({b"data": Harmful()}))
    saved = make_run(here / "saved", in_table=False, ids=["1", "2", "3"])
    options = load_config({"input": str(here / "saved" / "images"), "num_classes": 2, "budgets": [3]})
    saved.update_manifest(config=options.model_dump(mode="json"))
    export_coreset(saved, "elfs/3", "label-studio", here / "exported")
    shutil.move(here / "saved" / "run", here / "run")
    RunFolder(str(here / "fresh")).update_manifest(input=str(here / "input"), config={}, records={})
    return here


@pytest.fixture
def here(made, monkeypatch):
    """The folder, as working directory; nothing in it may have changed afterwards."""
    monkeypatch.chdir(made)
    before = sorted(made.rglob("*"))
    yield made
    assert sorted(made.rglob("*")) == before


RUN = {"--input": "input", "--budget": "3", "--num-classes": "2", "--out": "new"}
_LINES = [line for line in GOLDEN.read_text().splitlines() if line and not line.startswith("# ")]
WRONG_USES = list(zip(_LINES[::2], _LINES[1::2], strict=True))
COMMANDS, CALLS = ([(use[len(sign) :], line) for use, line in WRONG_USES if use.startswith(sign)] for sign in SIGNS)


def arguments_of(command):
    """The words of a command; of a `run`, with what makes it a right one but for the wrong use."""
    words = shlex.split(command)
    if words[0] != "run":
        return words
    changed = {word.partition("=")[0] for word in words} | {word.replace("--no-", "--") for word in words}
    kept = [word for word in words if word.removeprefix("--no") not in {name[1:] for name in RUN}]
    return [*kept, *(f"{name}={value}" for name, value in RUN.items() if name not in changed)]


@pytest.mark.parametrize(("command", "line"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands(here, call, command, line):
    code, out, err = call(*arguments_of(command))
    assert err == f"elfs-ray: {line.replace('{here}', str(here))}\n"
    assert code == 2
    assert out == "" or re.fullmatch(r"(Selecting|Working on) .+\n", out)


@pytest.mark.parametrize(("call", "line"), CALLS, ids=[call for call, _ in CALLS])
def test_calls(here, call, line):
    with pytest.raises(UsageError) as caught:
        eval(call)
    assert str(caught.value) == line.replace("{here}", str(here))


def test_there_are_many():
    assert len(COMMANDS) >= 100
    assert len(CALLS) >= 30
    assert len(COMMANDS) + len(CALLS) == len(WRONG_USES)
