"""What a run selected, as Python sees it."""

import hashlib
import sys
import webbrowser
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from elfs_ray.artifacts.manifest import REPORT
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import SelectConfig
from elfs_ray.core.pruning import budget_count
from elfs_ray.errors import UsageError, one_line
from elfs_ray.workers.machine import machine_folder

if TYPE_CHECKING:
    import pandas as pd

SHOWN, PICTURE_SIDE, PICTURE_BYTES = 24, 96, 4 * 2**20


@dataclass(frozen=True, repr=False)
class Result:
    """What a run selected.

    Attributes:
        run_dir: the run folder, with every artifact, the manifest and the report.
        coresets: budget (count of images) -> table of the selected samples in rank order, with the columns
            sample_id, index, uri, rank, score, pseudo_label, labeled.
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
    def paths(self) -> list[str]:
        """Paths or URIs of the selected images, best first, of a run with one budget."""
        found: list[str] = self.table["uri"].to_pylist()
        return found

    @property
    def report(self) -> str:
        """Path or URI of the HTML report."""
        return RunFolder(self.run_dir).location(REPORT)

    def to_pandas(self) -> "pd.DataFrame":
        """The coreset of a run with one budget, best first."""
        return self.table.to_pandas()

    def show(self, count: int = SHOWN, path: str | Path | None = None) -> str | None:
        """Show the first pictures of each coreset: in a notebook in its output, elsewhere as a page in the browser.

        Args:
            count: pictures of each coreset.
            path: HTML file to write instead.

        Returns:
            Where the page is; None in a notebook.

        Raises:
            UsageError: the file cannot be written.
        """
        body = self._html(count)
        if path is None and (show_here := _notebook_display()) is not None:
            show_here(body)
            return None
        from elfs_ray.report.gallery import page_html

        page = page_html(repr(self), body)
        if path is None:
            name = hashlib.sha256(page.encode()).hexdigest()[:16]
            target = machine_folder("shown") / f"{name}.html"
        else:
            target = Path(path)
        try:
            target.write_text(page, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{target} cannot be written ({one_line(error)}); name another file") from None
        if path is None:
            webbrowser.open(target.as_uri())
        return str(target)

    def __repr__(self) -> str:
        method = self.manifest["config"]["select"]["method"]
        counts = ", ".join(f"{budget:,}" for budget in sorted(self.coresets))
        total = self.manifest["records"]["ingest"]["rows"]["samples"]
        return f"<{counts} of {total:,} selected by {method}, in {self.run_dir}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self._html(SHOWN)

    def _html(self, count: int) -> str:
        from elfs_ray.report.gallery import gallery_html
        from elfs_ray.report.thumbnails import Pictures, Thumbnail

        store, found = RunFolder(self.run_dir), [f"<p>{_escaped(repr(self))}</p>"]
        pictures = Pictures(store, PICTURE_BYTES)
        for budget, coreset in sorted(self.coresets.items()):
            first = coreset.slice(0, count).select(["index", "rank", "sample_id"]).to_pylist()
            if pictures.possible:
                made = pictures.make({row["index"]: f"{row['rank'] + 1}" for row in first}, PICTURE_SIDE)
            else:
                made = [Thumbnail(row["sample_id"], f"{row['rank'] + 1}", "") for row in first]
            found.append(gallery_html(f"the first {len(made)} of {budget:,}, best first", made, PICTURE_SIDE))
        return "".join(found)


def read_coresets(store: RunFolder) -> dict[int, pa.Table]:
    """The coresets of the method and budgets that the run folder remembers, by count of images."""
    config, records = store.manifest()["config"], store.records().current
    method, num_samples = SelectConfig(**config["select"]).name, records[Unit("ingest")].rows["samples"]
    units = [Unit("select", method=method, budget=budget_count(budget, num_samples)) for budget in config["budgets"]]
    return {unit.budget: Table(store, unit.artifact("coresets")).read() for unit in units}


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def _notebook_display() -> Any:
    """What shows HTML in the notebook that this code runs in; None elsewhere."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    display: Any = import_module("IPython.display")
    return lambda body: display.display(display.HTML(body))
