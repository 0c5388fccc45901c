"""Charts of the report: arrays in, HTML fragments out. The library is inlined once by the page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

ACCENT, MUTED, WARNING = "#2f6fde", "#9aa3af", "#c2410c"
HEIGHT = 320
SHOWN = 6
"""Curves and bars that a chart shows at first; the legend brings the others."""


def histogram(values: np.ndarray, cuts: Mapping[str, tuple[float, float]], name: str) -> str:
    """Distribution of a score, with the range that each budget kept.

    Args:
        values: [N].
        cuts: name of the budget -> lowest and highest value kept.
        name: of the score.
    """
    counts, edges = np.histogram(values, bins=60)
    centres = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(go.Bar(x=centres, y=counts, marker_color=MUTED, name="all samples", showlegend=False))
    for label, (low, high) in list(cuts.items())[:SHOWN]:
        figure.add_vrect(
            x0=low,
            x1=high,
            fillcolor=ACCENT,
            opacity=0.18,
            line={"color": ACCENT, "dash": "dash", "width": 2},
            annotation_text=f"kept: {label}",
            annotation_position="outside top left",
        )
    figure.update_layout(bargap=0.05, xaxis_title=f"{name} (harder to the left)", yaxis_title="samples")
    ranges = "; ".join(f"{label} keeps {low:.2f} to {high:.2f}" for label, (low, high) in cuts.items())
    return _html(figure, f"Histogram of {name} from {values.min():.2f} to {values.max():.2f}. {ranges}")


def beta_curves(
    compared: Mapping[str, Mapping[float, Sequence[float]]],
    stopped: Mapping[str, Mapping[float, Sequence[float]]],
    chosen: Mapping[str, float],
) -> str:
    """Validation accuracy by beta, a curve for each method and budget.

    Args:
        compared: method and budget -> beta -> accuracy of each seed.
        stopped: the same of trials that the scheduler stopped early: points off the curves.
        chosen: method and budget -> the beta taken.
    """
    figure = go.Figure()
    for number, (name, by_beta) in enumerate(compared.items()):
        visible = _visible(number)
        figure.add_scatter(**_points(by_beta), mode="lines+markers", name=name, visible=visible)
        if name not in chosen:
            continue
        best = chosen[name]
        figure.add_scatter(
            x=[best],
            y=[float(np.mean(by_beta[best]))],
            mode="markers",
            marker={"symbol": "star", "size": 15, "color": WARNING},
            name=f"chosen for {name}: {best:g}",
            visible=visible,
        )
    for number, (name, by_beta) in enumerate(stopped.items()):
        marker = {"symbol": "circle-open", "size": 8, "color": MUTED}
        figure.add_scatter(
            **_points(by_beta), mode="markers", marker=marker, name=f"stopped early: {name}", visible=_visible(number)
        )
    figure.update_layout(
        xaxis_title="beta: share of the hardest dropped", yaxis_title="accuracy on held-out pseudo-labels"
    )
    summary = "; ".join(f"{name}: beta {beta:g} chosen" for name, beta in chosen.items())
    return _html(figure, f"Validation accuracy by beta. {summary}")


def _points(by_beta: Mapping[float, Sequence[float]]) -> dict[str, Any]:
    """Mean over the seeds of each beta, in their order, and the deviation."""
    betas = sorted(by_beta)
    spread = [float(np.std(by_beta[beta], ddof=1)) if len(by_beta[beta]) > 1 else 0.0 for beta in betas]
    return {"x": betas, "y": [float(np.mean(by_beta[beta])) for beta in betas], "error_y": {"array": spread}}


def cluster_shares(pool: Sequence[int], coresets: Mapping[str, Sequence[int]]) -> str:
    """Share of each cluster among all samples beside its share of each coreset."""
    clusters = list(range(len(pool)))
    figure = go.Figure(go.Bar(x=clusters, y=_shares(pool), name="all samples", marker_color=MUTED))
    for number, (name, sizes) in enumerate(coresets.items()):
        figure.add_bar(x=clusters, y=_shares(sizes), name=f"coreset {name}", visible=_visible(number))
    figure.update_layout(barmode="group", xaxis_title="cluster", yaxis_title="share", yaxis_tickformat=".0%")
    return _html(figure, f"Share of each of {len(pool)} clusters among all samples and in the coreset")


def accuracies(results: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Test accuracy of every training, by budget and kind of subset."""
    figure = go.Figure()
    for subset in dict.fromkeys(name for by_subset in results.values() for name in by_subset):
        points = [(budget, value) for budget, by_subset in results.items() for value in by_subset.get(subset, [])]
        figure.add_box(
            x=[budget for budget, _ in points],
            y=[value for _, value in points],
            name=subset,
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            marker_color=MUTED if subset == "random" else ACCENT,
        )
    figure.update_layout(boxmode="group", yaxis_title="test accuracy", yaxis_tickformat=".1%")
    figure.update_xaxes(type="category", title="samples labelled")
    return _html(figure, "Test accuracy of each training on the coreset and on random subsets")


def gains(results: Mapping[str, Mapping[int, tuple[float, float]]]) -> str:
    """Accuracy less that of random subsets, by budget: a curve for each method, at first those of the best.

    Args:
        results: method -> budget -> difference and half width of its interval, as shares.
    """
    means = {name: float(np.mean([gain for gain, _ in row.values()])) for name, row in results.items()}
    best = sorted(means, key=means.__getitem__, reverse=True)
    figure = go.Figure()
    for number, name in enumerate(best):
        points = sorted(results[name].items())
        figure.add_scatter(
            x=[f"{budget:,}" for budget, _ in points],
            y=[100 * gain for _, (gain, _) in points],
            error_y={"array": [100 * width for _, (_, width) in points]},
            mode="lines+markers",
            name=name,
            visible=_visible(number),
        )
    figure.add_hline(y=0, line={"color": MUTED, "width": 1.5})
    figure.update_layout(yaxis_title="accuracy less random, points")
    figure.update_xaxes(type="category", title="samples labelled")
    ranked = "; ".join(f"{name} {100 * means[name]:+.1f}" for name in best)
    return _html(figure, f"Accuracy less random subsets by budget. Mean over budgets, points: {ranked}")


def _visible(number: int) -> bool | str:
    return True if number < SHOWN else "legendonly"


def _shares(sizes: Sequence[int]) -> list[float]:
    total = max(1, sum(sizes))
    return [size / total for size in sizes]


def _html(figure: go.Figure, summary: str) -> str:
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 56, "r": 16, "t": 36, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=[ACCENT, "#0f9d77", "#b4690e", "#8b5cf6", "#c2417c", "#0891b2"],
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ACCENT},
        font={"color": "#7b8491", "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": 1.12},
    )
    if len(figure.data) > 2 * SHOWN:  # a long legend needs a place of its own
        figure.update_layout(legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"})
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    config: dict[str, Any] = {"displaylogo": False, "responsive": True}
    body = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return f'<figure role="img" aria-label="{escape(summary)}">{body}</figure>'
