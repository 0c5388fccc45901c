"""What the quality of pseudo-labels does to the search of beta, to the scores, and to the gain over random subsets.

    python benchmarks/label_quality.py RUN_DIR --budget 0.1 --seeds 5 --name cifar10 --out docs/images

RUN_DIR is a finished run with --labels and separate test images. An experiment, not a method: a growing share of the
pseudo-labels is replaced by true labels, which no user has. For each share: the accuracy on held-out (mixed)
pseudo-labels for each beta, which the search sees, beside the accuracy on test images after training with true labels,
which it does not (ELFS, figure 5); the AUM beside that from true labels (figure 4); the gain over random subsets at the
beta that the search takes, and at the best one in hindsight. Selection, classifier and search as in `weak_labels.py`,
on `--dims` principal components.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from weak_labels import BETAS, Data, Scored, Task, classify, read_labelled, select, train_proxy

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.core.metrics import cluster_accuracy, contingency, mean_and_interval
from elfs_ray.core.pruning import budget_count
from elfs_ray.core.splits import stratified_split

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SCATTERED = 4000


@dataclass(frozen=True)
class Row:
    """One share of true labels and one seed; accuracies for each beta."""

    share: float
    seed: int
    right: float
    validation: tuple[float, ...]
    test: tuple[float, ...]
    random: float
    rank_correlation: float

    @property
    def found(self) -> int:
        """Which beta the search takes."""
        return int(np.argmax(self.validation))


@cache
def load(run_dir: str, dims: int) -> Data:
    """Embeddings, pseudo-labels numbered as the classes that they match, labels and test set of a run."""
    vectors, labels, test, test_labels = read_labelled(run_dir, dims)
    pseudo = Table(RunFolder(run_dir), "pseudo_labels").column("label").astype(np.int64)
    rows, columns = linear_sum_assignment(contingency(labels, pseudo), maximize=True)
    matched = np.zeros(int(columns.max()) + 1, dtype=np.int64)
    matched[columns] = rows
    soft = np.eye(len(matched), dtype=np.float32)[matched[pseudo]]
    return Data(vectors, np.empty(0), soft, labels, test, test_labels)


def mixed_labels(data: Data, share: float, seed: int) -> np.ndarray:
    """Pseudo-labels of which a random share is replaced by the truth; a larger share replaces the same and more."""
    labels, order = data.pseudo.copy(), np.random.default_rng(seed).permutation(len(data.pseudo))
    known = order[: round(share * len(order))]
    labels[known] = data.labels[known]
    return labels


def measure(task: Task) -> Row:
    """One share (in `variant`) and seed."""
    torch.set_num_threads(1)
    data, share = load(task.run_dir, task.dims), float(task.variant)
    count, rng = budget_count(task.budget, len(data.labels)), np.random.default_rng(task.seed)

    def tested(rows: np.ndarray) -> float:
        return classify(data.inputs[rows], data.labels[rows], data.test_inputs, data.test_labels, 1000, task.seed)

    random = tested(rng.choice(len(data.labels), count, replace=False))
    labels = mixed_labels(data, share, task.seed)
    scored = Scored(train_proxy(data, labels, task), labels)
    truth = train_proxy(data, data.labels, task)
    training, held_out = stratified_split(labels, 0.1, rng)
    validation, test = [], []
    for beta in BETAS:
        part = select(scored, training, round(count * 0.9), beta, rng)
        held = data.inputs[held_out], labels[held_out]
        validation.append(classify(data.inputs[part], labels[part], *held, 500, task.seed))
        test.append(tested(select(scored, np.arange(len(labels)), count, beta, rng)))
    correlation = float(spearmanr(scored.aum, truth).statistic)
    right = cluster_accuracy(data.labels, labels)
    return Row(share, task.seed, right, tuple(validation), tuple(test), random, correlation)


def print_table(rows: list[Row]) -> None:
    """Markdown: a row for each share."""
    print("| true labels mixed in | labels right, % | rank correlation with true AUM | betas found | accuracy, % | "
          "less random, points (95 %) | best beta in hindsight |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for share in SHARES:
        part = [row for row in rows if row.share == share]
        found = mean_and_interval([100 * row.test[row.found] for row in part])
        gain = mean_and_interval([100 * (row.test[row.found] - row.random) for row in part])
        best = mean_and_interval([100 * (max(row.test) - row.random) for row in part])
        right, correlation = (np.mean([getattr(row, name) for row in part]) for name in ("right", "rank_correlation"))
        betas = ", ".join(f"{BETAS[row.found]:g}" for row in part)
        print(f"| {share:.0%} | {100 * right:.1f} | {correlation:.2f} | {betas} | {found.mean:.1f} ± {found.std:.1f} | "
              f"{gain.mean:+.1f} ± {gain.half_width:.1f} | {best.mean:+.1f} ± {best.half_width:.1f} |")  # fmt: skip


def draw_curves(rows: list[Row], name: str, path: Path) -> None:
    """For each share, accuracy by beta as the search sees it and as the test set does, each less its own mean."""
    figure, panels = plt.subplots(1, len(SHARES), figsize=(13, 3.2), sharey=True, layout="constrained")
    for axes, share in zip(panels, SHARES, strict=True):
        part = [row for row in rows if row.share == share]
        for label, values in (("held-out pseudo-labels", "validation"), ("test, true labels", "test")):
            curves = 100 * np.array([getattr(row, values) for row in part])
            curves -= curves.mean(axis=1, keepdims=True)
            axes.errorbar(BETAS, curves.mean(axis=0), curves.std(axis=0, ddof=1), marker="o", capsize=3, label=label)
        right = 100 * np.mean([row.right for row in part])
        axes.set(title=f"{share:.0%} true: {right:.0f} % right", xlabel="beta")
    panels[0].set_ylabel("accuracy less the mean over beta, points")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(name)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_scores(task: Task, name: str, path: Path) -> None:
    """AUM on pseudo-labels beside AUM on true labels, one dot for each of some images (ELFS, figure 4)."""
    data = load(task.run_dir, task.dims)
    pseudo, truth = (train_proxy(data, labels, task) for labels in (data.pseudo, data.labels))
    some = np.random.default_rng(0).choice(len(truth), min(SCATTERED, len(truth)), replace=False)
    right = data.pseudo[some] == data.labels[some]
    figure, axes = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    for chosen, label, colour in ((right, "pseudo-label right", "#2f6fde"), (~right, "wrong", "#c2410c")):
        axes.scatter(truth[some][chosen], pseudo[some][chosen], s=4, alpha=0.4, color=colour, label=label)
    axes.set(xlabel="AUM on true labels", ylabel="AUM on pseudo-labels", title=name)
    axes.legend(frameon=False, markerscale=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print a Markdown table, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--name", required=True, help="of the data set, for titles and files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the plots")
    parser.add_argument("--dims", type=int, default=256, help="principal components; 0: the embeddings as they are")
    parser.add_argument("--budget", type=float, default=0.1, help="share of the candidates to select")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of the proxy")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    plan = Task(options.run_dir, "", options.dims, options.budget, options.epochs, 0, "", 0)
    tasks = [replace(plan, variant=str(share), seed=seed) for seed in range(options.seeds) for share in SHARES]
    rows: list[Row] = []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for row in pool.map(measure, tasks):
            rows.append(row)
            told = f"{row.share:.0%} true  {row.test[row.found]:.4f}  random {row.random:.4f}"
            print(f"seed {row.seed}  {told}", flush=True)
    print_table(rows)
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    options.out.mkdir(parents=True, exist_ok=True)
    draw_curves(rows, options.name, options.out / f"{options.name}-beta-curves.png")
    draw_scores(plan, options.name, options.out / f"{options.name}-aum.png")


if __name__ == "__main__":
    main()
