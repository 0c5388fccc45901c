"""Which units a run has, what changes with which option, and what a new stage needs."""

import json

import pytest
from pydantic import ValidationError

from elfs_ray import stages
from elfs_ray.artifacts.record import Record, Records, Unit
from elfs_ray.config import RunConfig, Section
from elfs_ray.config_loading import load_config
from elfs_ray.run.graph import all_units
from elsewhere import run_python

METHOD, BUDGET = "elfs", 20
# Named files or folders are looked into: what they hold is tested with the inputs.
LOCATIONS = {"weights", "vectors", "test_vectors", "labels", "test_input", "test_labels", "embeddings_of", "labeled"}
# A method and its options belong together; a baseline has units of its own.
TOGETHER = {"method", "options", "supervised"}
SECTIONS = [
    name for name, field in RunConfig.model_fields.items() if isinstance(field.default, Section) and name != "ray"
]
STAGE_OF = {"report": "map"}
"""Section -> stage, where they have other names."""


def other_value(section, name):
    """Another valid value of an option."""
    before = getattr(section, name)
    words = [
        "sample_id",
        "none",
        "best_head",
        "mean",
        "cluster",
        "mlp",
        "linear",
        "resnet18",
        "float32",
        "bfloat16",
        "cpu",
        "faiss",
        "asha",
        "pca",
        "folder",
    ]
    guesses = [True, False, 7, 13, 0.25, 0.75, 1.5, *words, [0.0, 0.5], ["linear"]]
    for guess in guesses:
        try:
            other = type(section).model_validate({**section.model_dump(), name: guess})
        except ValidationError:
            continue
        if getattr(other, name) != before:
            return getattr(other, name)
    raise AssertionError(f"no other value known for {name}")


def cases():
    for section_name in SECTIONS:
        section = RunConfig.model_fields[section_name].default
        for option in section.identity():
            if option not in LOCATIONS | TOGETHER:
                yield section_name, option


@pytest.fixture(scope="module")
def config(small_input):
    images, labels = small_input
    return configured(images, labels)


def configured(images, labels, **options):
    values = {"input": str(images), "budgets": [BUDGET], "num_classes": 10, "evaluate.labels": str(labels)}
    return load_config({**values, "select.labeled": str(labels), "neighbors.k": 5, **options})


def plan(config, records=None):
    return {each.unit: each for each in all_units([config], records or Records({}), 240)}


def finished(planned):
    """Records as a run leaves them."""
    return Records(
        {
            unit: Record(unit, each.stage.version, each.fingerprint, each.fingerprint, each.rests_on)
            for unit, each in planned.items()
        }
    )


def above(planned, unit):
    """The unit, and all that rest on it."""
    found = {unit}
    for each in planned.values():  # in the order of the stages
        if found & {Unit.parse(name) for name in each.rests_on}:
            found.add(each.unit)
    return found


@pytest.mark.parametrize(("section", "option"), cases())
def test_an_option_changes_its_stage_and_all_that_rests_on_it(config, section, option):
    """For each stage and each option of a stage before it: stale once that one has run, and to be done again."""
    before = plan(config)
    own = getattr(config, section)
    changed = config.model_copy(update={section: own.model_copy(update={option: other_value(own, option)})})
    after = plan(changed, finished(before))
    redone = {unit for unit in after if unit not in before or after[unit].fingerprint != before[unit].fingerprint}
    stage = STAGE_OF.get(section, section)
    if section == "report" and option == "thumbnails":
        assert not redone
        return
    [unit] = [unit for unit in before if unit.stage == stage and not unit.prefix]
    assert above(before, unit) <= redone
    # Its stage has run again, with what it rests on, and nothing else yet.
    again = [each for each in redone if unit in above(after, each)]
    records = Records({**finished(before), **finished({each: after[each] for each in again})})
    assert set(records.stale) == set().union(*(above(before, each) for each in again)) - set(again)


def test_a_raised_version_has_its_stage_done_again_and_all_that_rests_on_it(config, monkeypatch):
    before = plan(config)
    for number, stage in enumerate(stages.STAGES):
        raised = [*stages.STAGES]
        raised[number] = type(stage)(**{**vars(stage), "version": stage.version + 1})
        monkeypatch.setattr(stages, "STAGES", tuple(raised))
        after = plan(config)
        redone = {unit for unit in after if after[unit].fingerprint != before[unit].fingerprint}
        for unit in [unit for unit in before if unit.stage == stage.name]:
            assert above(before, unit) <= redone
        monkeypatch.undo()


def test_a_method_gets_what_it_reads_and_no_more(config):
    images, labels = config.input, config.evaluate.labels

    def names(**options):
        chosen = load_config({"input": images, "budgets": [BUDGET], "num_classes": 10, "neighbors.k": 5, **options})
        return [unit.stage for unit in plan(chosen)]

    assert names(**{"select.method": "random"}) == ["listing", "ingest", "select"]
    with_labels = names(**{"select.method": "random", "evaluate.labels": labels})
    assert with_labels == ["listing", "ingest", "labels", "embed", "select", "evaluate", "map", "coverage"]
    assert "neighbors" not in names(**{"select.method": "zcore"})
    random = load_config({"input": images, "budgets": [BUDGET], "num_classes": 10, "select.method": "random"})
    added = [each.unit.stage for each in all_units([random], Records({}), 240, until="map")]
    assert added == ["listing", "ingest", "embed", "select", "map"]  # named, it needs what it reads
    assert {"neighbors", "pseudo_labels", "proxy", "beta_search"} <= set(names())


NEW_STAGE = """
from elfs_ray.planning.cost import Cost
from elfs_ray.stages.context import StageResult
from elfs_ray.stages.descriptor import Stage

ENTRY = Stage(
    name="brightest", version=1, summary="Find the brightest.", module="brightest",
    inputs=lambda _: ("samples",), outputs=("brightest",), options=lambda _: None, cost=lambda *_: Cost(1.0, 3),
)

def run(context):
    names = context.table("samples").read(columns=["sample_id"])
    context.write("brightest", names.slice(0, 3), names.schema)
    return StageResult(metrics={"count": 3})
"""
COMMANDS = """
import json, sys
import brightest
from elfs_ray import stages
stages.STAGES += (brightest.ENTRY,)
from elfs_ray.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["elfs-ray", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    print("ended")
"""


def test_a_new_stage_is_one_file_and_one_entry(small_input, tmp_path):
    """It is run, recorded, planned, shown in the help and known to `--until`."""
    (tmp_path / "brightest.py").write_text(NEW_STAGE)
    required = [f"--input={small_input[0]}", "--budget=5", "--num-classes=10", "--method=random"]
    to_it = ["--out=run", "--until=brightest", "--set=ray.num_cpus=1"]
    commands = [["--help"], ["run", *required, *to_it], ["status", "run"], ["plan", *required]]
    ended = run_python("-c", COMMANDS, json.dumps(commands), cwd=tmp_path, COLUMNS=200, HOME=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told, _, status, planned, _ = ended.stdout.split("ended\n")
    assert "Find the brightest." in told
    assert len(list(tmp_path.glob("run/brightest/*.parquet"))) == 1
    assert "3 brightest" in status
    assert "brightest" not in planned  # nothing wants it
