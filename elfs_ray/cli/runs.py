"""Commands that run stages: run, sweep, evaluate, plan, and one for each stage."""

import contextlib
import json
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elfs_ray.artifacts.manifest import REPORT
from elfs_ray.cli.app import app, out, run_folder, say
from elfs_ray.cli.options import (
    MethodOption,
    OutOption,
    RunArgument,
    UntilOption,
    complete_methods,
    given_options,
    parts,
    takes_options,
)
from elfs_ray.console import LogForm, make_reporter
from elfs_ray.run.told import opening
from elfs_ray.stages import STAGES
from elfs_ray.stages.descriptor import Stage

if TYPE_CHECKING:
    from elfs_ray.artifacts.record import Unit
    from elfs_ray.artifacts.run_folder import RunFolder
    from elfs_ray.config import RunConfig


@app.command()
@takes_options()
def run(
    *,
    out_dir: OutOption,
    method: MethodOption = None,
    until: UntilOption = "report",
    **options: Any,
) -> None:
    """Run the whole pipeline: from images to coreset, evaluation (with --labels) and report.

    Several methods run one after the other in one run folder; what they share runs once.
    """
    start(configurations(method, options), run_folder(out_dir, may_be_new=True), until, options)


@app.command()
@takes_options()
def sweep(
    *,
    out_dir: OutOption,
    method: Annotated[list[str], typer.Option("--method", "--methods", "-m", help="Selection methods, with commas.")],
    **options: Any,
) -> None:
    """Compare methods and budgets: the same as `run` with several methods."""
    start(configurations(method, options), run_folder(out_dir, may_be_new=True), "report", options)


def configurations(
    methods: Sequence[str] | None, options: Mapping[str, Any], base: dict[str, Any] | None = None
) -> "list[RunConfig]":
    """The configuration of each method; a wrong name is refused before the first one has run for hours."""
    from elfs_ray.config_loading import load_config, without_method
    from elfs_ray.methods import get_method

    given, configs = given_options(options), []
    for name in dict.fromkeys(parts(methods)) if methods else [None]:
        values = given if name is None else {**given, "select.method": name}
        configs.append(load_config(values, options["config"], options["set_"], base=without_method(base, name)))
        get_method(configs[-1].select.method, **configs[-1].select.options)
    return configs


def _saved(run_dir: str, *given: Any) -> "tuple[RunFolder, dict[str, Any]]":
    """A run folder, new where something is given that starts one, and the options that it remembers."""
    from elfs_ray.config_loading import saved_options

    store = run_folder(run_dir, may_be_new=any(given))
    return store, saved_options(store.manifest())


def _add_stage_command(stage: Stage) -> None:
    """Add `elfs-ray STAGE RUN_DIR`, which works with the configuration that the run folder holds."""

    @takes_options("input_", "budget", "num_classes", "allow_unmatched", "address")
    def command(*, run_dir: RunArgument, **options: Any) -> None:
        store, saved = _saved(run_dir, options["config"], options["input_"])
        again = stage.name in ("listing", "ingest") or bool(options["input_"])
        start(configurations(None, options, saved), store, stage.command, options, look_again=again)

    command.__doc__ = f"{stage.summary} Stages before it that are not complete run first."
    app.command(name=stage.command, rich_help_panel="One stage")(command)


for _stage in STAGES:
    if _stage.name != "evaluate":  # which has options of its own
        _add_stage_command(_stage)


@app.command(rich_help_panel="One stage")
@takes_options(
    *("budget", "labels", "test_input", "test_labels", "allow_unmatched"),
    *("model", "seeds", "downstream", "supervised", "address"),
)
def evaluate(*, run_dir: RunArgument, method: MethodOption = None, **options: Any) -> None:
    """Train on coresets with true labels and compare with random subsets; methods and budgets as you name them.

    Stages before it that are not complete run first. The run keeps its own method, budgets and search.
    """
    store, saved = _saved(run_dir, options["config"])
    start(
        configurations(method, options, saved),
        store,
        "evaluate",
        options,
        keep=("select", "budgets", "beta_search"),
        look_again=False,
    )


@app.command(rich_help_panel="One stage")
@takes_options("address")
def report(
    *,
    run_dir: RunArgument,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the report that is there to browsers of this machine, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="With --serve; 0 takes any free one.")] = 8000,
    **options: Any,
) -> None:
    """Write the HTML report, or show it. Stages before it that are not complete run first, but not to show it."""
    store, saved = _saved(run_dir, options["config"])
    if serve:
        _serve(store, port)
    else:
        start(configurations(None, options, saved), store, "report", options, look_again=False)


def _serve(store: "RunFolder", port: int) -> None:
    from elfs_ray.report.serve import HOST, serve_report

    signal.signal(signal.SIGINT, signal.default_int_handler)  # here it is no interruption
    with serve_report(store, port) as server:
        say(f"http://{HOST}:{server.server_port}/ shows the report; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


@app.command()
@takes_options(starts=False)
def plan(
    *,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Selection method.", autocompletion=complete_methods)
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="Of the whole machine or cluster.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
    **options: Any,
) -> None:
    """Estimate rows, bytes, time and money of a run on this hardware, from a few seconds of measuring."""
    from elfs_ray.planning.forecast import make_plan

    chosen = configurations([method] if method else None, options)
    made = make_plan(chosen[0], price_per_hour=price_per_hour)
    if as_json:
        out.print_json(data=made.as_json())
        return
    for part in made.tables():
        out.print(part, highlight=False)


def start(
    configs: "Sequence[RunConfig]",
    store: "RunFolder",
    until: str,
    options: Mapping[str, Any],
    *,
    keep: Sequence[str] = (),
    look_again: bool = True,
) -> None:
    """A run of one or several methods; then what came out.

    Args:
        configs: one for each method.
        store: the run folder.
        until: last stage to run.
        options: how, as on the command line: `log`, `dry_run`, `verbose`.
        keep: options that hold for this run alone.
        look_again: whether to look if the inputs have changed since the run folder listed them.
    """
    form = LogForm(options["log"])
    reporter = make_reporter(form, out)
    if not options["dry_run"]:
        reporter.line(opening(configs, store.uri, until))  # what is imported now takes seconds
    from elfs_ray.report.summary import steps_table
    from elfs_ray.run.outline import outline
    from elfs_ray.run.runner import run_methods

    if options["dry_run"]:
        names = ", ".join(config.select.name for config in configs)
        steps = outline(configs, store, until=until)
        out.print(steps_table(names, [(step.doing, step.state) for step in steps]))
        return
    run_methods(configs, store, reporter, until=until, verbose=options["verbose"], keep=keep, look_again=look_again)
    if until not in ("evaluate", "report"):
        return
    methods = {config.select.name for config in configs}
    wanted = [unit for unit in store.records().current.of("select") if unit.method in methods]
    if form is LogForm.auto:
        _summarise(store, wanted)
    else:
        _say_places(store, wanted, form)


def _say_places(store: "RunFolder", coresets: "Sequence[Unit]", form: LogForm) -> None:
    """Where the results are, for a program to read."""
    places = {"coresets": [store.location(unit.artifact("coresets")) for unit in coresets]}
    if store.exists(REPORT):
        places["report"] = [store.location(REPORT)]
    if form is LogForm.json:
        say(json.dumps({"event": "result", **places}))
        return
    for place in [place for several in places.values() for place in several]:
        say(place)


def _summarise(store: "RunFolder", coresets: "Sequence[Unit]") -> None:
    """Say where the results are and what they are worth; in detail for one coreset, side by side for several."""
    from elfs_ray.report.comparison import read_comparison
    from elfs_ray.report.summary import comparison_table, coreset_table, unlike_trainings

    records = store.records().current
    out.print()
    for unit in coresets:
        _say_place("picks", store.location(unit.artifact("coresets")))
    if store.exists(REPORT):
        _say_place("report", store.location(REPORT))
    if len(coresets) == 1:
        evaluation = records.beside(coresets[0], "evaluate")
        if evaluation:
            _say_place("evaluation", store.location(coresets[0].artifact("evaluation")))
        out.print(coreset_table(records[coresets[0]], evaluation))
    elif store.exists("comparison"):
        _say_place("comparison", store.location("comparison"))
        out.print(comparison_table(read_comparison(store)))
        for line in unlike_trainings(records):
            say(line)
    _say_next(store, coresets)


def _say_next(store: "RunFolder", coresets: "Sequence[Unit]") -> None:
    """The command that comes next, most of the time."""
    if not coresets:
        return
    several = len(store.records().current.of("select")) > 1
    which = f" --coreset {coresets[0].coreset}" if several else ""
    _say_place("next", f"elfs-ray export {store.uri} --to csv --out picks{which}")


def _say_place(what: str, where: str) -> None:
    say(f"{what:<11} {where}")
