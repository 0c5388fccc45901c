"""Configuration: where options come from, and that a wrong one is named in one line with the remedy."""

from pathlib import Path

import pytest

from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.config_loading import load_config
from elfs_ray.errors import UsageError
from elfs_ray.methods import get_method

REQUIRED = {"input": "/images", "num_classes": 10, "budgets": [100]}


def test_later_sources_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\nembed: {batch_size: 8, encoder: timm:resnet18}\n")
    config = load_config({**REQUIRED, "seed": 3}, file, ["seed=2", "embed.batch_size=16"])
    assert (config.seed, config.embed.batch_size, config.embed.encoder) == (3, 16, "timm:resnet18")


def test_base_is_overlaid_and_left_alone():
    base = load_config(REQUIRED, overrides=["embed.batch_size=8"]).model_dump(mode="json")
    config = load_config({"budgets": [7]}, overrides=["embed.dtype=float32"], base=base)
    assert (config.budgets, config.embed.batch_size, config.embed.dtype) == ([7], 8, "float32")
    assert base["budgets"] == [100]
    assert base["embed"]["dtype"] == "auto"


@pytest.mark.parametrize(("text", "value"), [("5000", 5000), ("0.1", 0.1), ("1.0", 1.0), ("1", 1)])
def test_budget_is_a_count_or_a_fraction(text, value):
    budget = load_config({**REQUIRED, "budgets": [text]}).budgets[0]
    assert budget == value
    assert type(budget) is type(value)


def test_round_trip_through_the_manifest():
    config = load_config({**REQUIRED, "budgets": [100, 0.5, 1.0]}, overrides=["beta_search.betas=[0.1, 0.2]"])
    again = RunConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert [type(budget) for budget in again.budgets] == [int, float, float]


def test_execution_options_leave_the_fingerprint_alone():
    plain, tuned = (
        load_config(REQUIRED, overrides=options) for options in ([], ["embed.batch_size=8", "embed.actors=4"])
    )
    changed = load_config(REQUIRED, overrides=["embed.image_size=64"])
    assert fingerprint(plain.embed.identity()) == fingerprint(tuned.embed.identity())
    assert fingerprint(plain.embed.identity()) != fingerprint(changed.embed.identity())


def test_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config({**REQUIRED, "input": "images"}, overrides=["embed.weights=w.pt"])
    assert config.input == str(tmp_path / "images")
    assert config.embed.weights == str(tmp_path / "w.pt")
    assert load_config({**REQUIRED, "input": "s3://bucket/images"}).input == "s3://bucket/images"


WRONG = [
    ("embed.batchsize=8", "unknown option 'embed.batchsize'; did you mean 'batch_size'?"),
    ("embeds.batch_size=8", "unknown option 'embeds'; did you mean 'embed'?"),
    ("embed.batch_size", "--set 'embed.batch_size' is not of the form stage.option=value, such as embed.batch_size=64"),
    ("embed.batch_size=0", "option 'embed.batch_size' has the value 0: input should be greater than or equal to 1"),
    ("num_classes=1", "option 'num_classes' has the value 1: input should be greater than or equal to 2"),
    ("num_classes=ten", "option 'num_classes' has the value 'ten': input should be a valid integer"),
    ("embed.dtype=int8", "option 'embed.dtype' has the value 'int8': input should be"),
    ("seed.value=3", "option 'seed' has the value {'value': 3}: input should be a valid integer"),
    ("embed.image_size=[", "--set embed.image_size=[ is not valid YAML"),
    ("embed=&a {x: *a}", "--set embed=&a {x: *a} has an alias, `*NAME`; write its value out"),
    ("seed=2020-99-99", "--set seed=2020-99-99 is not valid YAML (month must be in 1..12); mend it"),
    ("budgets=[]", "option 'budget' has the value []: list should have at least 1 item"),
    ("budgets=[true]", "option 'budget' has the value True"),
    ("beta_search.betas=[1.0]", "option 'beta_search.betas.0' has the value 1.0: input should be less than 1"),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_wrong_option_is_named(override, message):
    values = {name: value for name, value in REQUIRED.items() if not override.startswith(name)}
    with pytest.raises(UsageError) as caught:
        load_config(values, overrides=[override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "flag"), [("input", "--input"), ("budgets", "--budget")])
def test_missing_option_names_its_flag(name, flag):
    values = {key: value for key, value in REQUIRED.items() if key != name}
    shown = flag.removeprefix("--").replace("-", "_")
    with pytest.raises(UsageError, match=f"option '{shown}' is missing; pass {flag} or set it"):
        load_config(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n", "holds a list, not options"),
        (b"a: [", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        (b"embed: 3\n", "option 'embed' has the value 3"),
    ],
)
def test_wrong_file_is_named(tmp_path, content, message):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        load_config(REQUIRED, file)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"run\.yaml cannot be read: No such file or directory"):
        load_config(REQUIRED, tmp_path / "run.yaml")


def test_labels_that_are_a_file_are_absolute(tmp_path, monkeypatch):
    """The saved configuration is used again from any folder."""
    monkeypatch.chdir(tmp_path)
    file = str(tmp_path / "labels.csv")
    for given, kept in {"labels.csv": file, "folders": "folders", "column:y": "column:y"}.items():
        config = load_config({**REQUIRED, "evaluate.labels": given, "select.labeled": given})
        assert (config.evaluate.labels, config.select.labeled) == (kept, kept)


CLASSES = {"cifar10": 10, "cifar100": 100, "stl10": 10, "imagenet": 1000}
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_of_the_papers(path):
    config = load_config({"input": "/x"}, path)
    assert 1 - config.budgets[-1] == pytest.approx(0.9)  # their largest pruning rate
    method = get_method(config.select.method, **config.select.options)
    assert method.name == path.stem.split("-")[0]
    assert config.select.supervised == (method.name == "dual")
    assert config.num_classes == CLASSES[path.stem.split("-")[1]]


def test_later_files_win(tmp_path):
    for name, text in (("a", "seed: 1\nembed: {batch_size: 8}\n"), ("b", "embed: {batch_size: 9}\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    config = load_config(REQUIRED, [tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert (config.seed, config.embed.batch_size) == (1, 9)
