"""How large a share of a coreset of `elfs` to draw at random: the gain by share and beta.

    python benchmarks/mixing.py RUN_DIR --budgets 0.01,0.05,0.1 --shares 0,0.25,0.5,0.75,1 --seeds 5

RUN_DIR is a finished run with --labels and separate test images; its pseudo-labels and AUM are taken as they are. For
each seed, budget, share and beta `mixed` selects a coreset (a share of 0: `elfs`; of 1: random, but for the shares of
the clusters), and an MLP trained on it with true labels is tested. Another is trained on pseudo-labels of nine tenths
of the candidates and a coreset of these, and tested on the pseudo-labels of the rest, as the beta search does.
Reported: the gain over random subsets at each beta, and at the beta that held-out pseudo-labels choose. Each seed has
other draws and other weights. The embeddings are reduced to `--dims` principal components.
"""

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor
from weak_labels import classify, read_labelled

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.core.metrics import mean_and_interval
from elfs_ray.core.pruning import budget_count
from elfs_ray.core.splits import stratified_split
from elfs_ray.methods import SelectionInputs, select_coreset
from elfs_ray.methods.mixed import Mixed

BETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Task:
    """One seed, budget and share, in plain values; no share: a random subset."""

    run_dir: str
    dims: int
    budget: float = 0.1
    share: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Candidates [N] and test set; pseudo-labels and AUM of the candidates."""

    inputs: Tensor
    labels: np.ndarray
    pseudo: np.ndarray
    aum: np.ndarray
    test_inputs: Tensor
    test_labels: np.ndarray


@dataclass(frozen=True)
class Row:
    """Accuracy with true labels, and on held-out pseudo-labels, of one coreset."""

    task: Task
    beta: float
    accuracy: float
    held_out: float = float("nan")


@cache
def load(run_dir: str, dims: int) -> Data:
    """Read a run."""
    store = RunFolder(run_dir)
    vectors, labels, test, test_labels = read_labelled(run_dir, dims)
    pseudo, aum = Table(store, "pseudo_labels").column("label"), Table(store, "dynamics").column("aum")
    return Data(vectors, labels, pseudo.astype(np.int64), aum, test, test_labels)


def select(data: Data, rows: np.ndarray, count: int, task: Task, beta: float, rng: np.random.Generator) -> np.ndarray:
    """A coreset among some samples."""
    if task.share is None:
        return rng.choice(rows, count, replace=False)
    inputs = SelectionInputs(
        ids=rows, pseudo_labels=data.pseudo[rows].astype(np.int32), dynamics={"aum": data.aum[rows]}
    )
    return rows[select_coreset(Mixed(beta=beta, random_share=task.share), inputs, count, rng).positions]


def measure(task: Task) -> list[Row]:
    """One seed, budget and share at each beta."""
    torch.set_num_threads(1)
    data = load(task.run_dir, task.dims)
    everyone, count = np.arange(len(data.labels)), budget_count(task.budget, len(data.labels))
    training, validation = stratified_split(data.pseudo, 0.1, np.random.default_rng(task.seed))
    rows = []
    for beta in [0.0] if task.share in (None, 1) else [beta for beta in BETAS if beta + task.budget <= 1]:
        rng = np.random.default_rng([task.seed, round(100 * beta)])
        chosen = select(data, everyone, count, task, beta, rng)
        accuracy = classify(
            data.inputs[chosen], data.labels[chosen], data.test_inputs, data.test_labels, 1000, task.seed
        )
        part = select(data, training, round(count * 0.9), task, beta, rng)
        unseen = data.inputs[validation], data.pseudo[validation]
        held_out = classify(data.inputs[part], data.pseudo[part], *unseen, 500, task.seed)
        rows.append(Row(task, beta, accuracy, held_out))
    return rows


def print_table(budget: float, rows: list[Row]) -> None:
    """Markdown: a row for each share, a column for each beta, and one for the beta that was found."""
    random = {row.task.seed: row for row in rows if row.task.share is None}
    mean = mean_and_interval([100 * row.accuracy for row in random.values()])
    print(f"\n{100 * budget:g} % kept, random {mean.mean:.1f} ± {mean.std:.1f} %\n")
    print("| random share | " + " | ".join(f"β {beta:g}" for beta in BETAS) + " | β found | betas found |")
    print("|---|" + "---|" * (len(BETAS) + 2))

    def gain(of: Iterable[Row]) -> str:
        values = [100 * (row.accuracy - random[row.task.seed].accuracy) for row in of]
        found = mean_and_interval(values)
        text = f"{found.mean:+.1f} ± {found.half_width:.1f}"
        return f"**{text}**" if abs(found.mean) > found.half_width else text

    for share in sorted({row.task.share for row in rows if row.task.share is not None}):
        of_share = [row for row in rows if row.task.share == share]
        columns = [gain(part) if (part := [row for row in of_share if row.beta == beta]) else "" for beta in BETAS]
        best = [
            max((row for row in of_share if row.task.seed == seed), key=lambda row: row.held_out) for seed in random
        ]
        betas = ", ".join(f"{row.beta:g}" for row in best)
        print(f"| {share:g} | " + " | ".join(columns) + f" | {gain(best)} | {betas} |")


def main() -> None:
    """Measure and print a Markdown table for each budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--dims", type=int, default=256, help="principal components")
    parser.add_argument("--budgets", default="0.01,0.05,0.1", help="shares of the candidates to select")
    parser.add_argument("--shares", default="0,0.25,0.5,0.75,1", help="of a coreset to draw at random")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    budgets = [float(budget) for budget in options.budgets.split(",")]
    shares = [None, *(float(share) for share in options.shares.split(","))]
    plan = Task(options.run_dir, options.dims)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for budget in budgets:
            tasks = [
                replace(plan, budget=budget, share=share, seed=seed)
                for seed, share in product(range(options.seeds), shares)
            ]
            print_table(budget, [row for rows in pool.map(measure, tasks) for row in rows])


if __name__ == "__main__":
    main()
