"""The options that several commands of the command line share, each written once."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

# Options of the commands that start runs: the parameter's name, the option of the configuration that it sets, and how
# it is written. Each of these commands takes all of them but those it names itself.
OPTIONS: dict[str, tuple[str, Any]] = {
    "input_": (
        "input",
        Annotated[
            str | None,
            typer.Option(
                "--input", "-i", help="Images: a folder, table, tar shards, ...; not with --embeddings alone."
            ),
        ],
    ),
    "budget": (
        "budgets",
        Annotated[
            list[str] | None,
            typer.Option(
                "--budget",
                "--budgets",
                "-b",
                help="Images to select: a count (5000) or a fraction (0.1). Repeat, or use commas.",
            ),
        ],
    ),
    "num_classes": (
        "num_classes",
        Annotated[int | None, typer.Option("--num-classes", "-c", help="Number of classes you expect (>= 2).")],
    ),
    "labels": (
        "evaluate.labels",
        Annotated[
            str | None,
            typer.Option(
                "--labels", help="True labels, for evaluation: a CSV or Parquet file, `folders`, or `column:NAME`."
            ),
        ],
    ),
    "test_input": (
        "evaluate.test_input",
        Annotated[str | None, typer.Option("--test-input", help="Separate test images for the evaluation.")],
    ),
    "test_labels": (
        "evaluate.test_labels",
        Annotated[str | None, typer.Option("--test-labels", help="Their labels, if given in another form.")],
    ),
    "model": (
        "evaluate.models",
        Annotated[
            list[str] | None,
            typer.Option(
                "--model", "--models", help="What the evaluation trains; see `evaluate.models`. Repeat, or use commas."
            ),
        ],
    ),
    "seeds": (
        "evaluate.seeds",
        Annotated[int | None, typer.Option("--seeds", help="Trainings of the evaluation for each subset and model.")],
    ),
    "downstream": (
        "beta_search.model",
        Annotated[
            str | None,
            typer.Option(
                "--downstream",
                help="What you will train on the coreset, which the search of beta then trains: linear, mlp, "
                "resnet-small, resnet18, resnet34 or resnet50. Default: mlp on embeddings.",
            ),
        ],
    ),
    "labeled": (
        "select.labeled",
        Annotated[
            str | None,
            typer.Option(
                "--labeled", help="Samples that have labels already: they count towards the budget, as the first."
            ),
        ],
    ),
    "balance": (
        "select.balance",
        Annotated[
            str | None,
            typer.Option("--balance", help="`cluster`: shares of the budget in proportion to the clusters."),
        ],
    ),
    "supervised": (
        "select.supervised",
        Annotated[
            bool | None,
            typer.Option("--supervised", help="A baseline: select by the true labels, not by pseudo-labels."),
        ],
    ),
    "encoder": (
        "embed.encoder",
        Annotated[str | None, typer.Option("--encoder", help="Encoder; see `embed.encoder` in the docs.")],
    ),
    "weights": (
        "embed.weights",
        Annotated[str | None, typer.Option("--weights", help="Local weights file for the encoder.")],
    ),
    "embeddings": (
        "embed.vectors",
        Annotated[
            str | None,
            typer.Option(
                "--embeddings",
                help="Parquet file or folder with ids and embeddings that you have already, in place of an encoder.",
            ),
        ],
    ),
    "seed": ("seed", Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")]),
    "address": (
        "ray.address",
        Annotated[str | None, typer.Option("--address", help="Ray cluster; default $RAY_ADDRESS or a local Ray.")],
    ),
}
LISTS = ("budget", "model")
OutOption = Annotated[str, typer.Option("--out", "-o", help="Run folder; run again with the same one to go on.")]
RunArgument = Annotated[str, typer.Argument(help="Run folder.")]
MethodOption = Annotated[
    list[str] | None,
    typer.Option("--method", "--methods", "-m", help="Selection method; see `elfs-ray methods`. Several: with commas."),
]
UntilOption = Annotated[
    str, typer.Option("--until", metavar="STAGE", help="Last stage to run; the commands below are their names.")
]
ConfigOption = Annotated[
    list[Path] | None, typer.Option("--config", help="YAML file with options. Repeat for more; later ones win.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any other option. Repeat for more.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray itself logs.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def takes_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command some of `OPTIONS` (all, without names), which it receives as keyword arguments."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command)
        parameters = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        kind = inspect.Parameter.KEYWORD_ONLY
        for name in names or OPTIONS:
            annotation = OPTIONS[name][1]
            parameters.append(inspect.Parameter(name, kind, default=None, annotation=annotation))
            command.__annotations__[name] = annotation
        parameters.sort(key=lambda one: (one.kind, one.name in ("config", "set_", "verbose", "debug")))
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined] # Typer reads it
        return command

    return decorate


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the configuration that the command line sets."""
    values = {OPTIONS[name][0]: parts(value) if name in LISTS and value else value for name, value in options.items()}
    return {name: value for name, value in values.items() if value not in (None, [])}


def parts(texts: Sequence[str]) -> list[str]:
    """The words of options that may be repeated or written with commas."""
    return [part.strip() for text in texts for part in text.split(",")]
