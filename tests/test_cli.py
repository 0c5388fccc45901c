"""The command line: every wrong use is one line that names the thing and the remedy, with exit status 2."""

import shutil
import sys

import pytest

from elfs_ray import cli
from elfs_ray.data.digits import write_digits


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    full, _ = write_digits(folder / "all")
    small = folder / "images"
    small.mkdir()
    for path in sorted(full.iterdir())[:12]:
        shutil.copy(path, small)
    return small


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command in this process; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["elfs-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


WRONG = {
    # name: (arguments after a complete and right `run`, what the line says)
    "missing input": (["--input=qqq"], "qqq does not exist; check the path"),
    "empty folder": (["--input=empty"], "empty holds no files; pass a folder with images"),
    "input is no image table": (["--input=notes.txt"], "notes.txt is neither a folder nor a .parquet file"),
    "damaged table": (["--input=bad.parquet"], "bad.parquet cannot be read as Parquet"),
    "unknown storage": (["--input=ftp://host/x"], "ftp://host/x cannot be opened"),
    "budget 0": (["--budget=0"], "budget 0 selects nothing; pass a count from 1 on or a fraction above 0"),
    "budget negative": (["--budget=-5"], "budget -5 selects nothing"),
    "budget over N": (["--budget=13"], "budget 13 is over the number of images, 12; pass at most 12"),
    "fraction over 1": (["--budget=1.5"], "budget 1.5 is a fraction over 1"),
    "fraction of no image": (["--budget=0.01"], "budget 0.01 of 12 images is less than one image"),
    "budget no number": (["--budget=many"], "option 'budget' has the value 'many': a budget is a count (5000) or"),
    "second budget wrong": (["--budget=3,x"], "option 'budget' has the value 'x'"),
    "budget infinite": (["--budget=inf"], "budget inf is not a number"),
    "one class": (["--num-classes=1"], "option 'num_classes' has the value 1: input should be greater than or equal"),
    "classes no number": (["--num-classes=ten"], "Invalid value for '--num-classes'"),
    "unknown flag": (["--metod=elfs"], "No such option: --metod"),
    "unknown method": (["--method=efls"], "unknown method 'efls'; did you mean 'elfs'?"),
    "unknown method option": (
        ["--set=select.options={gamma: 1}"], "method 'elfs' has no option 'gamma'; it has: score, beta",
    ),
    "unknown section": (["--set=embedd.batch_size=4"], "unknown option 'embedd'; did you mean 'embed'?"),
    "unknown option": (["--set=embed.batchsize=4"], "unknown option 'embed.batchsize'; did you mean 'batch_size'?"),
    "option out of range": (["--set=embed.image_size=0"], "option 'embed.image_size' has the value 0"),
    "option of another type": (["--set=cluster.epochs=soon"], "option 'cluster.epochs' has the value 'soon'"),
    "beta of 1": (["--set=select.beta=1.0"], "option 'select.beta' has the value 1.0: input should be less than 1"),
    "not an assignment": (["--set=embed.actors"], "--set 'embed.actors' is not of the form stage.option=value"),
    "option below an option": (["--set=seed.x=1"], "'seed'"),
    "bad YAML value": (["--set=embed.actors=[1"], "is not valid YAML"),
    "missing config": (["--config=none.yaml"], "configuration file none.yaml cannot be read: No such file"),
    "config is a list": (["--config=list.yaml"], "configuration file list.yaml holds a list, not options"),
    "unknown encoder": (["--encoder=efficientnet-lite"], "unknown encoder 'efficientnet-lite'; did you mean"),
    "unknown timm model": (["--encoder=timm:vit_smal_patch16_224"], "did you mean vit_small_patch16_224"),
    "missing weights": (["--weights=none.pt"], "none.pt does not exist; check the path given with --weights"),
    "unknown stage": (["--until=embedd"], "unknown stage 'embedd'; the stages are ingest, labels, embed"),
    "evaluation without labels": (["--until=evaluate"], "the evaluation needs true labels; pass --labels"),
    "unknown model": (["--models=mlp,resnet19"], "option 'evaluate.models.1' has the value 'resnet19'"),
    "one seed": (["--seeds=1"], "option 'evaluate.seeds' has the value 1: input should be greater than or equal to 2"),
    "second method wrong": (["--methods=random,zcor"], "unknown method 'zcor'; did you mean 'zcore'?"),
    "missing labels": (["--labels=none.csv"], "none.csv does not exist"),
    "test images without labels": (["--test-input=input"], "test images are given without labels; pass --labels"),
    "output is a file": (["--out=notes.txt"], "notes.txt is a file, not a folder; choose another --out"),
    "output is something else": (["--out=other"], "other is not empty and holds no run (manifest.json is missing)"),
    "output cannot be made": (["--out=/proc/none/run"], "/proc/none/run cannot be made"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_of_run(call, images, tmp_path, name):
    (tmp_path / "input").symlink_to(images)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "list.yaml").write_text("- 1\n")
    arguments, message = WRONG[name]
    right = ["run", "--input=input", "--budget=3", "--num-classes=2", "--out=run"]
    keys = {argument.split("=")[0] for argument in arguments} - {"--set"}
    code, out, err = call(*[one for one in right if one.split("=")[0] not in keys], *arguments)
    assert code == 2, err
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["thesis.txt"]


def test_a_folder_that_may_not_be_read(call, ordinary_user, images, tmp_path):
    closed = tmp_path / "closed"
    shutil.copytree(images, closed)
    closed.chmod(0)
    with ordinary_user():
        code, _, err = call("run", "--input=closed", "--budget=3", "--num-classes=2", f"--out={tmp_path}/run")
    assert code == 2
    assert "closed" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["run", "--budget=3"], "Missing option '--out'"),
        (["run", "--out=run", "--budget=3", "--num-classes=2"], "option 'input' is missing; pass --input"),
        (["run", "--out=run", "--input=x", "--num-classes=2"], "option 'budget' is missing; pass --budget"),
        (["run", "--out=run", "--input=x", "--budget=3"], "option 'num_classes' is missing; pass --num-classes"),
        (["status", "nowhere"], "holds no run (manifest.json is missing); check the path"),
        (["cluster", "nowhere"], "check the path, or start one with `elfs-ray run --out nowhere --input ...`"),
        (["status"], "Missing argument"),
        (["evaluate", "nowhere", "--methods=elfs"], "start one with `elfs-ray run --out nowhere --input ...`"),
        (["export", "nowhere", "--to=csv", "--out=x"], "holds no run (manifest.json is missing); check the path"),
        (["import-labels", "nowhere", "x.json", "--out=x"], "holds no run (manifest.json is missing); check the path"),
        (["dataset", "mnist", ".", "--out=x"], "unknown data set 'mnist'; known: cifar10, cifar100, stl10"),
        (["dataset", "cifar10", ".", "--out=x"], "data_batch_1 does not exist; pass the folder with the unpacked"),
        (["sweep", "--out=run", "--input=x", "--budget=3", "--num-classes=2"], "Missing option '--method'"),
        (
            ["sweep", "--out=run", "--input=x", "--budget=3", "--num-classes=2", "--method=random, elsf"],
            "unknown method 'elsf'; did you mean 'elfs'?",
        ),
    ],
)
def test_wrong_use_of_other_commands(call, arguments, message):
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(call):
    code, _, err = call("run", "--input=nowhere", "--budget=3", "--num-classes=2", "--out=run", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].endswith("nowhere does not exist; check the path")


def test_damaged_manifest_is_named(call, images, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{")
    code, _, err = call("status", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "manifest.json is damaged" in err


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
