"""What shorter trials and a proxy with narrower inputs do to the search of beta, and to the coreset it leads to.

    python benchmarks/small_search.py VECTORS.npy LABELS.npy --images 300 --budget 30 --draws 3

VECTORS.npy holds embeddings [N, d], LABELS.npy their true labels, which only the last step sees. Each draw takes some
of the images, clusters them (k-means), trains a proxy on the clusters, searches beta with three seeds, and trains on
the coreset with true labels, five seeds, tested on the other images of the draw. Prints, for each width of the proxy's
inputs (0: all dimensions) and each number of steps of a trial: the validation accuracy at the beta found and its mean
over all betas, that beta, the accuracy of its coreset in hundredths, and the seconds of processor that the search took;
in the end means over the draws, and the paired difference of the coreset's accuracy to the first line, with its
interval of 95 %.
"""

import argparse
import time
from collections import defaultdict
from functools import cache, partial

import numpy as np
import torch
from sklearn.cluster import KMeans

from elfs_ray.core.classifier import cosine_factor, epoch_batches, sgd, train_step
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingOptions, TrainingSet
from elfs_ray.core.components import PrincipalComponents
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.metrics import mean_and_interval
from elfs_ray.core.networks import build_network
from elfs_ray.core.pruning import beta_grid
from elfs_ray.core.splits import stratified_split
from elfs_ray.methods import SelectionInputs, get_method, select_coreset

CPU, SEARCH_SEEDS, TEST_SEEDS = torch.device("cpu"), 3, 5
# Width of the proxy's inputs, and steps of a trial. The first is what the others are compared with.
VARIANTS = ((0, 500), (0, 200), (256, 500), (256, 200), (256, 100))


def options(steps: int, classes: int) -> TrainingOptions:
    """Of an MLP, as search and evaluation train it."""
    return TrainingOptions("mlp", classes, 512, steps=steps, batch_size=128, learning_rate=0.02)


def reduced(vectors: np.ndarray, width: int) -> np.ndarray:
    """Principal components, or the vectors themselves (0)."""
    return PrincipalComponents(vectors, width).project(vectors) if width else vectors


def proxy_scores(inputs: np.ndarray, clusters: np.ndarray, seed: int, width: int) -> dict[str, np.ndarray]:
    """Training dynamics of the MLP proxy with its defaults."""
    generator, samples = torch.Generator().manual_seed(seed), torch.from_numpy(inputs)
    labels = torch.from_numpy(clusters)
    network = build_network("mlp", samples, int(labels.max()) + 1, 512, generator=generator, width=width)
    optimizer, dynamics = sgd(network, 0.005, 0.9, 5e-4), DynamicsAccumulator(len(labels), device=CPU)
    in_epoch = -(-len(labels) // 256)
    epochs = min(200, max(30, -(-2000 // in_epoch)))
    step = 0
    for epoch in range(epochs):
        for rows in epoch_batches(len(labels), 256, 16, generator):
            rate = 0.005 * cosine_factor(step, epochs * in_epoch)
            logits = train_step(network, optimizer, samples[rows], labels[rows], rate)
            dynamics.update(rows, logits, labels[rows], epoch)
            step += 1
    return dynamics.finalize()


def search(
    inputs: np.ndarray, clusters: np.ndarray, scores: dict[str, np.ndarray], budget: int, steps: int, seed: int
) -> tuple[list[float], np.ndarray]:
    """The betas, and the validation accuracy of each with each seed."""
    all_inputs = SelectionInputs(np.arange(len(clusters)), pseudo_labels=clusters.astype(np.int32), dynamics=scores)
    rng = np.random.default_rng(seed)
    splits = [stratified_split(clusters, 0.1, rng) for _ in range(SEARCH_SEEDS)]
    betas, found = beta_grid(budget / len(clusters)), []
    for beta in betas:
        sets = []
        for number, (rest, _) in enumerate(splits):
            count = round(budget * len(rest) / len(clusters))
            coreset = select_coreset(get_method("elfs", beta=beta), all_inputs.take(rest), count, rng)
            sets.append(TrainingSet(rest[coreset.positions], seed + number))
        training = ClassifierTraining(options(steps, int(clusters.max()) + 1), inputs, clusters, sets, device=CPU)
        training.train()
        judged = [training.held_out(inputs[held_out], clusters[held_out]) for _, held_out in splits]
        found.append([training.accuracy(number, held_out) for number, held_out in enumerate(judged)])
    return betas, np.array(found)


def coreset_accuracy(
    vectors: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    scores: dict[int, dict[str, np.ndarray]],
    width: int,
    beta: float,
    *,
    budget: int,
) -> float:
    """Accuracy on all images but the coreset at a beta, after training with true labels on it."""
    inputs = SelectionInputs(np.arange(len(clusters)), pseudo_labels=clusters.astype(np.int32), dynamics=scores[width])
    rows = np.sort(select_coreset(get_method("elfs", beta=beta), inputs, budget, np.random.default_rng(0)).positions)
    others = np.setdiff1d(np.arange(len(labels)), rows)
    sets = [TrainingSet(rows, number) for number in range(TEST_SEEDS)]
    training = ClassifierTraining(options(1000, int(labels.max()) + 1), vectors, labels, sets, device=CPU)
    training.train()
    judged = training.held_out(vectors[others], labels[others])
    return float(np.mean([training.accuracy(number, judged) for number in range(TEST_SEEDS)]))


def main() -> None:
    """Print a line for each draw and variant, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors")
    parser.add_argument("labels")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vectors = normalize_rows(np.load(arguments.vectors))
    names, labels = np.unique(np.load(arguments.labels), return_inverse=True)
    rows_of = defaultdict(list)
    for seed in range(arguments.draws):
        some = np.sort(np.random.default_rng(seed).permutation(len(vectors))[: arguments.images])
        mine, truth = vectors[some], labels[some].astype(np.int64)
        classes = min(len(names), arguments.images // 10)
        clusters = KMeans(classes, n_init=1, random_state=seed).fit_predict(reduced(mine, 64)).astype(np.int64)
        inputs = {width: reduced(mine, min(width, *mine.shape)) for width in (0, 256)}
        scores = {width: proxy_scores(each, clusters, seed, mine.shape[1]) for width, each in inputs.items()}
        test = cache(partial(coreset_accuracy, mine, truth, clusters, scores, budget=arguments.budget))
        for variant in VARIANTS:
            width, steps = variant
            started = time.process_time()
            betas, found = search(mine, clusters, scores[width], arguments.budget, steps, seed)
            seconds = time.process_time() - started
            best = int(found.mean(axis=1).round(12).argmax())
            row = found[best].mean(), found.mean(), betas[best], 100 * test(width, betas[best]), seconds
            rows_of[variant].append(row)
            print(seed, *variant, *(f"{value:.3f}" for value in row), flush=True)
    first = np.array([row[3] for row in rows_of[VARIANTS[0]]])
    for variant, rows in rows_of.items():
        difference = mean_and_interval(np.array([row[3] for row in rows]) - first) if len(rows) > 1 else None
        print("mean", *variant, *(f"{value:.3f}" for value in np.mean(rows, axis=0)), difference)


if __name__ == "__main__":
    main()
