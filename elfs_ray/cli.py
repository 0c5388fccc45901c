"""The command line. Nothing here computes: it reads options, calls the pipeline and says what came out."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from elfs_ray import __version__
from elfs_ray.config import RunConfig, load_config
from elfs_ray.console import ConsoleReporter
from elfs_ray.errors import ElfsRayError, UsageError, one_line
from elfs_ray.options import (
    ConfigOption,
    DebugOption,
    MethodOption,
    OutOption,
    RunArgument,
    SetOption,
    UntilOption,
    VerboseOption,
    given_options,
    parts,
    takes_options,
)
from elfs_ray.report.summary import comparison_table, coreset_table
from elfs_ray.storage import check_bucket
from elfs_ray.store import Store

EXIT_INTERRUPTED = 130
INTERRUPTED = "stopped; run the same command again to go on from here"
# What the parser raises on wrong use; Typer exports one of its subclasses only.
CommandLineError: Any = typer.BadParameter.__bases__[0]
out = Console()
err = Console(stderr=True)
app = typer.Typer(
    name="elfs-ray",
    help="Choose which images to label: from unlabelled images and a budget to the coreset that trains the best model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the `elfs-ray` command; exit status 0, 1 (failed), 2 (wrong use) or 130 (interrupted)."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False) or 0
        if code == EXIT_INTERRUPTED:  # Typer makes Ctrl-C an exit without a word
            _complain(INTERRUPTED)
        sys.exit(code)
    except CommandLineError as error:
        if error.format_message():  # without a command, Typer has shown the help
            command = error.ctx.command_path if error.ctx else "elfs-ray"
            _complain(f"{error.format_message().rstrip('.')}; see `{command} -h`")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _complain(INTERRUPTED)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort before a traceback
        if debug:
            err.print_exception()
        if isinstance(error, ElfsRayError):
            _complain(str(error))
            sys.exit(error.exit_code)
        _complain(f"unexpected {type(error).__name__}: {one_line(error)}; add --debug for details, and report them")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command()
@takes_options()
def run(
    *,
    out_dir: OutOption,
    method: MethodOption = None,
    until: UntilOption = "report",
    config: ConfigOption = None,
    set_: SetOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Run the whole pipeline: from images to coreset, evaluation (with --labels) and report.

    Several methods run one after the other in one run folder; what they share runs once.
    """
    configs = _configs(method, options, config, set_)
    _run(configs, Store(out_dir), until, verbose)


@app.command()
@takes_options()
def sweep(
    *,
    out_dir: OutOption,
    method: Annotated[list[str], typer.Option("--method", "--methods", "-m", help="Selection methods, with commas.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Compare methods and budgets: the same as `run` with several methods."""
    _run(_configs(method, options, config, set_), Store(out_dir), "report", verbose)


def _configs(
    methods: Sequence[str] | None,
    options: dict[str, Any],
    files: list[Path] | None,
    overrides: list[str] | None,
    base: dict[str, Any] | None = None,
) -> list[RunConfig]:
    """The configuration of each method; a wrong name is refused before the first one has run for hours."""
    from elfs_ray.methods import get_method

    given, configs = given_options(options), []
    for name in dict.fromkeys(parts(methods)) if methods else [None]:
        values = given if name is None else {**given, "select.method": name}
        configs.append(load_config(values, files, overrides, base=_without_method(base, name)))
        get_method(configs[-1].select.method, **configs[-1].select.options)
    return configs


def _without_method(base: dict[str, Any] | None, method: str | None) -> dict[str, Any] | None:
    """A saved configuration without what it says of another method."""
    select = (base or {}).get("select", {})
    if base is None or method in (None, select.get("method")):
        return base
    return {**base, "select": {name: value for name, value in select.items() if name not in ("options", "beta")}}


def _saved(run_dir: str, given: Mapping[str, Any]) -> tuple[Store, dict[str, Any]]:
    """A run folder, new where options are given that start one, and the configuration that it holds."""
    store = _run_folder(run_dir, may_be_new=any(given.values()))
    return store, store.manifest().get("config", {})


def _add_stage_command(stage: str, summary: str) -> None:
    """Add `elfs-ray STAGE RUN_DIR`, which works with the configuration that the run folder holds."""

    @takes_options("input_", "budget", "num_classes", "address")
    def command(
        *,
        run_dir: RunArgument,
        config: ConfigOption = None,
        set_: SetOption = None,
        verbose: VerboseOption = False,
        debug: DebugOption = False,
        **options: Any,
    ) -> None:
        store, saved = _saved(run_dir, {"config": config, "input": options["input_"]})
        _run(_configs(None, options, config, set_, saved), store, stage, verbose)

    command.__doc__ = f"{summary} Stages before it that are not complete run first."
    app.command(name=stage, rich_help_panel="One stage")(command)


for _stage, _summary in {
    "ingest": "List, check and number the images.",
    "labels": "Bring true labels into the run folder, for the evaluation.",
    "embed": "Turn the images into embeddings.",
    "neighbors": "Find the nearest neighbours of each image.",
    "cluster": "Cluster the embeddings into pseudo-labels (TEMI).",
    "anchor": "Improve the pseudo-labels with the labels that some images have (select.labeled).",
    "proxy": "Train the proxy classifier and record its training dynamics.",
    "beta-search": "Search the share of hardest images to drop.",
    "select": "Select the coreset.",
    "report": "Write the HTML report.",
}.items():
    _add_stage_command(_stage, _summary)


@app.command(rich_help_panel="One stage")
@takes_options("budget", "labels", "test_input", "test_labels", "model", "seeds", "downstream", "supervised", "address")
def evaluate(
    *,
    run_dir: RunArgument,
    method: MethodOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Train on coresets with true labels and compare with random subsets; methods and budgets as you name them.

    Stages before it that are not complete run first. The run keeps its own method, budgets and search.
    """
    store, saved = _saved(run_dir, {"config": config})
    own = ("select", "budgets", "beta_search")
    _run(_configs(method, options, config, set_, saved), store, "evaluate", verbose, keep=own)


@app.command()
@takes_options()
def plan(
    *,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Selection method.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="Of the whole machine or cluster.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
    debug: DebugOption = False,
    **options: Any,
) -> None:
    """Estimate rows, bytes, time and money of a run on this hardware, from a few seconds of measuring."""
    from elfs_ray.plan import make_plan

    chosen = _configs([method] if method else None, options, config, set_)
    made = make_plan(chosen[0], price_per_hour=price_per_hour)
    if as_json:
        out.print_json(data=made.as_json())
        return
    for part in made.tables():
        out.print(part, highlight=False)


@app.command()
def status(run_dir: Annotated[str, typer.Argument(help="Run folder.")]) -> None:
    """Show what a run folder holds and what is missing."""
    manifest = _run_folder(run_dir).manifest()
    table = Table("stage", "rows", "seconds", "memory MB", box=None, pad_edge=False)
    for unit, record in manifest.get("stages", {}).items():
        rows = ", ".join(f"{count:,} {name}" for name, count in record["rows"].items())
        table.add_row(unit, rows, f"{record['seconds']:.1f}", f"{record['peak_memory_mb']:,}")
    out.print(f"run {manifest['name']} over {manifest['input']}", highlight=False, soft_wrap=True)
    out.print(table)
    state = (
        f"finished {manifest['finished']}" if manifest["finished"] else "not finished: run the same command to go on"
    )
    out.print(state, highlight=False)


@app.command()
@takes_options("input_", "encoder", "weights", "address")
def doctor(*, debug: DebugOption = False, **options: Any) -> None:
    """Look at all that a run needs of this machine, in some seconds; one line each, with the remedy."""
    from elfs_ray.doctor import NO_INPUT, examine

    colours = {"ok": "green", "weak": "yellow", "bad": "red"}
    config = load_config({"input": NO_INPUT, "num_classes": 2, "budgets": [1], **given_options(options)})
    found = []
    for finding in examine(config):
        found.append(finding)
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        told = escape(f"{finding.name:<16} {finding.seen}{remedy}")
        out.print(f"[{colours[finding.state]}]{finding.state:<4}[/] {told}", highlight=False, soft_wrap=True)
    if any(finding.state == "bad" for finding in found):
        raise UsageError("this machine lacks what a run needs; the lines marked `bad` say what to do")


@app.command()
def export(
    run_dir: RunArgument,
    to: Annotated[str, typer.Option("--to", help="csv, parquet, jsonl, label-studio, cvat, coco, fiftyone, ...")],
    out_dir: Annotated[str, typer.Option("--out", "-o", help="Folder to write.")],
    coreset: Annotated[
        str | None, typer.Option("--coreset", help="METHOD/BUDGET; needed if there are several.")
    ] = None,
    pre_annotations: Annotated[
        bool, typer.Option("--pre-annotations", help="Give pseudo-labels to annotators.")
    ] = False,
    url: Annotated[str | None, typer.Option("--url", help="Where the tool reaches the images.")] = None,
    debug: DebugOption = False,
) -> None:
    """Write a coreset in the form that an annotation tool or training code reads."""
    from elfs_ray.exports import export_coreset, only_coreset

    store = _run_folder(run_dir)
    name = coreset or only_coreset(store)
    written = export_coreset(store, name, to, out_dir, pre_annotations=pre_annotations, url=url)
    out.print(f"{store.count_rows('coresets', name):,} images of {name} in {written}", highlight=False, soft_wrap=True)


@app.command(name="import-labels")
def import_labels(
    run_dir: RunArgument,
    annotations: Annotated[str, typer.Argument(help="What the tool exported: Label Studio JSON, CVAT XML, COCO JSON.")],
    out_file: Annotated[str, typer.Option("--out", "-o", help="CSV file to write; give it to `--labeled`.")],
    debug: DebugOption = False,
) -> None:
    """Bring annotations back, as labels that the next run takes with `--labeled`."""
    from elfs_ray.exports.labels import write_labels

    count = write_labels(_run_folder(run_dir), annotations, out_file)
    out.print(f"{count:,} labels in {out_file}; go on with `--labeled {out_file}`", highlight=False, soft_wrap=True)


def _run_folder(run_dir: str, *, may_be_new: bool = False) -> Store:
    """A folder that holds a run."""
    store = Store(run_dir)
    check_bucket(store.uri)
    if not may_be_new and not store.manifest():
        raise UsageError(
            f"{store.uri} holds no run (manifest.json is missing); check the path, or start one with "
            f"`elfs-ray run --out {run_dir} --input ...`"
        )
    return store


@app.command()
def methods() -> None:
    """List the selection methods."""
    from elfs_ray.methods import available_methods

    table = Table("method", "needs", "what it selects", "source", box=None, pad_edge=False)
    for name, method in sorted(available_methods().items()):
        table.add_row(
            name, ", ".join(sorted(need.value for need in method.needs)) or "-", method.summary, method.source
        )
    out.print(table)


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100, stl10, imagenet or folders.")],
    source: Annotated[str, typer.Argument(help="Folder with the files as downloaded and unpacked.")],
    out_dir: Annotated[str, typer.Option("--out", "-o", help="Folder for what runs read.")],
    debug: DebugOption = False,
) -> None:
    """Prepare a well-known data set for runs: Parquet tables, and a configuration that names them."""
    from elfs_ray.data.datasets import write_dataset

    description = write_dataset(name, source, out_dir)
    out.print(f"elfs-ray run --config {description} --budget 0.1 --out RUN", highlight=False, soft_wrap=True)


@app.command()
def demo(
    out_dir: Annotated[str, typer.Option("--out", "-o", help="Folder for the images and the run.")] = "demo-run",
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run everything on the 1,797 handwritten digits that ship with scikit-learn; no network needed."""
    from elfs_ray.data.digits import write_digits

    images, labels = write_digits(out_dir)
    values = {"input": str(images), "budgets": [180], "num_classes": 10, "evaluate.labels": str(labels)}
    _run([load_config(values)], Store(f"{out_dir}/run"), "report", verbose)


def _run(configs: Sequence[RunConfig], store: Store, until: str, verbose: bool, *, keep: Sequence[str] = ()) -> None:
    """One run for each configuration, in one run folder; then what came out."""
    from elfs_ray import pipeline

    for config in configs:
        manifest = pipeline.run(config, store, ConsoleReporter(out), until=until, verbose=verbose, keep=keep)
    if until in ("evaluate", "report"):
        _summarise(store, manifest, {config.select.name for config in configs})


def _summarise(store: Store, manifest: dict[str, Any], methods: set[str]) -> None:
    """Say where the results are and what they are worth; in detail for one coreset, side by side for several."""
    stages = manifest["stages"]
    found = [unit.removeprefix("coresets/") for unit in stages if unit.startswith("coresets/")]
    wanted = [name for name in found if name.split("/")[0] in methods]
    out.print()
    for name in wanted:
        _say("coreset", store.location(f"coresets/{name}"))
    if store.exists("report.html"):
        _say("report", store.location("report.html"))
    if len(wanted) == 1:
        evaluation = stages.get(f"evaluation/{wanted[0]}")
        if evaluation:
            _say("evaluation", store.location(f"evaluation/{wanted[0]}"))
        out.print(coreset_table(stages[f"coresets/{wanted[0]}"], evaluation))
    elif store.exists("comparison"):
        _say("comparison", store.location("comparison"))
        out.print(comparison_table(store.read_table("comparison").to_pylist()))


def _say(what: str, where: str) -> None:
    out.print(f"{what:<11} {where}", highlight=False, soft_wrap=True)


def _complain(message: str) -> None:
    err.print(f"elfs-ray: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
