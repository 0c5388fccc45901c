"""The HTML report: one self-contained page made from the manifest and the artifacts alone."""

from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from elfs_ray.artifacts.manifest import REPORT
from elfs_ray.artifacts.record import Record, Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import is_supervised
from elfs_ray.core.metrics import came_farthest
from elfs_ray.report import charts
from elfs_ray.report.comparison import read_comparison
from elfs_ray.report.coresets import Coreset, describe_coresets
from elfs_ray.report.map_data import MOST_PICTURES, map_data
from elfs_ray.report.quality import label_free_signals, warning
from elfs_ray.report.summary import unlike_trainings
from elfs_ray.report.thumbnails import Pictures, Thumbnail

QUARANTINE_ROWS = 50
DUPLICATE_PAIRS = 12
# Beside 5 MB of Plotly and 2 MB of points and tables: a page stays below 15 MB.
GALLERY_BYTES, MAP_BYTES = 5 * 2**20, 2 * 2**20
MOST_THUMBNAILS = 1500
"""Of all coresets together, so that a run with many of them does not spend minutes on pictures."""
MOST_BOXES = 3
"""Methods beside random whose single trainings a chart still shows."""
FEW_CORESETS = 4
"""So many are described one by one at the top of the page, and shown unfolded."""


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same."""

    similarity: float
    names: tuple[str, str]
    pictures: list[Thumbnail]
    selected: int


def write_report(store: RunFolder) -> str:
    """Write `report.html` into the run folder and return its path. What the run does not have yet is left out."""
    manifest, records = store.manifest(), store.records().current
    limit = manifest["config"]["report"]["thumbnails"]
    gallery = Pictures(store, GALLERY_BYTES)
    pairs = _duplicates(store, records, gallery) if limit else []
    most = min(limit, MOST_THUMBNAILS // max(1, len(records.of("select"))))
    coresets = describe_coresets(store, records, gallery, most)
    points = map_data(store, records, Pictures(store, MAP_BYTES), MOST_PICTURES if limit else 0)
    comparison = read_comparison(store)
    environment = Environment(loader=PackageLoader("elfs_ray.report", "page"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html").render(
        manifest=manifest,
        records={str(unit): record for unit, record in records.items()},
        rates={str(unit): _rate(record) for unit, record in records.items()},
        coresets=coresets,
        few=len(coresets) <= FEW_CORESETS,
        duplicates=records[Unit("duplicates")].metrics if Unit("duplicates") in records else None,
        pairs=pairs,
        map=points,
        map_command=_map_command(store, records),
        warning=warning(manifest["config"], records),
        signals=label_free_signals(records),
        # The charts escape their own texts; Plotly is the library's, style and script are ours.
        charts={name: Markup(html) for name, html in _charts(store, records, coresets).items()},  # noqa: S704
        accuracies={model: Markup(html) for model, html in _accuracy_charts(store, records, comparison).items()},  # noqa: S704
        comparison=comparison,
        unlike=unlike_trainings(records),
        quarantine=_quarantine(store),
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        style=_page_file("style.css"),
        map_script=_page_file("map.js"),
        copy_script=_page_file("copy.js"),
        thing="image" if gallery.possible else "sample",
    )
    store.write_bytes(page.encode(), REPORT)
    return store.location(REPORT)


def _map_command(store: RunFolder, records: Records) -> str:
    """What would add the map that a run without embeddings does not have; empty where nothing is missing."""
    wanted = store.manifest()["config"]["report"]["map_points"] > 0
    return f"elfs-ray map {store.uri}" if wanted and Unit("embed") not in records else ""


def _page_file(name: str) -> Markup:
    return Markup(resources.files("elfs_ray.report").joinpath("page", name).read_text(encoding="utf-8"))  # noqa: S704


def _duplicates(store: RunFolder, records: Records, pictures: Pictures) -> list[Pair]:
    """The most similar pairs, and how many of each are in the first coreset."""
    if Unit("duplicates") not in records:
        return []
    selected = set[int]()
    for unit in islice(records.of("select"), 1):
        selected.update(Table(store, unit.artifact("coresets")).column("index").tolist())
    found = []
    for row in Table(store, "near_duplicates").read(0, DUPLICATE_PAIRS).to_pylist():
        both = (row["index"], row["other"])
        names = row["sample_id"], row["other_id"]
        shown = pictures.make(dict.fromkeys(both, ""))
        found.append(Pair(row["similarity"], names, shown, len(selected.intersection(both))))
    return found


def _charts(store: RunFolder, records: Records, coresets: list[Coreset]) -> dict[str, str]:
    """Every chart that the run has the numbers for, by its name in the template; others are empty."""
    label_free = [coreset for coreset in coresets if not coreset.supervised]
    return {
        "aum": _aum_chart(store, label_free) if Unit("proxy") in records and label_free else "",
        "beta": _beta_chart(store, records),
        "clusters": _cluster_chart(records) if Unit("pseudo_labels") in records else "",
    }


def _aum_chart(store: RunFolder, coresets: list[Coreset]) -> str:
    aum = Table(store, "dynamics").column("aum")
    cuts = {}
    for coreset in coresets:
        if coreset.beta is not None:
            kept = aum[coreset.indices]
            cuts[coreset.name] = (float(kept.min()), float(kept.max()))
    return charts.histogram(aum, cuts, "area under the margin")


def _beta_chart(store: RunFolder, records: Records) -> str:
    """A curve for each search; for each method that a search for `auto` tried, one (without beta: a point at 0)."""
    compared: dict[str, dict[float, list[float]]] = {}
    stopped: dict[str, dict[float, list[float]]] = {}
    chosen: dict[str, float] = {}
    for unit, record in records.of("beta_search").items():
        name = unit.coreset
        trials: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for row in Table(store, unit.artifact("beta_search")).read().to_pylist():
            curve = name if name.startswith(f"{row['method']}/") else f"{name}: {row['method']}"
            trials.setdefault((curve, row["beta"] or 0.0), []).append(row)
        whole = came_farthest(np.array([[row["steps"] for row in rows] for rows in trials.values()]))
        for ((curve, beta), rows), ended in zip(trials.items(), whole, strict=True):
            curves = compared if ended else stopped
            curves.setdefault(curve, {})[beta] = [row["validation_accuracy"] for row in rows]
        choice = record.metrics["found"].get("choice")
        chosen[f"{name}: {choice}" if choice else name] = record.metrics["beta"] or 0.0
    return charts.beta_curves(compared, stopped, chosen) if compared else ""


def _cluster_chart(records: Records) -> str:
    sizes = {
        unit.coreset: record.metrics["cluster_sizes"]
        for unit, record in records.of("select").items()
        if not is_supervised(unit.method)
    }
    return charts.cluster_shares(records[Unit("pseudo_labels")].metrics["cluster_sizes"], sizes)


def _accuracy_charts(store: RunFolder, records: Records, comparison: list[dict[str, Any]]) -> dict[str, str]:
    """A chart for each model that was evaluated: of each training, or of many methods their gains."""
    gains: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for row in comparison:
        if row["difference"] is not None:
            by_method = gains.setdefault(row["model"], {}).setdefault(row["method"], {})
            by_method[row["budget"]] = row["difference"], row["difference_half_width"]
    if any(len(by_method) > MOST_BOXES for by_method in gains.values()):
        return {model: charts.gains(by_method) for model, by_method in gains.items()}
    trainings: dict[str, dict[str, Any]] = {}
    for unit in records.of("evaluate"):
        # Random subsets stand in the evaluation of every method, and count once.
        rows = Table(store, unit.artifact("evaluation")).read().to_pylist()
        trainings.update({f"{row['training']} {row['subset']}": row for row in rows})
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in sorted(trainings.values(), key=lambda row: row["budget"]):
        by_subset = results.setdefault(row["model"], {}).setdefault(f"{row['budget']:,}", {})
        by_subset.setdefault(row["subset"], []).append(row["test_accuracy"])
    return {model: charts.accuracies(by_budget) for model, by_budget in results.items()}


def _rate(record: Record) -> str:
    rows = max(record.rows.values(), default=0)
    return f"{rows / record.seconds:,.0f} /s" if record.seconds else ""


def _quarantine(store: RunFolder) -> list[dict[str, Any]]:
    if not store.exists("quarantine"):
        return []
    rows: list[dict[str, Any]] = Table(store, "quarantine").read(0, QUARANTINE_ROWS).to_pylist()
    return rows
