"""The command line. Nothing here computes: it reads options, calls the pipeline and says what came out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from elfs_ray import __version__
from elfs_ray.config import RunConfig, load_config
from elfs_ray.console import ConsoleReporter
from elfs_ray.errors import ElfsRayError, UsageError, one_line
from elfs_ray.storage import check_bucket
from elfs_ray.store import Store

EXIT_INTERRUPTED = 130
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

# Parameters of `run` and `sweep` that set an option of the configuration, by its name there.
CONFIG_NAMES = {
    "input_": "input",
    "budget": "budgets",
    "num_classes": "num_classes",
    "seed": "seed",
    "method": "select.method",
    "labels": "evaluate.labels",
    "test_input": "evaluate.test_input",
    "test_labels": "evaluate.test_labels",
    "labeled": "select.labeled",
    "balance": "select.balance",
    "supervised": "select.supervised",
    "encoder": "embed.encoder",
    "weights": "embed.weights",
    "address": "ray.address",
}
OutOption = Annotated[str, typer.Option("--out", "-o", help="Run folder; run again with the same one to go on.")]
InputOption = Annotated[str | None, typer.Option("--input", "-i", help="Image folder, or Parquet file or folder.")]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", "-b", help="Images to select: a count (5000) or a fraction (0.1). Repeat, or use commas."),
]
ClassesOption = Annotated[int | None, typer.Option("--num-classes", "-c", help="Number of classes you expect (>= 2).")]
MethodOption = Annotated[str | None, typer.Option("--method", "-m", help="Selection method; see `elfs-ray methods`.")]
MethodsOption = Annotated[list[str], typer.Option("--method", "-m", help="Selection methods. Repeat, or use commas.")]
UntilOption = Annotated[
    str, typer.Option("--until", metavar="STAGE", help="Last stage to run; the commands below are their names.")
]
LabelsOption = Annotated[
    str | None,
    typer.Option("--labels", help="True labels, for evaluation: a CSV or Parquet file, `folders`, or `column:NAME`."),
]
TestInputOption = Annotated[str | None, typer.Option("--test-input", help="Separate test images for the evaluation.")]
TestLabelsOption = Annotated[str | None, typer.Option("--test-labels", help="Their labels, if given in another form.")]
LabeledOption = Annotated[
    str | None,
    typer.Option("--labeled", help="Samples that have labels already: they count towards the budget, as the first."),
]
BalanceOption = Annotated[
    str | None, typer.Option("--balance", help="`cluster`: shares of the budget in proportion to the clusters.")
]
SupervisedOption = Annotated[
    bool | None, typer.Option("--supervised", help="A baseline: select by the true labels, not by pseudo-labels.")
]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Encoder; see `embed.encoder` in the docs.")]
WeightsOption = Annotated[str | None, typer.Option("--weights", help="Local weights file for the encoder.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file with options.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any other option. Repeat for more.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Ray cluster; default $RAY_ADDRESS or a local Ray.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray itself logs.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Entry point of the `elfs-ray` command; exit status 0, 1 (failed), 2 (wrong use) or 130 (interrupted)."""
    debug = "--debug" in sys.argv[1:]
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except CommandLineError as error:
        if error.format_message():  # without a command, Typer has shown the help
            command = error.ctx.command_path if error.ctx else "elfs-ray"
            _complain(f"{error.format_message().rstrip('.')}; see `{command} -h`")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _complain("stopped; run the same command again to go on from here")
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
def run(
    context: typer.Context,
    out_dir: OutOption,
    input_: InputOption = None,
    budget: BudgetOption = None,
    num_classes: ClassesOption = None,
    method: MethodOption = None,
    until: UntilOption = "report",
    labels: LabelsOption = None,
    test_input: TestInputOption = None,
    test_labels: TestLabelsOption = None,
    labeled: LabeledOption = None,
    balance: BalanceOption = None,
    supervised: SupervisedOption = None,
    encoder: EncoderOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the whole pipeline: from images to coreset, evaluation (with --labels) and report."""
    _run(load_config(_given(context), config, set_), Store(out_dir), until, verbose)


@app.command()
def sweep(
    context: typer.Context,
    out_dir: OutOption,
    method: MethodsOption,
    input_: InputOption = None,
    budget: BudgetOption = None,
    num_classes: ClassesOption = None,
    labels: LabelsOption = None,
    test_input: TestInputOption = None,
    test_labels: TestLabelsOption = None,
    labeled: LabeledOption = None,
    balance: BalanceOption = None,
    supervised: SupervisedOption = None,
    encoder: EncoderOption = None,
    weights: WeightsOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare methods and budgets: run the pipeline for each in one run folder; what they share runs once."""
    from elfs_ray import pipeline
    from elfs_ray.methods import get_method

    given = _given(context)
    configs = [load_config({**given, "select.method": name}, config, set_) for name in dict.fromkeys(_parts(method))]
    for one in configs:  # a wrong name is refused before the first method has run for hours
        get_method(one.select.method, **one.select.options)
    store = Store(out_dir)
    for one in configs:
        manifest = pipeline.run(one, store, ConsoleReporter(out), verbose=verbose)
    _summarise(store, manifest)


def _add_stage_command(stage: str, summary: str) -> None:
    """Add `elfs-ray STAGE RUN_DIR`, which works with the configuration that the run folder holds."""

    def command(
        run_dir: Annotated[str, typer.Argument(help="Run folder.")],
        input_: InputOption = None,
        budget: BudgetOption = None,
        num_classes: ClassesOption = None,
        config: ConfigOption = None,
        set_: SetOption = None,
        address: AddressOption = None,
        verbose: VerboseOption = False,
        debug: DebugOption = False,
    ) -> None:
        store = Store(run_dir)
        check_bucket(store.uri)
        budgets = _parts(budget) if budget else None
        options = {"input": input_, "budgets": budgets, "num_classes": num_classes, "ray.address": address}
        given = {name: value for name, value in options.items() if value is not None}
        saved = store.manifest().get("config", {})
        if not saved and config is None and "input" not in given:
            raise UsageError(f"{store.uri} holds no run; start one with `elfs-ray run --out {run_dir} --input ...`")
        _run(load_config(given, config, set_, base=saved), store, stage, verbose)

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
    "evaluate": "Train on the coreset with true labels and compare with random subsets.",
    "report": "Write the HTML report.",
}.items():
    _add_stage_command(_stage, _summary)


@app.command()
def plan(
    context: typer.Context,
    input_: InputOption = None,
    budget: BudgetOption = None,
    num_classes: ClassesOption = None,
    method: MethodOption = None,
    labels: LabelsOption = None,
    test_input: TestInputOption = None,
    test_labels: TestLabelsOption = None,
    encoder: EncoderOption = None,
    weights: WeightsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="Of the whole machine or cluster.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Estimate rows, bytes, time and money of a run on this hardware, from a few seconds of measuring."""
    from elfs_ray.plan import make_plan

    made = make_plan(load_config(_given(context), config, set_), price_per_hour=price_per_hour)
    if as_json:
        out.print_json(data=made.as_json())
        return
    for part in made.tables():
        out.print(part, highlight=False)


@app.command()
def status(run_dir: Annotated[str, typer.Argument(help="Run folder.")]) -> None:
    """Show what a run folder holds and what is missing."""
    store = Store(run_dir)
    check_bucket(store.uri)
    manifest = store.manifest()
    if not manifest:
        raise UsageError(f"{store.uri} holds no run (manifest.json is missing); check the path")
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
def demo(
    out_dir: Annotated[str, typer.Option("--out", "-o", help="Folder for the images and the run.")] = "demo-run",
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run everything on the 1,797 handwritten digits that ship with scikit-learn; no network needed."""
    from elfs_ray.data.digits import write_digits

    images, labels = write_digits(out_dir)
    values = {"input": str(images), "budgets": [180], "num_classes": 10, "evaluate.labels": str(labels)}
    _run(load_config(values), Store(f"{out_dir}/run"), "report", verbose)


def _run(config: RunConfig, store: Store, until: str, verbose: bool) -> None:
    from elfs_ray import pipeline

    manifest = pipeline.run(config, store, ConsoleReporter(out), until=until, verbose=verbose)
    if until in ("evaluate", "report"):
        _summarise(store, manifest)


def _summarise(store: Store, manifest: dict[str, Any]) -> None:
    """Say where the results are and what they are worth."""
    stages = manifest["stages"]
    for unit, record in stages.items():
        if not unit.startswith("coresets/"):
            continue
        name = unit.removeprefix("coresets/")
        out.print()
        out.print(f"coreset     {store.location(unit)}", highlight=False, soft_wrap=True)
        evaluation = stages.get(f"evaluation/{name}")
        if evaluation:
            out.print(f"evaluation  {store.location(f'evaluation/{name}')}", highlight=False, soft_wrap=True)
        if store.exists("report.html"):
            out.print(f"report      {store.location('report.html')}", highlight=False, soft_wrap=True)
        out.print(_summary_table(record, evaluation))


def _summary_table(coreset: dict[str, Any], evaluation: dict[str, Any] | None) -> Table:
    metrics = coreset["metrics"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("images selected", f"{metrics['budget']:,} by {metrics['method']}")
    if metrics["supervised"]:
        table.add_row("a supervised baseline", "selected with true labels")
    if metrics.get("choice"):
        table.add_row("chosen method", metrics["choice"])
    if metrics.get("labeled"):
        table.add_row("of these labelled before", f"{metrics['labeled']:,}")
    if metrics["beta"] is not None:
        table.add_row("chosen beta", f"{metrics['beta']:g}")
    if evaluation:
        results = evaluation["metrics"]
        if "pseudo_label_accuracy" in results:
            table.add_row("pseudo-label accuracy", f"{results['pseudo_label_accuracy']:.1%}")
        if results.get("test_dropped"):
            table.add_row("test images left out", f"{results['test_dropped']:,}, which are candidates too")
        for name, value in results["subsets"].items():
            label = "random subset" if name == "random" else f"{name} coreset"
            table.add_row(f"test accuracy, {label}", f"{value['mean']:.1%} ± {value['std']:.1%} ({value['n']} seeds)")
    return table


def _given(context: typer.Context) -> dict[str, Any]:
    """The options of the configuration that the command line sets."""
    values = {CONFIG_NAMES[name]: value for name, value in context.params.items() if name in CONFIG_NAMES}
    values["budgets"] = _parts(values["budgets"] or []) or None
    return {name: value for name, value in values.items() if value is not None}


def _parts(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def _complain(message: str) -> None:
    err.print(f"elfs-ray: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
