"""What makes training dynamics robust to wrong pseudo-labels: variants of the proxy and the coresets they give.

    python benchmarks/weak_labels.py RUN_DIR --budget 0.1 --seeds 5

RUN_DIR is a finished run with --labels. Every variant computes an AUM for each sample from the run's embeddings and
pseudo-labels. For each seed and each beta a coreset is selected; an MLP trained on it with true labels is tested on the
samples of a fixed fifth that no selection sees (or on the run's separate test images). Reported are the accuracy at the
beta that held-out pseudo-labels choose, as `beta-search` does, and at the best beta in hindsight, which no one has
without labels. The last column says how well a low AUM finds wrong pseudo-labels.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from elfs_ray.core.centers import k_means
from elfs_ray.core.classifier import MlpClassifier, accuracy, cosine_factor, epoch_batches, sgd, train_for_steps
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.features import normalize_rows, principal_components
from elfs_ray.core.metrics import contingency, mean_and_interval
from elfs_ray.core.pruning import budget_count, double_end_prune
from elfs_ray.core.splits import stratified_split
from elfs_ray.engine.artifacts import read_column, read_vectors
from elfs_ray.store import Store

BETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
FOLDS, CLUSTERINGS = 5, 5
PROXY_RATE, CLASSIFIER_RATE, HIDDEN = 0.005, 0.02, 512


@dataclass(frozen=True)
class Data:
    """Candidates (whose labels selection does not see) and test set."""

    inputs: torch.Tensor
    pseudo: np.ndarray
    confidence: np.ndarray
    labels: np.ndarray
    test_inputs: torch.Tensor
    test_labels: np.ndarray

    @property
    def num_classes(self) -> int:
        """Of the pseudo-labels and of the truth."""
        return int(max(self.pseudo.max(), self.labels.max())) + 1


@cache
def load(run_dir: str) -> Data:
    """Read a run."""
    store = Store(run_dir)
    vectors = normalize_rows(read_vectors(store))
    columns = [read_column(store, "pseudo_labels", name) for name in ("label", "confidence")]
    columns.append(read_column(store, "labels_true", "label"))
    if store.exists("test/embeddings"):
        test, test_labels = (
            normalize_rows(read_vectors(store, "test/embeddings")),
            read_column(store, "test/labels_true", "label"),
        )
        kept = np.arange(len(vectors))
    else:
        order = np.random.default_rng(0).permutation(len(vectors))
        kept, held_out = np.sort(order[len(order) // 5 :]), order[: len(order) // 5]
        test, test_labels = vectors[held_out], columns[2][held_out]
    pseudo, confidence, labels = (column[kept] for column in columns)
    return Data(
        torch.from_numpy(vectors[kept]),
        pseudo.astype(np.int64),
        confidence,
        labels,
        torch.from_numpy(test),
        test_labels,
    )


def train_proxy(
    inputs: torch.Tensor, labels: np.ndarray, training: np.ndarray, recorded: np.ndarray, weights: np.ndarray,
    epochs: int, seed: int, dynamics: DynamicsAccumulator,
) -> None:  # fmt: skip
    """Train on some samples and record the dynamics of others, once in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    targets, sample_weights = torch.from_numpy(labels), torch.from_numpy(weights).float()
    network = MlpClassifier(inputs[training], int(labels.max()) + 1, HIDDEN, generator=generator)
    optimizer = sgd(network, PROXY_RATE, 0.9, 5e-4)
    steps = epochs * -(-len(training) // 256)
    step = 0
    for epoch in range(epochs):
        for batch in epoch_batches(len(training), 256, 16, generator):
            rows = torch.from_numpy(training[batch.numpy()])
            for group in optimizer.param_groups:
                group["lr"] = PROXY_RATE * cosine_factor(step, steps)
            loss = (
                F.cross_entropy(network(inputs[rows]), targets[rows], reduction="none") * sample_weights[rows]
            ).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
        with torch.inference_mode():
            for block in torch.from_numpy(recorded).split(8192):
                dynamics.update(block, network(inputs[block]), targets[block], epoch)


def aum(data: Data, labels: np.ndarray, epochs: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean margin of samples that the proxy trains on, [N]."""
    everyone = np.arange(len(labels))
    dynamics = DynamicsAccumulator(len(labels))
    train_proxy(
        data.inputs,
        labels,
        everyone,
        everyone,
        np.ones(len(labels)) if weights is None else weights,
        epochs,
        seed,
        dynamics,
    )
    return dynamics.finalize()["aum"] / epochs


def cross_fitted(data: Data, epochs: int, seed: int) -> np.ndarray:
    """Mean margin of samples that the proxy does not train on: it cannot learn a wrong label by heart."""
    order = np.random.default_rng(seed).permutation(len(data.pseudo))
    dynamics = DynamicsAccumulator(len(order))
    for fold in range(FOLDS):
        recorded = np.sort(order[fold::FOLDS])
        training = np.setdiff1d(order, recorded)
        train_proxy(data.inputs, data.pseudo, training, recorded, np.ones(len(order)), epochs, seed, dynamics)
    return dynamics.finalize()["aum"] / epochs


def several_clusterings(data: Data, epochs: int, seed: int) -> np.ndarray:
    """Mean over proxies of the pseudo-labels and of k-means with several starts, each with its share of the epochs."""
    rng = np.random.default_rng(seed)
    reduced = normalize_rows(principal_components(data.inputs.numpy(), 64))
    all_labels = [data.pseudo]
    all_labels += [k_means(reduced, data.num_classes, rng)[1].astype(np.int64) for _ in range(CLUSTERINGS - 1)]
    return np.mean([aum(data, labels, max(6, epochs // CLUSTERINGS), seed) for labels in all_labels], axis=0)


def over_clustered(data: Data, epochs: int, seed: int) -> np.ndarray:
    """The proxy learns three times as many clusters, by k-means."""
    reduced = normalize_rows(principal_components(data.inputs.numpy(), 64))
    _, labels = k_means(reduced, 3 * data.num_classes, np.random.default_rng(seed))
    return aum(data, labels.astype(np.int64), epochs, seed)


VARIANTS: dict[str, Callable[[Data, int, int], np.ndarray]] = {
    "pseudo-labels (as shipped)": lambda data, epochs, seed: aum(data, data.pseudo, epochs, seed),
    "cross-fitted, 5 folds": cross_fitted,
    "loss weighted by confidence": lambda data, epochs, seed: aum(data, data.pseudo, epochs, seed, data.confidence),
    "mean of 5 clusterings": several_clusterings,
    "3 x over-clustered": over_clustered,
    "true labels (ceiling)": lambda data, epochs, seed: aum(data, data.labels, epochs, seed),
}


def classify(
    inputs: torch.Tensor, labels: np.ndarray, test: torch.Tensor, truth: np.ndarray, steps: int, seed: int
) -> float:
    """Test accuracy of an MLP."""
    generator = torch.Generator().manual_seed(seed)
    network = MlpClassifier(inputs, int(max(labels.max(), truth.max())) + 1, HIDDEN, generator=generator)
    options = {"batch_size": 128, "learning_rate": CLASSIFIER_RATE, "generator": generator}
    train_for_steps(network, inputs, torch.from_numpy(labels), steps=steps, **options)
    return accuracy(network, test, torch.from_numpy(truth))


def measure(task: tuple[str, str, float, int, int]) -> tuple[str, int, float, float, float, float]:
    """One variant and seed: (variant, seed, accuracy at the chosen beta, that beta, best accuracy, AUC)."""
    run_dir, variant, budget, epochs, seed = task
    torch.set_num_threads(1)
    data = load(run_dir)
    count = budget_count(budget, len(data.labels))

    def test_of(rows: np.ndarray) -> float:
        return classify(data.inputs[rows], data.labels[rows], data.test_inputs, data.test_labels, 1000, seed)

    if variant == "random":
        result = test_of(np.random.default_rng(seed).choice(len(data.labels), count, replace=False))
        return variant, seed, result, float("nan"), float("nan"), float("nan")
    scores = VARIANTS[variant](data, epochs, seed)
    training, validation = stratified_split(data.pseudo, 0.1, np.random.default_rng(seed))
    chosen, found = [], []
    for beta in BETAS:
        part = training[double_end_prune(-scores[training], round(count * 0.9), beta)]
        held_out = data.inputs[validation], data.pseudo[validation]
        chosen.append(classify(data.inputs[part], data.pseudo[part], *held_out, 500, seed))
        found.append(test_of(double_end_prune(-scores, count, beta)))
    best = int(np.argmax(chosen))
    rows, columns = linear_sum_assignment(contingency(data.labels, data.pseudo), maximize=True)
    matched = dict(zip(columns.tolist(), rows.tolist(), strict=True))
    wrong = np.array([matched.get(label, -1) for label in data.pseudo.tolist()]) != data.labels
    ranks = rankdata(-scores)
    area = (ranks[wrong].sum() - wrong.sum() * (wrong.sum() + 1) / 2) / (wrong.sum() * (~wrong).sum())
    return variant, seed, found[best], BETAS[best], max(found), float(area)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--budget", type=float, default=0.1, help="share of the candidates to select")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of the proxy")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    names = ["random", *VARIANTS]
    tasks = [
        (options.run_dir, name, options.budget, options.epochs, seed) for seed in range(options.seeds) for name in names
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        results = list(pool.map(measure, tasks))
    random = np.array([row[2] for row in results if row[0] == "random"])
    print(
        "| dynamics from | accuracy, % | less random, points (95 %) | betas chosen | best beta in hindsight, % | AUC |"
    )
    print("|---|---|---|---|---|---|")
    for name in names:
        rows = [row for row in results if row[0] == name]
        values = np.array([row[2] for row in rows])
        mean, gain = mean_and_interval(100 * values), mean_and_interval(100 * (values - random))
        line = f"| {name} | {mean.mean:.1f} ± {mean.std:.1f} |"
        if name != "random":
            best = mean_and_interval([100 * row[4] for row in rows])
            betas = ", ".join(f"{row[3]:g}" for row in rows)
            line += f" {gain.mean:+.1f} ± {gain.half_width:.1f} | {betas} | {best.mean:.1f} ± {best.std:.1f} |"
            line += f" {np.mean([row[5] for row in rows]):.3f} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
