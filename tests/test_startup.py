"""What commands import that compute nothing: a user waits for each of these libraries."""

import json
import shutil

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elsewhere import ROOT, run_python
from small import OPTIONS

NUMERICS = {"jaxtyping", "numba", "numpy", "pandas", "pyarrow", "ray", "scipy", "torch", "torchvision"}
COMMANDS = """
import contextlib, io, json, os, sys
from elfs_ray.cli import main
given, heavy = json.loads(sys.argv[1]), set(json.loads(sys.argv[2]))
for command in given:
    sys.argv = ["elfs-ray", *command]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, sorted(heavy & sys.modules.keys()), said.getvalue()]))
"""


def imported(*commands, **environment):
    """Exit status, heavy modules that are imported by then, and output of each command, in one process."""
    ended = run_python("-c", COMMANDS, json.dumps(commands), json.dumps(sorted(NUMERICS)), cwd=ROOT, **environment)
    assert ended.stderr == ""
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_commands_that_compute_nothing(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.update_manifest(name="run", input="photos", records={}, finished=None)
    found = imported(
        ["--help"], ["--version"], ["methods"], ["run", "--help"], ["status", folder.uri], ["run", "--widht=3"],
        ["status", str(tmp_path)], ["run", "--out=run", "--input=photos", "--budget=3", "--set=embed.batch=3"],
    )  # fmt: skip
    assert [code for code, _, _ in found] == [0, 0, 0, 0, 0, 2, 2, 2]
    assert [heavy for _, heavy, _ in found] == [[]] * len(found)
    assert "run run over photos" in found[4][2]


@pytest.mark.parametrize("method", ["random", "kcenter"])
def test_a_second_method_does_without_what_trains(method, small_run, small_input, tmp_path):
    """Selecting from what is there, and the report of it, need neither torch nor a compiler."""
    folder = shutil.copytree(small_run.run_dir, tmp_path / "run")
    given = [f"--input={small_input[0]}", "--budget=20", "--num-classes=10", f"--method={method}", f"--out={folder}"]
    options = [f"--set={name}={value}" for name, value in OPTIONS.items()]
    [(code, heavy, said)] = imported(["run", *given, *options, "--set=ray.mode=never"])
    assert (code, f"Selected 20 images by {method}" in said) == (0, True), said
    assert "torch" not in heavy
    assert not {"numba", "ray", "torchvision"} & set(heavy)


TRAINING = """
import sys, numpy, torch
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingOptions, TrainingSet
from elfs_ray.core.optimizers import AdamW
how = TrainingOptions(steps=3, batch_size=8, learning_rate=0.1, model="mlp", num_classes=2, hidden_dim=4)
samples, labels = numpy.random.default_rng(0).random((20, 6), numpy.float32), numpy.arange(20) % 2
for hide in (0.0, 0.3):
    how = TrainingOptions(**{**vars(how), "hide": hide})
    ClassifierTraining(how, samples, labels, [TrainingSet(numpy.arange(20), 0)], device=torch.device("cpu")).train()
weight = torch.nn.Parameter(torch.ones(2))
optimizer = AdamW([weight], lr=0.1, fused=True)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print(sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
"""


def test_small_trainings_do_without_the_compiler():
    """Of torch, which takes a second to import."""
    ended = run_python("-c", TRAINING, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_the_shell_completes_methods():
    """As bash asks for it, beginning with what the user has typed."""
    asked = {"_ELFS_RAY_COMPLETE": "complete_bash", "COMP_WORDS": "elfs-ray run --method ty", "COMP_CWORD": "3"}
    [(code, heavy, said)] = imported([], **asked)
    assert (code, heavy, said.split()) == (0, [], ["typiclust"])


def test_the_usual_encoder_does_without_other_networks():
    """They bring a compiler, which takes seconds in each process that encodes."""
    asked = "import sys; from elfs_ray.encoders import load_encoder; load_encoder(sys.argv[1]); print(*sys.modules)"
    ended = run_python("-c", asked, "efficientnet-lite0", cwd=ROOT)
    assert ended.stderr == ""
    assert not {"timm", "torchvision", "torch._dynamo", "open_clip"} & set(ended.stdout.split())
