"""The Python API: picks from what is in memory, runs from images to a coreset, and single stages.

What computes is imported in the calls, once the libraries have folders that they can write to.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from elfs_ray.artifacts.filesystems import without_options
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RunConfig, fingerprint
from elfs_ray.config_loading import PickOptions, RunOptions, load_config, saved_options, without_method
from elfs_ray.console import Reporter, shown_in_python
from elfs_ray.errors import UsageError
from elfs_ray.results import Result, read_coresets
from elfs_ray.stages import STAGES
from elfs_ray.workers.machine import provide_folders
from elfs_ray.workers.search_path import StandardLibraryFirst

Budgets = float | str | Sequence[float | str]
_FOLDER_NAME_LENGTH = 40
_MEMORY = "in memory"
"""In place of where the input is."""


def pick(
    X: Any,
    budget: float | str,
    *,
    method: str = "zcore",
    seed: int = 0,
    num_classes: int | None = None,
    labeled: Any = None,
    groups: Any = None,
    beta: float | None = None,
    balance: str = "auto",
    options: dict[str, Any] | None = None,
    encoder: str | None = None,
    progress: bool = True,
    **sections: Unpack[PickOptions],
) -> np.ndarray:
    """Pick the samples to label, in this process: the same ones as a run over the same embeddings picks.

    Args:
        X: a matrix of embeddings with a row for each sample (NumPy array, torch tensor, Arrow column of lists, pandas
            column of vectors), or a list of images: paths, URIs, or pictures of Pillow, which are embedded first.
        budget: samples to pick: a count (100), or the fraction to keep (0.1).
        method: a name that `elfs-ray methods` lists.
        seed: of every random choice: the same seed, the same picks.
        num_classes: number of classes that you expect, for methods that work with pseudo-labels.
        labeled: samples that have labels already, as positions or as a mask (bool, one for each sample). They count
            towards the budget and are the first that come back; methods that cover know that they are covered.
        groups: a name or number for each sample, such as its video. Each group gives one sample at most: the one
            nearest to the group's mean, and none if it has a labelled one. None or NaN: of no group.
        beta: use this beta and skip the search.
        balance: `cluster`, `none`, or `auto`: shares of the budget for the clusters.
        options: of the method, such as `{"draws": 1_000_000}`.
        encoder: of images, as `embed.encoder` takes it.
        progress: show how far long computations are.
        **sections: further options, by section.

    Returns:
        Positions in X, int64 [budget], in rank order; before them those that have labels already, in ascending order.

    Raises:
        UsageError: a wrong value; the message says what to change.
    """
    values = {
        "input": _MEMORY,
        "budgets": [budget.item() if isinstance(budget, np.generic) else budget],
        "num_classes": num_classes,
        "seed": seed,
        **sections,
        "select": {"method": method, "options": options or {}, "beta": beta, "balance": balance},
        **({} if encoder is None else {"embed.encoder": encoder}),
    }
    config = load_config(values)
    provide_folders()
    with StandardLibraryFirst():
        from elfs_ray.in_memory.picking import pick_samples

        return pick_samples(X, config, labeled, groups, _reporter(None, progress=progress))


def select(
    input: str | Path | None,
    budget: Budgets,
    *,
    method: str | None = None,
    num_classes: int | None = None,
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool = True,
    reporter: Reporter | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Choose the images to label.

    Args:
        input: images, as `--input` takes them; local, s3://, gs:// or hf://. None: `embed.vectors` are all there is.
        budget: images to select: a count (5000), the fraction to keep (0.1), or several of them.
        method: a name that `elfs-ray methods` lists; without, that of `config`, or elfs.
        num_classes: number of classes you expect, for methods that work with pseudo-labels.
        out: run folder; a second call with the same folder goes on where the first stopped. Without, a folder in the
            working directory that is named after the input, `elfs-ray-photos-1a2b3c4d`: the same for each call.
        config: YAML file with options.
        progress: show what is done, and how far it is, on standard error or in the notebook.
        reporter: shows progress in another way.
        **options: sections of options and others, such as `embed={"batch_size": 64}` or `seed=1`.

    Returns:
        The selected samples and where everything else is.

    Raises:
        UsageError: a wrong input, option or run folder; the message says what to change.
        RunError: a stage failed for another cause; calling again goes on where it stopped.
    """
    values = _values(options, input=input, num_classes=num_classes, method=method)
    run = load_config({**values, "budgets": _budgets(budget)}, config)
    reporter = _reporter(reporter, progress=progress)
    store = RunFolder(_default_folder(run, reporter) if out is None else str(out))
    manifest = _run(run, store, reporter, "report")
    return Result(store.uri, read_coresets(store), manifest)


def run_stage(
    stage: str,
    out: str | Path,
    input: str | Path | None = None,
    budget: Budgets | None = None,
    *,
    method: str | None = None,
    num_classes: int | None = None,
    config: str | Path | None = None,
    progress: bool = True,
    reporter: Reporter | None = None,
    **options: Unpack[RunOptions],
) -> dict[str, Table]:
    """Run one stage, and first those before it that are not complete.

    Args:
        stage: its name, as the command line has it: `embed`, `neighbors`, `pseudo-labels` ...
        out: run folder; what it holds of options counts where nothing else is said here.
        input: images, as for `select`; needed where the folder holds no run.
        budget: the same.
        method: as for `select`.
        num_classes: as for `select`; for pseudo-labels and what goes by them.
        config: YAML file with options.
        progress: as for `select`.
        reporter: the same.
        **options: the same.

    Returns:
        The tables that the stage made, by name; `table.read()` gives Arrow, `table.column(NAME)` an array.

    Raises:
        UsageError: a stage that there is not, or as for `select`.
        RunError: as for `select`.
    """
    command = stage.replace("_", "-")
    names = {each.command: each.name for each in STAGES}
    if command not in names:
        raise UsageError(f"unknown stage {stage!r}; the stages are {', '.join(names)}")
    store = RunFolder(str(out))
    values = _values(options, input=input, num_classes=num_classes, method=method)
    if budget is not None:
        values["budgets"] = _budgets(budget)
    run = load_config(values, config, base=without_method(saved_options(store.manifest()), method))
    _run(run, store, _reporter(reporter, progress=progress), command)
    records = store.records().current
    artifacts = [
        artifact
        for unit in records.of(names[command])
        for artifact in records[unit].artifacts
        if artifact in records[unit].rows
    ]
    return {artifact: Table(store, artifact) for artifact in artifacts}


def _run(run: RunConfig, store: RunFolder, reporter: Reporter, until: str) -> dict[str, Any]:
    provide_folders()
    with StandardLibraryFirst():
        from elfs_ray.run import runner

        return runner.run(run, store, reporter, until=until)


def _values(
    options: RunOptions,
    *,
    input: str | Path | None,
    num_classes: int | None,
    method: str | None,
) -> dict[str, Any]:
    """Options by name, of those that were given."""
    values = dict[str, Any](options)
    if input is not None:
        values["input"] = str(input)
    if num_classes is not None:
        values["num_classes"] = num_classes
    if method is not None:
        values["select.method"] = method
    return values


def _budgets(budget: Budgets) -> list[Any]:
    return list(budget) if isinstance(budget, Sequence) and not isinstance(budget, str) else [budget]


def _reporter(reporter: Reporter | None, *, progress: bool) -> Reporter:
    if reporter is not None:
        return reporter
    return shown_in_python() if progress else Reporter()


def _default_folder(run: RunConfig, reporter: Reporter) -> str:
    """A run folder in the working directory, named after the input, and told."""
    location = without_options(run.location)
    name = re.sub(r"[^\w.-]+", "-", location.rstrip("/").rsplit("/", 1)[-1]).strip("-.")[:_FOLDER_NAME_LENGTH]
    folder = f"elfs-ray-{name or 'run'}-{fingerprint(location)[:8]}"
    reporter.line(f"run folder {folder}; call again to go on there, or name another one with out=")
    return folder
