"""Tables and plots of an evaluation for `docs/results.md`: every method, budget and model of a run folder.

    elfs-ray run --input cifar10/train --test-input cifar10/test --labels column:label --num-classes 10 \
        --budgets 0.01,0.02,0.05,0.1,0.2,0.3 --methods elfs,ccs,d2,zcore,random --models linear,mlp --out runs/cifar10
    python benchmarks/study.py runs/cifar10 --name cifar10 --out docs/images

Prints, for each model, a Markdown table with a row for each method and a column for each budget: mean and deviation of
the test accuracy, and below it the paired difference to random with its 95 % interval; bold where the interval excludes
zero. Draws the differences by budget. Nothing is computed but what the artifact `comparison` holds.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.report.comparison import RANDOM, compare

SHOWN = ("elfs", "mixed", "ccs", "dual", "d2", "zcore", "stratified", "typiclust", "auto", "elfs-supervised")
"""Methods that a plot shows, in the order of its colours; all stand in the table."""
TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5)


def main() -> None:
    """Read the comparison, print the tables and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--name", required=True, help="of the data set, for the files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the plots")
    options = parser.parse_args()
    store = RunFolder(options.run_dir)
    rows = pd.DataFrame(compare(store))
    images = Table(store, "samples").rows
    for model, part in rows.groupby("model", sort=False):
        print(f"\n{model}, {int(part['seeds'].max())} seeds:\n")
        print(table(part, images))
        draw(part, images, f"{options.name}, {model}", options.out / f"{options.name}-{model}.png")
    print("\nbest of each budget and model, without labels:\n")
    print(best(rows, images))


def table(rows: pd.DataFrame, images: int) -> str:
    """Markdown: a row for each method, the best mean difference over the budgets first."""
    budgets = sorted(rows["budget"].unique())
    order = rows.groupby("method")["difference"].mean().sort_values(ascending=False, na_position="first").index
    lines = ["| method | " + " | ".join(share(budget, images) for budget in budgets) + " |"]
    lines.append("|---|" + "---|" * len(budgets))
    for method in order:
        cells = rows[rows["method"] == method].set_index("budget")
        texts = [cell(cells.loc[budget]) if budget in cells.index else "" for budget in budgets]
        lines.append(f"| {method} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def cell(row: pd.Series) -> str:
    """Accuracy, and the difference to random."""
    accuracy = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
    if row["method"] == RANDOM:
        return accuracy
    gain, width = 100 * row["difference"], 100 * row["difference_half_width"]
    text = f"{gain:+.1f} ± {width:.1f}"
    return f"{accuracy}<br>{f'**{text}**' if abs(gain) > width else text}"


def best(rows: pd.DataFrame, images: int) -> str:
    """Markdown: the method with the best mean, among those that saw no label, and how surely it beats random."""
    lines = ["| kept | model | best | less random, points (95 %) |", "|---|---|---|---|"]
    free = rows[~rows["method"].str.endswith("-supervised")]
    for (budget, model), part in free.groupby(["budget", "model"]):
        row = part.loc[part["mean"].idxmax()]
        gain = "" if row["method"] == RANDOM else cell(row).partition("<br>")[2]
        lines.append(f"| {share(budget, images)} | {model} | {row['method']} | {gain} |")
    return "\n".join(lines)


def share(budget: int, images: int) -> str:
    """A budget as a share of the images."""
    return f"{100 * budget / images:.3g} %"


def draw(rows: pd.DataFrame, images: int, title: str, path: Path) -> None:
    """Differences to random by budget, a line for each method."""
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.axhline(0, color="#5b6470", linewidth=1.5)
    colours = mpl.colormaps["tab10"].colors
    for colour, method in zip(colours, SHOWN, strict=True):
        part = rows[rows["method"] == method].sort_values("budget")
        if part.empty:
            continue
        axes.errorbar(
            100 * part["budget"] / images, 100 * part["difference"], 100 * part["difference_half_width"],
            label=method, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.5,
            linestyle="--" if method.endswith("-supervised") else "-",
        )  # fmt: skip
    axes.set_xscale("log")
    # Gains are of a point, losses of tens.
    axes.set_yscale("symlog", linthresh=2)
    axes.set_yticks(TICKS, [f"{value:+d}" if value else "0" for value in TICKS])
    kept = sorted(100 * rows["budget"].unique() / images)
    axes.set_xticks(kept, [f"{value:.3g}" for value in kept])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set(xlabel="images labelled, %", ylabel="accuracy less random, points", title=title)
    axes.legend(frameon=False, ncols=2, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
