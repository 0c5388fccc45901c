"""Commands about this machine and this installation: doctor, methods, dataset, demo."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from elfs_ray.cli.app import app, out, run_folder, say
from elfs_ray.cli.options import DebugOption, LogOption, VerboseOption, given_options, takes_options
from elfs_ray.cli.runs import start
from elfs_ray.console import LogForm
from elfs_ray.errors import UsageError


@app.command()
@takes_options("input_", "encoder", "weights", "address", starts=False)
def doctor(**options: Any) -> None:
    """Look at all that a run needs of this machine, in some seconds; one line each, with the remedy."""
    from elfs_ray.config_loading import load_config
    from elfs_ray.planning.doctor import NO_INPUT, examine

    colours = {"ok": "green", "weak": "yellow", "bad": "red"}
    given = {"input": NO_INPUT, "num_classes": 2, "budgets": [1], **given_options(options)}
    config = load_config(given, options["config"], options["set_"])
    found = []
    for finding in examine(config):
        found.append(finding)
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        told = escape(f"{finding.name:<16} {finding.seen}{remedy}")
        out.print(f"[{colours[finding.state]}]{finding.state:<4}[/] {told}", highlight=False, soft_wrap=True)
    if any(finding.state == "bad" for finding in found):
        raise UsageError("this machine lacks what a run needs; the lines marked `bad` say what to do")


@app.command()
def methods() -> None:
    """List the selection methods."""
    from elfs_ray.methods import available_methods

    table = Table("method", "needs", "what it selects", "source", box=None, pad_edge=False)
    for name, method in sorted(available_methods().items()):
        table.add_row(name, ", ".join(sorted(method.needs)) or "-", method.summary, method.source)
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
    say(f"elfs-ray run --config {description} --budget 0.1 --out RUN")


@app.command()
def demo(
    out_dir: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder for images and run; default: demo-run, demo-run-on-ray.")
    ] = None,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="The same run on a local Ray, as larger inputs have it.")
    ] = False,
    log: LogOption = LogForm.auto,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run everything on the 1,797 handwritten digits that ship with scikit-learn; no network needed."""
    from elfs_ray.config_loading import load_config
    from elfs_ray.data.digits import write_digits
    from elfs_ray.run.where import IN_PROCESS

    folder = out_dir or ("demo-run-on-ray" if on_ray else "demo-run")
    images, labels = write_digits(folder)
    values = {"input": str(images), "budgets": [180], "num_classes": 10, "evaluate.labels": str(labels)}
    config = load_config({**values, "ray.mode": "always" if on_ray else "auto"})
    store = run_folder(f"{folder}/run", may_be_new=True)
    start([config], store, "report", {"log": log, "verbose": verbose, "dry_run": False})
    if log is LogForm.auto and store.manifest()["hardware"]["workers"]["are"] == IN_PROCESS:
        say("This ran in one process. `elfs-ray demo --ray` does the same on Ray, as larger inputs have it.")
