"""The options that several commands of the command line share, each written once."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from elfs_ray.console import LogForm


def _option(sets: str, kind: Any, flags: str, text: str) -> tuple[str, Any]:
    """What an option sets, and what Typer shall know of it."""
    return sets, Annotated[kind | None, typer.Option(*flags.split(), help=text)]


# Options of the commands that start runs: the parameter's name, the option of the configuration that it sets, and how
# it is written. Each of these commands takes all of them but those it names itself.
OPTIONS: dict[str, tuple[str, Any]] = {
    "input_": _option(
        "input", str, "--input -i", "Images: a folder, table, tar shards, ...; not with --embeddings alone."
    ),
    "input_kind": _option(
        "ingest.input_kind",
        str,
        "--input-kind",
        "What the input is: folder, parquet, table, webdataset or hugging-face. Default: what is there.",
    ),
    "budget": _option(
        "budgets",
        list[str],
        "--budget --budgets -b",
        "Images to select: a count (5000) or a fraction (0.1). Repeat, or use commas.",
    ),
    "num_classes": _option(
        "num_classes", int, "--num-classes -c", "Number of classes you expect (>= 2); for methods with pseudo-labels."
    ),
    "labels": _option(
        "evaluate.labels",
        str,
        "--labels",
        "True labels, for evaluation: a CSV or Parquet file, `folders` (the first folder of each path), "
        "`folders:last`, or `column:NAME`.",
    ),
    "test_input": _option("evaluate.test_input", str, "--test-input", "Separate test images for the evaluation."),
    "test_labels": _option("evaluate.test_labels", str, "--test-labels", "Their labels, if given in another form."),
    "allow_unmatched": _option(
        "allow_unmatched", bool, "--allow-unmatched", "Go on where labels belong to no image, and say how many."
    ),
    "model": _option(
        "evaluate.models",
        list[str],
        "--model --models",
        "What the evaluation trains; see `evaluate.models`. Repeat, or use commas.",
    ),
    "seeds": _option("evaluate.seeds", int, "--seeds", "Trainings of the evaluation for each subset and model."),
    "downstream": _option(
        "beta_search.model",
        str,
        "--downstream",
        "What you will train on the coreset, which the search of beta then trains: linear, mlp, "
        "resnet-small, resnet18, resnet34 or resnet50. Default: mlp on embeddings.",
    ),
    "labeled": _option(
        "select.labeled",
        str,
        "--labeled",
        "Samples that have labels already: they count towards the budget, as the first.",
    ),
    "balance": _option(
        "select.balance", str, "--balance", "`cluster`: shares of the budget in proportion to the clusters."
    ),
    "supervised": _option(
        "select.supervised", bool, "--supervised", "A baseline: select by the true labels, not by pseudo-labels."
    ),
    "encoder": _option("embed.encoder", str, "--encoder", "Encoder; see `embed.encoder` in the docs."),
    "weights": _option("embed.weights", str, "--weights", "Local weights file for the encoder."),
    "embeddings": _option(
        "embed.vectors",
        str,
        "--embeddings",
        "Parquet file or folder with ids and embeddings that you have already, in place of an encoder.",
    ),
    "name": _option("name", str, "--name", "Of the run; default: that of its folder."),
    "seed": _option("seed", int, "--seed", "Seed of every random choice."),
    "address": _option("ray.address", str, "--address", "Ray cluster; default $RAY_ADDRESS or a local Ray."),
}
LISTS = ("budget", "model")


def complete_methods(incomplete: str) -> list[str]:
    """Names of selection methods, for the shell."""
    from elfs_ray.methods import method_names

    return [name for name in method_names() if name.startswith(incomplete)]


def complete_stages(incomplete: str) -> list[str]:
    """Names of stages, for the shell."""
    from elfs_ray.stages import STAGES

    return [name for name in (*(stage.command for stage in STAGES), "report") if name.startswith(incomplete)]


def complete_formats(incomplete: str) -> list[str]:
    """Names of export formats, for the shell."""
    from elfs_ray.exports import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


OutOption = Annotated[str, typer.Option("--out", "-o", help="Run folder; run again with the same one to go on.")]
RunArgument = Annotated[str, typer.Argument(help="Run folder.")]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "--methods",
        "-m",
        help="Selection method; see `elfs-ray methods`. Several: with commas.",
        autocompletion=complete_methods,
    ),
]
UntilOption = Annotated[
    str,
    typer.Option(
        "--until",
        metavar="STAGE",
        help="Last stage to run; the commands below are their names.",
        autocompletion=complete_stages,
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
LogOption = Annotated[
    LogForm, typer.Option("--log", help="auto: bars on a terminal, lines elsewhere; quiet: results alone; json.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray itself logs.")]
ConfigOption = Annotated[
    list[Path] | None, typer.Option("--config", help="YAML file with options. Repeat for more; later ones win.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any other option. Repeat for more.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say which stages would run, and do nothing.")
]
# What such commands take beside the configuration's options: annotation and default.
CONFIGURED: dict[str, tuple[Any, Any]] = {"config": (ConfigOption, None), "set_": (SetOption, None)}
STARTING: dict[str, tuple[Any, Any]] = {
    "dry_run": (DryRunOption, False),
    "log": (LogOption, LogForm.auto),
    "verbose": (VerboseOption, False),
}


def takes_options(*names: str, starts: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command some of `OPTIONS` (all, without names) as keyword arguments, and those common to all commands.

    Args:
        names: of the options.
        starts: whether the command starts runs.
    """
    common = {**CONFIGURED, **(STARTING if starts else {}), "debug": (DebugOption, False)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command)
        parameters = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        mapped = {name: (OPTIONS[name][1], None) for name in names or OPTIONS}
        for name, (annotation, default) in {**mapped, **common}.items():
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )
            command.__annotations__[name] = annotation
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined] # Typer reads it
        return command

    return decorate


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the configuration that the command line sets."""
    named = {name: value for name, value in options.items() if name in OPTIONS}
    values = {OPTIONS[name][0]: parts(value) if name in LISTS and value else value for name, value in named.items()}
    return {name: value for name, value in values.items() if value not in (None, [])}


def parts(texts: Sequence[str]) -> list[str]:
    """The words of options that may be repeated or written with commas."""
    return [part.strip() for text in texts for part in text.split(",")]
