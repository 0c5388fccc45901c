"""README and docs: every code block is run, or parsed as far as it can be here; every name and link in them exists."""

import ast
import inspect
import json
import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer
from markdown_it import MarkdownIt

import elfs_ray.config
from elfs_ray import cli, run_stage, select
from elfs_ray.artifacts import schema
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.cli.options import OPTIONS
from elfs_ray.cli.runs import configurations
from elfs_ray.config import RunConfig
from elfs_ray.config_loading import RunOptions, load_config
from elfs_ray.errors import UsageError
from elfs_ray.methods import SelectionInputs, get_method, select_coreset
from made_records import add_records, planned
from small import LONG_STAGES
from small import OPTIONS as QUICK

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "configs/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TUTORIAL, OWN_METHOD = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "own-method.md"
# What is not run, and why.
NOT_RUN = {
    "text": "an output, a picture or a diagram; those of the tutorial are compared with what its commands print",
    "math": "a formula; the site's build converts it",
    "dockerfile": "needs Docker and a network",
    "toml": "metadata of the plug-in, which `plugin` below registers",
}
NOT_RUN_PROGRAMS = {
    "aws": "needs an AWS account",
    "GROUP=$(aws": "needs an AWS account",
    "kubectl": "needs Kubernetes",
    "ray": "needs a cluster; scripts that are submitted are looked at",
    "grafana": "needs Grafana",
    "pip": "installs; `make install` does the same",
    "export": "sets a variable of the shell",
    ".venv/bin/pre-commit": "changes the checkout",
}
# Runs of images that nobody has here: the calls are compared with the signatures.
ONLY_BOUND = '"photos/"'
COMMANDS = typer.main.get_command(cli.app).commands
REQUIRED = {"input": "photos", "num_classes": 2, "budgets": [1]}


def name_of(page):
    return str(page.relative_to(ROOT))


@cache
def tokens(page):
    """What CommonMark sees: blocks, and what is in their lines."""
    found = []
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        found += [token, *(token.children or [])]
    return found


def blocks(page):
    """Language, first line and text of each fenced block."""
    return [(token.info, token.map[0] + 1, token.content) for token in tokens(page) if token.type == "fence"]


def inline_code(page):
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def commands(text):
    """The command lines of a console block as lists of words, without comments."""
    lines = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def run_python(code, page, line, namespace):
    """Execute a block; a traceback points into the page."""
    exec(compile("\n" * line + code, str(page), "exec"), namespace)


def bind_calls(code):
    """Compare the calls of `select` and `run_stage` in a block with their signatures, and their options with ours."""
    functions = {"select": select, "run_stage": run_stage}
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    found = [(functions.get(ast.unparse(call.func).rpartition(".")[2]), call) for call in calls]
    for function, call in [pair for pair in found if pair[0]]:
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        bound = inspect.signature(function).bind(*call.args, **named)
        given = bound.arguments.get("options", {})
        assert given.keys() <= RunOptions.__annotations__.keys()
        values = {name: eval(ast.unparse(value), dict(vars(elfs_ray.config))) for name, value in given.items()}
        load_config({**REQUIRED, **values})
    assert any(pair[0] for pair in found)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The example of docs/own-method.md, registered as an installation would; its folder."""
    folder = tmp_path_factory.mktemp("plugin")
    code = {language: text for language, _, text in blocks(OWN_METHOD) if language in ("python", "toml")}
    project = tomllib.loads(code["toml"])["project"]
    [(group, methods)] = project["entry-points"].items()
    module = next(iter(methods.values())).split(":")[0]
    (folder / f"{module}.py").write_text(code["python"])
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {target}" for name, target in methods.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_of_a_known_kind(page):
    for language, line, _ in blocks(page):
        assert language in {"python", "yaml", "console", *NOT_RUN}, f"{page}:{line}: a block of kind {language!r}"
    assert all(language != "toml" or page == OWN_METHOD for language, _, _ in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=name_of)
def test_python_blocks_run(page, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        (tmp_path / f"labels-{number}.csv").write_text(f"sample_id,label\n{number}.png,cat\n")
    shutil.copytree(f"{small_run.run_dir}/coresets/elfs", tmp_path / "runs/photos/coresets/elfs")
    (tmp_path / "runs/photos/coresets/elfs/40").rename(tmp_path / "runs/photos/coresets/elfs/5000")
    namespace = {"__name__": "docs"}
    for language, line, code in blocks(page):
        if language == "python" and ONLY_BOUND in code:
            bind_calls(code)
        elif language == "python":
            run_python(code, page, line, namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_blocks_are_configurations(page, tmp_path):
    for language, _, text in blocks(page):
        if language == "yaml":
            (tmp_path / "run.yaml").write_text(text)
            load_config({}, tmp_path / "run.yaml")


def check_command(words):
    """Parse `elfs-ray` with its options, and validate the configuration that they make."""
    name, *arguments = words
    if "..." in arguments:  # a part of a command: its options at least must be there
        check_options(name, arguments)
        return
    given = COMMANDS[name].make_context(name, arguments).params
    if "set_" in given:
        options = {option: value for option, value in given.items() if option in OPTIONS and value != ()}
        files = [file for file in given["config"] or [] if (ROOT / file).exists()]
        methods = [given["method"]] if isinstance(given.get("method"), str) else given.get("method")
        configurations(methods, {**options, "config": files, "set_": given["set_"]}, REQUIRED)


def check_options(name, words):
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help", "-h"}
    assert {word.split("=")[0] for word in words if word.startswith("-")} <= known, words


def check_script(words):
    """A script of the repository: it is there, and names each option that it is given."""
    script, *arguments = words
    assert (ROOT / script).is_file(), f"there is no {script}"
    if script.startswith("jobs/"):
        start = re.search(r"sys\.argv\[1:1\] = (\[.*\])", (ROOT / script).read_text())
        check_command([*json.loads(start[1]), *arguments])
        return
    source = (ROOT / script).read_text()
    for option in (word.split("=")[0] for word in arguments if word.startswith("--")):
        assert f'"{option}"' in source, f"{script} has no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_are_right(page, plugin, monkeypatch):
    monkeypatch.chdir(ROOT)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *words in (words for kind, _, text in blocks(page) if kind == "console" for words in commands(text)):
        if program == "elfs-ray":
            check_command(words)
        elif program == "make":
            assert set(words) <= set(targets)
        elif program == "python" and words[0] == "-m":
            assert (ROOT / words[2]).exists()
        elif program == "python":
            check_script(words)
        else:
            assert program in NOT_RUN_PROGRAMS, f"{page}: {program} is neither checked nor listed as not run"
        if program == "ray" and "python" in words:
            check_script(words[words.index("python") + 1 :])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_in_the_text_exist(page):
    """`elfs-ray COMMAND --option` and `section.option` within sentences."""
    sections = {name: field.annotation.model_fields for name, field in RunConfig.model_fields.items()
                if hasattr(field.annotation, "model_fields")}  # fmt: skip
    for code in inline_code(page):
        program, *words = code.split()
        if program == "elfs-ray" and words and re.match("[a-z]", words[0]):
            check_options(words[0], words)
        for section, option in re.findall(r"(?:^|--set )([a-z_]+)\.([a-z_]+)(?:=\S+)?$", code):
            if section in sections and option not in ("py", "yaml", "html"):
                assert option in sections[section], f"{page}: {code}"


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(page):
    headings = [tokens(page)[at + 1] for at, token in enumerate(tokens(page)) if token.type == "heading_open"]
    return {slug("".join(child.content for child in heading.children)) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    links = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page)]
    for link in filter(None, links):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "docs/mkdocs/mkdocs.yml").read_text()
    listed = set(re.findall(r"([\w/-]+\.md)$", text.partition("\nnav:")[2].partition("\nplugins:")[0], re.MULTILINE))
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")} <= listed


def test_documented_columns_are_those_of_the_schema():
    schemas = {
        "listing": schema.LISTING,
        "samples": schema.samples(carries_bytes=True),
        "quarantine": schema.QUARANTINE,
        "labels_true": schema.LABELS,
        "embeddings": schema.embeddings(7),
        "pixels": schema.pixels(7),
        "neighbors": schema.neighbors(7),
        "pseudo_labels": schema.PSEUDO_LABELS,
        "dynamics": schema.dynamics(tdds=True),
        "beta_search": schema.BETA_SEARCH,
        "coresets": schema.CORESET,
        "evaluation": schema.EVALUATION,
        "comparison": schema.COMPARISON,
        "near_duplicates": schema.NEAR_DUPLICATES,
        "map": schema.MAP,
        "coverage": schema.COVERAGE,
        "exports": schema.EXPORT,
    }
    parts = re.split(r"^## `(\w+)`$", (ROOT / "docs/reference/artifacts.md").read_text(), flags=re.MULTILINE)
    documented = {
        name: re.findall(r"^\| `(\w+)` \| ([\w<>\[\]]+) \|", text, re.MULTILINE)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    types = {
        name: [(field.name, re.sub(r"(: | not null)|element|item", "", str(field.type))) for field in fields]
        for name, fields in schemas.items()
    }
    assert documented.keys() == types.keys()
    for name, columns in types.items():
        rows = [(column, re.sub(r"\[[dk]\]", "[7]", kind.replace("[b]", "[147]"))) for column, kind in documented[name]]
        assert rows == columns


def test_the_example_of_a_method_selects(plugin, rng):
    """In order of id, whatever the order of the rows, and nearer to the mean of all than a random choice."""
    vectors = rng.normal(size=(200, 5)).astype(np.float32) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    method, order = get_method("herding", pull=1.0), rng.permutation(200)
    chosen = select_coreset(method, SelectionInputs(ids=np.arange(200), embeddings=vectors), 20, rng).positions
    shuffled = select_coreset(method, SelectionInputs(ids=order, embeddings=vectors[order]), 20, rng).positions
    assert order[shuffled].tolist() == chosen.tolist()
    assert len(set(chosen.tolist())) == 20
    gaps = [np.linalg.norm(vectors[rows].mean(axis=0) - vectors.mean(axis=0)) for rows in (chosen, np.arange(20))]
    assert gaps[0] < gaps[1] / 2
    with pytest.raises(UsageError, match="method 'herding' has no option 'pul'; did you mean 'pull'"):
        get_method("herding", pul=1.0)


def shape(line, folder):
    """A line of output without its numbers, sizes, times and spaces."""
    line = re.sub(r"[+-]?\d[\d,.]*", "#", line.replace(f"{folder}/", ""))
    line = re.sub(r"# (KiB|MiB|GiB|B)\b", "# B", re.sub(r"# (min|h)\b", "# s", line))
    return " ".join(line.split())


SAID_OTHERWISE = {"Listed", "Checked", "Embedded", "Found", "Clustered", "Trained", "Improved", "Tried", "..."}
"""Lines that begin so depend on what is there already and on the images; the last stands for left-out ones."""


@pytest.mark.slow
def test_the_tutorial_from_the_first_line_to_the_last(call, small_run, small_input, tmp_path, monkeypatch):
    """On 240 of its images, with half of its budgets and options that end in seconds; but for the plan (test_plan.py).

    The long stages are those of the small run that all tests share, which was over the same images at another place.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "images").symlink_to(small_input[0])
    shutil.copy(small_input[1], "digits/labels.csv")
    shutil.copytree(small_run.run_dir, "digits/run")
    config = load_config({"input": "digits/images", "num_classes": 10, "budgets": [50], **QUICK})
    records = RunFolder("digits/run").records()
    RunFolder("digits/run").update_manifest(input=config.input, records={})
    now = planned(config, num_samples=240)
    for stage in LONG_STAGES:
        unit, known = Unit(stage), RunFolder("digits/run").records()
        now = planned(config, num_samples=240, records=known)
        add_records(
            RunFolder("digits/run"),
            replace(records[unit], fingerprint=now[stage].fingerprint, content=now[stage].fingerprint,
                    rests_on=now[stage].rests_on),
        )  # fmt: skip
    namespace, printed, words = {}, set(), []
    for language, line, whole in blocks(TUTORIAL):
        text = re.sub(r"\b[12]00\b", lambda budget: str(int(budget[0]) // 2), whole)
        if language == "python":
            run_python(text, TUTORIAL, line, namespace)
        elif language == "console":
            [[_, *words]] = commands(text)
            if words[0] == "plan":
                continue
            quick = [f"--set={name}={value}" for name, value in QUICK.items()]
            code, output, err = call(*words, *(quick if words[0] == "run" else []))
            assert code == 0, err
            printed = {shape(row, tmp_path) for row in output.splitlines()}
        elif words[0] != "plan":
            rows = [row for row in text.splitlines() if row and row.split()[0] not in SAID_OTHERWISE]
            missing = {shape(row, tmp_path) for row in rows} - printed
            assert not missing, f"{TUTORIAL}:{line}: not printed: {missing}"
    assert len(namespace["coreset"]) == 50
    answers = Path("digits/labels.csv").read_text().splitlines()
    assert set(Path("digits/done.csv").read_text().splitlines()) <= set(answers)
