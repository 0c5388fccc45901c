"""The Python API: one call from images to a coreset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from elfs_ray.artifacts.manifest import REPORT
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import SelectConfig
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.errors import UsageError
from elfs_ray.workers.machine import provide_folders
from elfs_ray.workers.search_path import StandardLibraryFirst


@dataclass(frozen=True)
class Result:
    """What a run selected.

    Attributes:
        run_dir: the run folder, with every artifact, the manifest and the report.
        coresets: budget (count of images) -> table of the selected samples in rank order, with the columns
            sample_id, index, uri, rank, score, pseudo_label.
        manifest: configuration, versions, and the numbers of every stage.
    """

    run_dir: str
    coresets: dict[int, pa.Table]
    manifest: dict[str, Any]

    @property
    def table(self) -> pa.Table:
        """The coreset of a run with one budget.

        Raises:
            UsageError: the run had several budgets.
        """
        if len(self.coresets) != 1:
            raise UsageError(f"this run has the budgets {sorted(self.coresets)}; take result.coresets[BUDGET]")
        return next(iter(self.coresets.values()))

    @property
    def report(self) -> str:
        """Path or URI of the HTML report."""
        return RunFolder(self.run_dir).location(REPORT)


def select(
    input: str | Path | None,
    *,
    budget: float | str | Sequence[float | str],
    num_classes: int,
    out: str | Path,
    config: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Result:
    """Choose the images to label.

    Args:
        input: images, as `--input` takes them; local, s3://, gs:// or hf://. None: `embed__vectors` are all there is.
        budget: images to select: a count (5000), the fraction to keep (0.1), or several of them.
        num_classes: number of classes you expect.
        out: run folder; a second call with the same folder goes on where the first stopped.
        config: YAML file with options.
        reporter: shows progress; without, nothing is shown.
        **options: further options, with a double underscore between section and name: `embed__batch_size=64`.

    Returns:
        The selected samples and where everything else is.

    Raises:
        UsageError: a wrong input, option or run folder; the message says what to change.
        RunError: a stage failed for another cause; calling again goes on where it stopped.
    """
    budgets = list(budget) if isinstance(budget, Sequence) and not isinstance(budget, str) else [budget]
    values = {name.replace("__", "."): value for name, value in options.items()}
    values.update(input=None if input is None else str(input), budgets=budgets, num_classes=num_classes)
    store = RunFolder(str(out))
    run = load_config(values, config)
    provide_folders()
    with StandardLibraryFirst():
        from elfs_ray.run import runner

        manifest = runner.run(run, store, reporter or Reporter())
    return Result(store.uri, read_coresets(store), manifest)


def read_coresets(store: RunFolder) -> dict[int, pa.Table]:
    """The coresets of the method and budgets that the run folder remembers, by count of images."""
    from elfs_ray.artifacts.table import Table
    from elfs_ray.core.pruning import budget_count

    config, records = store.manifest()["config"], store.records().current
    method, num_samples = SelectConfig(**config["select"]).name, records[Unit("ingest")].rows["samples"]
    units = [Unit("select", method=method, budget=budget_count(budget, num_samples)) for budget in config["budgets"]]
    return {unit.budget: Table(store, unit.artifact("coresets")).read() for unit in units}
