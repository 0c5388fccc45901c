"""The HTML report: one self-contained page made from the manifest and the artifacts alone."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from elfs_ray.report import charts
from elfs_ray.report.comparison import COMPARISON
from elfs_ray.report.quality import label_free_signals, warning
from elfs_ray.report.thumbnails import Thumbnail, make_thumbnails
from elfs_ray.store import Store

REPORT = "report.html"
QUARANTINE_ROWS = 50


@dataclass(frozen=True)
class Coreset:
    """What the page says of one method and budget."""

    name: str
    budget: int
    choice: str | None
    beta: float | None
    supervised: bool
    path: str
    evaluation: dict[str, Any] | None
    gallery: list[tuple[str, list[Thumbnail]]] = field(default_factory=list)
    hardest: list[Thumbnail] = field(default_factory=list)
    easiest: list[Thumbnail] = field(default_factory=list)


def write_report(store: Store) -> str:
    """Write `report.html` into the run folder and return its path. What the run does not have yet is left out."""
    manifest = store.manifest()
    stages = manifest.get("stages", {})
    coresets = [_coreset(store, manifest, unit) for unit in stages if unit.startswith("coresets/")]
    environment = Environment(loader=PackageLoader("elfs_ray.report", "."), autoescape=True, trim_blocks=True)
    page = environment.get_template("template.html").render(
        manifest=manifest,
        stages=stages,
        rates={unit: _rate(record) for unit, record in stages.items()},
        coresets=coresets,
        warning=warning(manifest),
        signals=label_free_signals(stages),
        # The charts escape their own texts; Plotly is the library's.
        charts={name: Markup(html) for name, html in _charts(store, stages, coresets).items()},  # noqa: S704
        accuracies={model: Markup(html) for model, html in _accuracy_charts(store, coresets).items()},  # noqa: S704
        comparison=store.read_table(COMPARISON).to_pylist() if store.exists(COMPARISON) else [],
        quarantine=_quarantine(store),
        plotly=Markup(get_plotlyjs()),  # noqa: S704
    )
    store.write_bytes(page.encode(), REPORT)
    return store.location(REPORT)


def _coreset(store: Store, manifest: dict[str, Any], unit: str) -> Coreset:
    record = manifest["stages"][unit]["metrics"]
    name = unit.removeprefix("coresets/")
    evaluation = manifest["stages"].get(f"evaluation/{name}")
    limit = manifest["config"]["report"]["thumbnails"]
    table = store.read_table(unit, columns=["index", "score", "pseudo_label"])
    indices, labels = table["index"].to_numpy(), table["pseudo_label"].to_pylist()
    gallery = []
    clusters = sorted({label for label in labels if label is not None})
    for cluster in clusters:
        members = [int(index) for index, label in zip(indices, labels, strict=True) if label == cluster]
        shown = members[: max(1, limit // max(1, len(clusters)))]
        captions = dict.fromkeys(shown, f"cluster {cluster}")
        gallery.append((f"cluster {cluster}, {len(members):,} selected", make_thumbnails(store, captions)))
    dynamics = "dynamics_supervised" if record.get("supervised", False) else "dynamics"
    hardest, easiest = _pruned(store, dynamics, indices, limit // 4) if store.exists(dynamics) else ({}, {})
    return Coreset(
        name,
        record["budget"],
        record.get("choice"),
        record["beta"],
        record.get("supervised", False),
        store.location(unit),
        evaluation["metrics"] if evaluation else None,
        gallery,
        make_thumbnails(store, hardest),
        make_thumbnails(store, easiest),
    )


def _pruned(store: Store, dynamics: str, selected: np.ndarray, limit: int) -> tuple[dict[int, str], dict[int, str]]:
    """Indices of the hardest and of the easiest images left out, with their AUM as caption."""
    table = store.read_table(dynamics, columns=["index", "aum"])
    indices, aum = table["index"].to_numpy(), table["aum"].to_numpy()
    is_kept = np.isin(indices, selected)
    order = np.argsort(aum, kind="stable")
    order = order[~is_kept[order]]
    hard = order[aum[order] <= aum[is_kept].min()][:limit]
    easy = order[aum[order] >= aum[is_kept].max()][::-1][:limit]

    def captions(rows: np.ndarray) -> dict[int, str]:
        return {int(indices[row]): f"AUM {aum[row]:.2f}" for row in rows}

    return captions(hard), captions(easy)


def _charts(store: Store, stages: dict[str, Any], coresets: list[Coreset]) -> dict[str, str]:
    """Every chart that the run has the numbers for, by its name in the template; others are empty."""
    label_free = [coreset for coreset in coresets if not coreset.supervised]
    return {
        "aum": _aum_chart(store, label_free) if "proxy" in stages and label_free else "",
        "beta": _beta_chart(store, stages),
        "clusters": _cluster_chart(stages, label_free) if "cluster" in stages else "",
    }


def _aum_chart(store: Store, coresets: list[Coreset]) -> str:
    aum = store.read_table("dynamics", columns=["aum"])["aum"].to_numpy()
    cuts = {}
    for coreset in coresets:
        if coreset.beta is not None:
            kept = aum[store.read_table(f"coresets/{coreset.name}", columns=["index"])["index"].to_numpy()]
            cuts[coreset.name] = (float(kept.min()), float(kept.max()))
    return charts.histogram(aum, cuts, "area under the margin")


def _beta_chart(store: Store, stages: dict[str, Any]) -> str:
    """A curve for each search; for each method that a search for `auto` tried, one (without beta: a point at 0)."""
    prefix = "beta_search/"
    rows: dict[str, dict[float, list[float]]] = {}
    chosen: dict[str, float] = {}
    for unit, record in stages.items():
        if not unit.startswith(prefix):
            continue
        name = unit.removeprefix(prefix)
        for row in store.read_table(unit).to_pylist():
            curve = name if name.startswith(f"{row['method']}/") else f"{name}: {row['method']}"
            rows.setdefault(curve, {}).setdefault(row["beta"] or 0.0, []).append(row["validation_accuracy"])
        choice = record["metrics"]["found"].get("choice")
        chosen[f"{name}: {choice}" if choice else name] = record["metrics"]["beta"] or 0.0
    return charts.beta_curves(rows, chosen) if rows else ""


def _cluster_chart(stages: dict[str, Any], coresets: list[Coreset]) -> str:
    sizes = {coreset.name: stages[f"coresets/{coreset.name}"]["metrics"]["cluster_sizes"] for coreset in coresets}
    return charts.cluster_shares(stages["cluster"]["metrics"]["cluster_sizes"], sizes)


def _accuracy_charts(store: Store, coresets: list[Coreset]) -> dict[str, str]:
    """A chart for each model that was evaluated."""
    trainings: dict[str, dict[str, Any]] = {}
    for coreset in coresets:
        if coreset.evaluation:
            # Random subsets stand in the evaluation of every method, and count once.
            rows = store.read_table(f"evaluation/{coreset.name}").to_pylist()
            trainings.update({f"{row['training']} {row['subset']}": row for row in rows})
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in sorted(trainings.values(), key=lambda row: row["budget"]):
        by_subset = results.setdefault(row["model"], {}).setdefault(f"{row['budget']:,}", {})
        by_subset.setdefault(row["subset"], []).append(row["test_accuracy"])
    return {model: charts.accuracies(by_budget) for model, by_budget in results.items()}


def _rate(record: dict[str, Any]) -> str:
    rows = max(record["rows"].values(), default=0)
    return f"{rows / record['seconds']:,.0f} /s" if record["seconds"] else ""


def _quarantine(store: Store) -> list[dict[str, Any]]:
    if not store.exists("quarantine"):
        return []
    rows: list[dict[str, Any]] = store.dataset("quarantine").head(QUARANTINE_ROWS).to_pylist()
    return rows
