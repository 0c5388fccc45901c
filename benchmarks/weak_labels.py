"""What makes training dynamics robust to wrong pseudo-labels: variants of the proxy and the coresets they give.

    python benchmarks/weak_labels.py RUN_DIR --heads heads.npz --budget 0.1 --seeds 5

RUN_DIR is a finished run with --labels and separate test images. TEMI is trained once more, because a run does not keep
what each head says; `--heads` keeps that for the next call. Every variant gives an AUM, and pseudo-labels to search
beta and share the budget by. For each seed and beta a coreset is selected as `elfs` does by default; an MLP trained on
it with true labels is tested. Reported: the accuracy at the beta that held-out pseudo-labels choose, as `beta-search`
does; the best beta in hindsight, which no one has without labels; and how well a low AUM finds wrong pseudo-labels.
The embeddings are reduced to `--dims` principal components, which makes a training four times cheaper.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.core.anchoring import spread_by_probes
from elfs_ray.core.centers import k_means
from elfs_ray.core.classifier import Recipe, accuracy, cosine_factor, epoch_batches, sgd, train_for_steps
from elfs_ray.core.components import PrincipalComponents
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.metrics import cluster_accuracy, contingency, mean_and_interval
from elfs_ray.core.networks import MlpClassifier
from elfs_ray.core.pruning import budget_count
from elfs_ray.core.splits import stratified_split
from elfs_ray.core.temi import head_alignment, warmup_schedule
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from elfs_ray.methods import SelectionInputs, select_coreset
from elfs_ray.methods.elfs import Elfs

BETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
FOLDS, HEADS_USED = 5, 5
CPU = torch.device("cpu")
PROXY_RATE, CLASSIFIER_RATE, HIDDEN = 0.005, 0.02, 512


@dataclass(frozen=True)
class Task:
    """One variant and seed, in plain values."""

    run_dir: str
    heads: str
    dims: int
    budget: float
    epochs: int
    labeled: int
    variant: str
    seed: int


@dataclass(frozen=True)
class Data:
    """Candidates, whose labels selection does not see, and test set; N samples, H heads, C classes."""

    inputs: Tensor
    heads: np.ndarray  # aligned pseudo-labels of each head, int64 [H, N]
    soft: np.ndarray  # mean probabilities of the aligned heads, float32 [N, C]
    labels: np.ndarray
    test_inputs: Tensor
    test_labels: np.ndarray

    @property
    def pseudo(self) -> np.ndarray:
        """The pseudo-labels as a run makes them, int64 [N]."""
        return self.soft.argmax(axis=1)


@dataclass(frozen=True)
class Scored:
    """What a variant found: AUM [N], the labels it was measured by [N], and the samples with known labels."""

    aum: np.ndarray
    labels: np.ndarray
    seeds: np.ndarray | None = None


def read_labelled(run_dir: str, dims: int) -> tuple[Tensor, np.ndarray, Tensor, np.ndarray]:
    """Embeddings and true labels of the candidates and of the test images; `dims`: principal components, 0 for none."""
    store = RunFolder(run_dir)
    vectors, test = Embeddings(store).unit_vectors(), Embeddings(store, "test/embeddings").unit_vectors()
    if dims:
        components = PrincipalComponents(vectors, dims)
        vectors, test = (normalize_rows(components.project(rows)) for rows in (vectors, test))
    labels, test_labels = (Table(store, f"{part}labels_true").column("label") for part in ("", "test/"))
    return torch.from_numpy(vectors), labels, torch.from_numpy(test), test_labels


@cache
def load(run_dir: str, heads: str, dims: int) -> Data:
    """Read a run, and what the heads say."""
    saved = np.load(heads)
    vectors, labels, test, test_labels = read_labelled(run_dir, dims)
    return Data(vectors, saved["heads"], saved["soft"], labels, test, test_labels)


def train_heads(run_dir: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """TEMI with the settings of the run: labels of the aligned heads [H, N] and their mean probabilities [N, C]."""
    store = RunFolder(run_dir)
    options = store.records()[Unit("pseudo_labels")].chosen
    classes = store.manifest()["config"]["num_classes"]
    features = Embeddings(store).unit_vectors()
    if options["pca_dim"]:
        features = normalize_rows(PrincipalComponents(features, options["pca_dim"]).project(features))
    neighbors = torch.from_numpy(Table(store, "neighbors").matrix("ids"))
    inputs = torch.from_numpy(features)
    named = ("heads", "hidden_dim", "bottleneck_dim", "teacher_momentum", "teacher_temperature", "weight_decay")
    temi = TemiOptions(num_classes=classes, **{name: options[name] for name in named})
    training, generator = TemiTraining(temi, inputs.shape[1], seed, CPU), torch.Generator().manual_seed(seed)
    batch_size, step = options["batch_size"], 0
    warmup = round(options["warmup_fraction"] * options["epochs"]) * (len(inputs) // batch_size)
    for epoch in range(options["epochs"]):
        for rows in epoch_batches(len(inputs), batch_size, batch_size, generator):
            partner = neighbors[rows, torch.randint(neighbors.shape[1], (len(rows),), generator=generator)]
            rate = options["learning_rate"] * batch_size / 256 * warmup_schedule(step, warmup)
            training.step(inputs[torch.cat([rows, partner])], rate, last_layer_frozen=epoch == 0)
            step += 1
    probabilities = torch.cat([training.probabilities(block) for block in inputs.split(4096)], dim=1).numpy()
    alignment = head_alignment(probabilities.argmax(axis=2), 0, classes)
    aligned = np.zeros_like(probabilities)
    for head, renumbered in enumerate(alignment):
        aligned[head][:, renumbered] = probabilities[head]
    return aligned.argmax(axis=2), aligned.mean(axis=0)


def train_proxy(
    data: Data, targets: np.ndarray, task: Task, *, training: np.ndarray | None = None,
    recorded: np.ndarray | None = None, weights: np.ndarray | None = None, epochs: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Train a proxy on some samples and measure the AUM of others, once in each epoch; without: all on all.

    Args:
        data: of the run.
        targets: labels int [N], or probabilities of labels float [N, C].
        task: gives the seed and the epochs.
        training: positions that are trained on.
        recorded: positions whose margins are recorded; the others' AUM is 0.
        weights: of the samples' losses, [N].
        epochs: instead of the task's.
    """
    everyone, epochs = np.arange(len(targets)), epochs or task.epochs
    training, recorded = (everyone if part is None else part for part in (training, recorded))
    hard = torch.from_numpy(targets if targets.ndim == 1 else targets.argmax(axis=1))
    goal = hard if targets.ndim == 1 else torch.from_numpy(targets)
    weight = torch.ones(len(hard)) if weights is None else torch.from_numpy(weights).float()
    generator = torch.Generator().manual_seed(task.seed)
    network = MlpClassifier(data.inputs[training], int(hard.max()) + 1, HIDDEN, generator=generator)
    optimizer, dynamics = sgd(network, PROXY_RATE, 0.9, 5e-4), DynamicsAccumulator(len(hard))
    steps, step = epochs * -(-len(training) // 256), 0
    for epoch in range(epochs):
        for batch in epoch_batches(len(training), 256, 16, generator):
            rows = torch.from_numpy(training[batch.numpy()])
            for group in optimizer.param_groups:
                group["lr"] = PROXY_RATE * cosine_factor(step, steps)
            losses = F.cross_entropy(network(data.inputs[rows]), goal[rows], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            (losses * weight[rows]).mean().backward()
            optimizer.step()
            step += 1
        with torch.inference_mode():
            for block in torch.from_numpy(recorded).split(8192):
                dynamics.update(block, network(data.inputs[block]), hard[block], epoch)
    return dynamics.finalize()["aum"] / epochs


def shipped(data: Data, task: Task) -> Scored:
    """AUM on the pseudo-labels."""
    return Scored(train_proxy(data, data.pseudo, task), data.pseudo)


def cross_fitted(data: Data, task: Task) -> Scored:
    """AUM of samples that the proxy does not train on: it cannot learn a wrong label by heart."""
    order = np.random.default_rng(task.seed).permutation(len(data.pseudo))
    total = np.zeros(len(order))
    for fold in range(FOLDS):
        held_out = np.sort(order[fold::FOLDS])
        total += train_proxy(data, data.pseudo, task, training=np.setdiff1d(order, held_out), recorded=held_out)
    return Scored(total, data.pseudo)


def weighted(data: Data, task: Task) -> Scored:
    """Losses weighted by the confidence of the pseudo-labels."""
    return Scored(train_proxy(data, data.pseudo, task, weights=data.soft.max(axis=1)), data.pseudo)


def softened(data: Data, task: Task) -> Scored:
    """The proxy learns the heads' mean probabilities."""
    return Scored(train_proxy(data, data.soft, task), data.pseudo)


def several_heads(data: Data, task: Task) -> Scored:
    """Mean AUM over proxies of single heads, each with a share of the epochs."""
    drawn = np.random.default_rng(task.seed).choice(len(data.heads), HEADS_USED, replace=False)
    epochs = max(6, task.epochs // HEADS_USED)
    return Scored(np.mean([train_proxy(data, data.heads[head], task, epochs=epochs) for head in drawn], 0), data.pseudo)


def over_clustered(data: Data, task: Task) -> Scored:
    """The proxy learns three times as many clusters, by k-means."""
    reduced = normalize_rows(PrincipalComponents(data.inputs.numpy(), 64).project(data.inputs.numpy()))
    _, labels = k_means(reduced, 3 * data.soft.shape[1], np.random.default_rng(task.seed))
    return Scored(train_proxy(data, labels.astype(np.int64), task), data.pseudo)


def anchored(data: Data, task: Task) -> Scored:
    """Pseudo-labels by probes on some true labels, as `--labeled` makes them."""
    rng = np.random.default_rng(task.seed)
    seeds = np.sort(rng.choice(len(data.labels), task.labeled, replace=False))
    labels = spread_by_probes(data.inputs.numpy(), data.pseudo, seeds, data.labels[seeds], rng).labels.astype(np.int64)
    return Scored(train_proxy(data, labels, task), labels, seeds)


def semi_supervised(data: Data, task: Task) -> Scored:
    """Pseudo-labels by FixMatch on some true labels, as SemiPrune makes them, but on embeddings.

    The strong view drops a third of the features; sure predictions on the whole view are its targets.
    """
    rng = np.random.default_rng(task.seed)
    seeds = np.sort(rng.choice(len(data.labels), task.labeled, replace=False))
    known, owned = torch.from_numpy(data.labels), torch.from_numpy(seeds)
    generator = torch.Generator().manual_seed(task.seed)
    network = MlpClassifier(data.inputs, int(data.labels[seeds].max()) + 1, HIDDEN, generator=generator)
    optimizer, steps = sgd(network, CLASSIFIER_RATE, 0.9, 5e-4), 3000
    for step in range(steps):
        labeled = owned[torch.randint(len(owned), (64,), generator=generator)]
        others = data.inputs[torch.randint(len(data.inputs), (448,), generator=generator)]
        with torch.no_grad():
            sure, guess = network(others).softmax(dim=1).max(dim=1)
        strong = others * _keep(others, generator)
        for group in optimizer.param_groups:
            group["lr"] = CLASSIFIER_RATE * cosine_factor(step, steps)
        loss = F.cross_entropy(network(data.inputs[labeled]), known[labeled])
        loss = loss + (F.cross_entropy(network(strong), guess, reduction="none") * (sure > 0.95)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        labels = network(data.inputs).argmax(dim=1).numpy()
    labels[seeds] = data.labels[seeds]
    return Scored(train_proxy(data, labels, task), labels, seeds)


def _keep(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Factors that drop a third of the features and keep the others' sum, [b, d]."""
    return 1.5 * (torch.rand(inputs.shape, generator=generator) > 1 / 3)


def ceiling(data: Data, task: Task) -> Scored:
    """AUM on the true labels, which no label-free method has."""
    return Scored(train_proxy(data, data.labels, task), data.labels)


VARIANTS: dict[str, Callable[[Data, Task], Scored]] = {
    "pseudo-labels (as shipped)": shipped,
    "cross-fitted, 5 folds": cross_fitted,
    "loss weighted by confidence": weighted,
    "soft labels": softened,
    "mean over 5 heads": several_heads,
    "3 x over-clustered": over_clustered,
    "labelled samples, probes": anchored,
    "labelled samples, FixMatch": semi_supervised,
    "true labels (ceiling)": ceiling,
}


@dataclass(frozen=True)
class Row:
    """Result of a task: accuracies, the beta chosen, and what is known of the pseudo-labels."""

    variant: str
    seed: int
    accuracy: float
    beta: float = float("nan")
    best: float = float("nan")
    area: float = float("nan")
    labels_right: float = float("nan")


def classify(inputs: Tensor, labels: np.ndarray, test: Tensor, truth: np.ndarray, steps: int, seed: int) -> float:
    """Test accuracy of an MLP."""
    generator = torch.Generator().manual_seed(seed)
    network = MlpClassifier(inputs, int(max(labels.max(), truth.max())) + 1, HIDDEN, generator=generator)
    recipe = Recipe(steps=steps, batch_size=128, learning_rate=CLASSIFIER_RATE)
    train_for_steps(network, inputs, torch.from_numpy(labels), recipe, generator)
    return accuracy(network, test, torch.from_numpy(truth.copy()))  # what Arrow gives may not be written to


def select(scored: Scored, rows: np.ndarray, count: int, beta: float, rng: np.random.Generator) -> np.ndarray:
    """The coreset among some samples, as `elfs` selects it by default."""
    owned = np.isin(rows, scored.seeds) if scored.seeds is not None else None
    inputs = SelectionInputs(
        ids=rows, pseudo_labels=scored.labels[rows].astype(np.int32), dynamics={"aum": scored.aum[rows]},
        labeled=owned,
    )  # fmt: skip
    return rows[select_coreset(Elfs(beta=beta), inputs, count, rng).positions]


def measure(task: Task) -> Row:
    """One variant and seed."""
    torch.set_num_threads(1)
    data = load(task.run_dir, task.heads, task.dims)
    count, rng = budget_count(task.budget, len(data.labels)), np.random.default_rng(task.seed)

    def tested(rows: np.ndarray) -> float:
        return classify(data.inputs[rows], data.labels[rows], data.test_inputs, data.test_labels, 1000, task.seed)

    if task.variant == "random":
        return Row("random", task.seed, tested(rng.choice(len(data.labels), count, replace=False)))
    scored = VARIANTS[task.variant](data, task)
    everyone = np.arange(len(data.labels))
    training, validation = stratified_split(scored.labels, 0.1, rng)
    chosen, found = [], []
    for beta in BETAS:
        part = select(scored, training, round(count * 0.9), beta, rng)
        held_out = data.inputs[validation], scored.labels[validation]
        chosen.append(classify(data.inputs[part], scored.labels[part], *held_out, 500, task.seed))
        found.append(tested(select(scored, everyone, count, beta, rng)))
    best = int(np.argmax(chosen))
    right = cluster_accuracy(data.labels, scored.labels)
    area = wrong_label_area(scored, data.labels) if right < 1 else float("nan")
    return Row(task.variant, task.seed, found[best], BETAS[best], max(found), area, right)


def wrong_label_area(scored: Scored, truth: np.ndarray) -> float:
    """Area under the ROC curve of finding wrong pseudo-labels by a low AUM."""
    rows, columns = linear_sum_assignment(contingency(truth, scored.labels), maximize=True)
    matched = dict(zip(columns.tolist(), rows.tolist(), strict=True))
    wrong = np.array([matched.get(label, -1) for label in scored.labels.tolist()]) != truth
    ranks = rankdata(-scored.aum)
    return float((ranks[wrong].sum() - wrong.sum() * (wrong.sum() + 1) / 2) / (wrong.sum() * (~wrong).sum()))


def print_table(results: list[Row]) -> None:
    """Markdown: a row for each variant."""
    random = {row.seed: row.accuracy for row in results if row.variant == "random"}
    print("| dynamics from | labels right, % | accuracy, % | less random, points (95 %) | betas chosen | "
          "best beta in hindsight, % | AUC |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in dict.fromkeys(row.variant for row in results):
        rows = [row for row in results if row.variant == name]
        mean = mean_and_interval([100 * row.accuracy for row in rows])
        if name == "random":
            print(f"| random | | {mean.mean:.1f} ± {mean.std:.1f} | | | | |")
            continue
        gain = mean_and_interval([100 * (row.accuracy - random[row.seed]) for row in rows])
        best = mean_and_interval([100 * row.best for row in rows])
        right, betas = np.mean([100 * row.labels_right for row in rows]), ", ".join(f"{row.beta:g}" for row in rows)
        print(f"| {name} | {right:.1f} | {mean.mean:.1f} ± {mean.std:.1f} | {gain.mean:+.1f} ± {gain.half_width:.1f} | "
              f"{betas} | {best.mean:.1f} ± {best.std:.1f} | {np.mean([row.area for row in rows]):.3f} |")  # fmt: skip


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--heads", required=True, help="file that keeps what the heads say")
    parser.add_argument("--dims", type=int, default=256, help="principal components; 0: the embeddings as they are")
    parser.add_argument("--budget", type=float, default=0.1, help="share of the candidates to select")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of the proxy")
    parser.add_argument("--labeled", type=int, default=250, help="true labels for the variants that use some")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if not Path(options.heads).exists():
        heads, soft = train_heads(options.run_dir, seed=0)
        np.savez(options.heads, heads=heads, soft=soft)
    plan = Task(options.run_dir, options.heads, options.dims, options.budget, options.epochs, options.labeled, "", 0)
    tasks = [
        replace(plan, variant=name, seed=seed) for seed in range(options.seeds) for name in ("random", *VARIANTS)
    ]  # fmt: skip
    results: list[Row] = []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for row in pool.map(measure, tasks):
            results.append(row)
            print(
                f"seed {row.seed}  {row.variant:28} {row.accuracy:.4f}  beta {row.beta:g}  best {row.best:.4f}",
                flush=True,
            )
    print_table(results)


if __name__ == "__main__":
    main()
