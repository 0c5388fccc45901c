"""Evaluate: the accuracy of models trained with true labels on the coreset, beside random subsets.

Reads: `embeddings` or `samples`, `labels_true`, `pseudo_labels`, `coresets/METHOD/BUDGET`, and the separate test images
if there are any. Writes: `evaluation/METHOD/BUDGET` (one row for each training). But for supervised baselines, the only
stage that reads true labels. Every training of a model has the same number of steps and the same test set; the last
state counts, never the best on test. Random subsets and the seeds of trainings are the same for all methods, so that
differences to random are paired.
The seeds of a model on one kind of subset are a task, which trains them at once where the model sees embeddings; each
training on images is a task of its own.
Each training saves its row in `trainings` when it ends, under a key made of all that decides its result, and no run
does it again: a second run of the driver does the others, random subsets are trained on once for all methods, and
another model or seed costs only its own trainings.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.pixels import Pixels
from elfs_ray.artifacts.record import TEST, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import EvaluateConfig, RunConfig
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingSet
from elfs_ray.core.metrics import cluster_accuracy, mean_and_interval, normalized_mutual_information
from elfs_ray.planning.auto_options import GPU_SHARES, trained_together
from elfs_ray.stages import identity
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.parts.evaluation_sets import Sets, Training, class_names, draw_sets
from elfs_ray.stages.parts.pixels import pixels_for
from elfs_ray.stages.parts.training_options import training_options
from elfs_ray.workers.base import Handle
from elfs_ray.workers.compute import device_of_task
from elfs_ray.workers.progress import Counter, showing
from elfs_ray.workers.threads import use_torch_threads

TRAININGS = "trainings"
"""Folder of the run folder with a row of each training that has ended, whatever became of its evaluation."""


@dataclass(frozen=True)
class Trainings:
    """What all trainings share.

    Attributes:
        options: how each model is trained.
        used: positions of the samples in any training set.
        inputs: of these, by pixels a side; 0: their embeddings.
        test_inputs: the same of the test set.
    """

    store: RunFolder
    options: dict[str, EvaluateConfig]
    num_classes: int
    sets: Sets
    used: np.ndarray
    inputs: dict[int, np.ndarray]
    test_inputs: dict[int, np.ndarray]


@dataclass
class Begun:
    """An evaluation whose trainings are on their way.

    Attributes:
        described: keys of its trainings, options of each model, and counts of the test set.
        tasks: of the trainings that were not done before, and that no other evaluation does; with their number.
        counter: of trainings that have ended.
        share: of a GPU, or of a processor, that each task takes at most.
    """

    context: StageContext
    described: dict[str, Any]
    tasks: list[tuple[Handle[None], int]]
    counter: Counter
    share: float

    @property
    def num_open(self) -> int:
        """Tasks that have not ended."""
        return sum(not task.ended for task, _ in self.tasks)

    @property
    def trainings_open(self) -> int:
        """Trainings of these tasks."""
        return sum(count for task, count in self.tasks if not task.ended)


def run_together(contexts: Sequence[StageContext]) -> Iterator[StageResult]:
    """Evaluate several coresets, in order; the trainings of the next fill the places that one leaves free.

    A training that two of them share, on a random subset, is done for the first.
    """
    hardware, waiting, begun = contexts[0].hardware, deque(contexts), deque[Begun]()
    ended, on_their_way = dict[str, dict[str, Any]](), set[str]()
    while waiting or begun:
        behind = sum(each.share * each.num_open for each in islice(begun, 1, None))
        if waiting and (not begun or behind < (hardware.gpus or hardware.cpus)):
            begun.append(_begin(waiting.popleft(), ended, on_their_way))
        else:
            yield _finish(begun.popleft(), ended)


def _begin(context: StageContext, ended: dict[str, dict[str, Any]], on_their_way: set[str]) -> Begun:
    """Draw the subsets, and start the tasks of the trainings that have not ended and are not on their way."""
    config, store, options, workers = context.config, context.store, context.config.evaluate, context.workers
    trainings = [
        Training(subset, model, seed)
        for model in dict.fromkeys(options.models)
        for subset in dict.fromkeys([config.select.name, "random"])
        for seed in range(options.seeds)
    ]
    # Each draw and each training has a seed of its own, the same for all methods.
    draws = {seed: context.seed(seed, unit="evaluation") for seed in range(options.seeds)}
    on_gpu = context.hardware.device == "cuda"
    dtypes = context.hardware.dtypes
    drawn = store, config, dtypes, context.unit, context.version, trainings, draws
    # No core of its own: it would wait for one behind the trainings of the evaluation before.
    first, sets = workers.begin_several(draw_sets, *drawn, results=2, cpus=0)
    described = first.result()
    ended.update(_ended(store, described["keys"].values()))
    known = ended.keys() | on_their_way
    pending = {training: key for training, key in described["keys"].items() if key not in known}
    on_their_way.update(pending.values())
    shares = {training: GPU_SHARES[described["options"][training.model].image_size > 0] for training in pending}
    counter = workers.counter(len(trainings) - len(pending))
    tasks: list[tuple[Handle[None], int]] = []
    if pending:
        pixels = _pixels(context, described["options"], sets, list(pending))
        shared = workers.begin(_load, store, config, described["options"], sets, list(pending), pixels)
        seeds = {training: context.seed(training.seed, 1, unit="evaluation") for training in pending}
        for group in _tasks(pending, described["options"]):
            keyed = [(training, pending[training], seeds[training]) for training in group]
            gpus = shares[group[0]] if on_gpu else 0
            tasks.append((workers.begin(train, shared, keyed, counter, gpus=gpus), len(group)))
    return Begun(context, described, tasks, counter, max(shares.values(), default=0.0) if on_gpu else 1.0)


def _finish(begun: Begun, ended: dict[str, dict[str, Any]]) -> StageResult:
    """Wait for the trainings, and compare the coreset with random subsets."""
    context, described = begun.context, begun.described
    config, store, keys = context.config, context.store, described["keys"]
    done = len(keys) - begun.trainings_open
    with context.reporter.meter("evaluating", len(keys), "trainings", done) as meter, showing(begun.counter, meter):
        context.workers.results([task for task, _ in begun.tasks])
    ended.update(_ended(store, keys.values()))
    names = {"budget": context.unit.budget, "test_samples": described["test_samples"]}
    rows = [{**ended[key], **training._asdict(), **names} for training, key in keys.items()]
    context.write("evaluation", pa.Table.from_pylist(rows), schema.EVALUATION)
    quality, labels = {}, identity.labels_in_use(config)
    if not config.select.supervised and context.if_current(labels):
        quality = context.workers.call(_label_quality, store, labels, cpus=0.5)
    method, models = config.select.name, dict.fromkeys(config.evaluate.models)
    metrics = {
        "models": {model: _summary([row for row in rows if row["model"] == model], method) for model in models},
        **quality,
        "test_samples": described["test_samples"],
        "test_dropped": described["test_dropped"],
        "test": config.evaluate.test_input or "held-out candidates",
        "embeddings_of": config.evaluate.embeddings_of,
        "devices": sorted({ended[key]["device"] for key in keys.values()}),
    }
    chosen = {name: section.model_dump(mode="json") for name, section in described["options"].items()}
    return StageResult(chosen=chosen, metrics=metrics)


def _tasks(trainings: Iterable[Training], options: dict[str, EvaluateConfig]) -> list[list[Training]]:
    """The trainings of each task: all seeds of a model on one kind of subset, or one training."""
    groups = dict[tuple[str, str, int], list[Training]]()
    for training in trainings:
        number = 0 if trained_together(options[training.model]) else training.seed
        groups.setdefault((training.subset, training.model, number), []).append(training)
    return list(groups.values())


def _ended(store: RunFolder, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of those of the trainings that have ended, by key."""
    there = set(store.names(TRAININGS))
    return {key: store.read_json(TRAININGS, f"{key}.json") for key in keys if f"{key}.json" in there}


def _pixels(
    context: StageContext, options: dict[str, EvaluateConfig], sets: Handle[Sets], pending: list[Training]
) -> dict[tuple[int, str], Pixels]:
    """The pixels that the pending trainings see, by side, and prefix of the images."""
    sides = {int(options[training.model].image_size) for training in pending} - {0}
    separate = context.config.evaluate.test_input is not None
    found = {}
    for side, prefix in product(sorted(sides), ("", TEST) if separate else ("",)):
        wanted = context.workers.begin(_seen, sets, pending, prefix, separate, cpus=0)
        found[side, prefix] = pixels_for(context, side, prefix, wanted)
    return found


def _seen(sets: Sets, pending: list[Training], prefix: str, separate: bool) -> np.ndarray:
    """Positions of the candidates, or of the separate test images, that trainings train or test on."""
    if prefix:
        return sets.test
    used = sets.used(pending)
    return used if separate else np.union1d(used, sets.test)


def _load(
    store: RunFolder,
    config: RunConfig,
    options: dict[str, EvaluateConfig],
    sets: Sets,
    pending: list[Training],
    pixels: dict[tuple[int, str], Pixels],
) -> Trainings:
    """Read what the pending trainings need of the training sets and the test set."""
    used, prefix = sets.used(pending), TEST if config.evaluate.test_input else ""
    sizes = {int(options[training.model].image_size) for training in pending}
    embedded = RunFolder(config.evaluate.embeddings_of or store.uri)

    def inputs(size: int, prefix: str, positions: np.ndarray) -> np.ndarray:
        if size == 0:
            return Embeddings(embedded, Unit("embed", prefix).artifact("embeddings")).unit_vectors_at(positions)
        return pixels[size, prefix].squares_at(positions)

    return Trainings(
        store,
        options,
        max(len(class_names(store)), 2),
        sets,
        used,
        {size: inputs(size, "", used) for size in sizes},
        {size: inputs(size, prefix, sets.test) for size in sizes},
    )


def train(shared: Trainings, trainings: Sequence[tuple[Training, str, int]], counter: Counter) -> None:
    """Train on some samples with true labels, test, and save the results.

    Args:
        shared: what they train and test on.
        trainings: of one model, each with its key and its seed.
        counter: of trainings that have ended.
    """
    use_torch_threads(1)
    started, sets, device = time.monotonic(), shared.sets, device_of_task()
    model = trainings[0][0].model
    options = shared.options[model]
    rows = [np.searchsorted(shared.used, sets.rows[each.subset, each.seed]) for each, _, _ in trainings]
    size = int(options.image_size)
    training = ClassifierTraining(
        training_options(options, model, shared.num_classes, options.hidden_dim),
        shared.inputs[size],
        sets.labels[shared.used],
        [TrainingSet(positions, seed) for positions, (_, _, seed) in zip(rows, trainings, strict=True)],
        device=device,
    )
    steps = training.train()
    judged = training.held_out(shared.test_inputs[size], sets.test_labels)
    accuracies = [training.accuracy(number, judged) for number in range(len(trainings))]
    for number, (_, key, _) in enumerate(trainings):
        row = {
            "training": key,
            "train_samples": len(rows[number]),
            "device": device.type,
            "steps": steps[number],
            "test_accuracy": accuracies[number],
            "seconds": round((time.monotonic() - started) / len(trainings), 3),
        }
        shared.store.write_json(row, TRAININGS, f"{key}.json")
        counter.advance(1)


def _summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Mean and spread of each kind of subset, and the paired difference to random."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["subset"], []).append(row["test_accuracy"])
    subsets = {name: mean_and_interval(values)._asdict() for name, values in scores.items()}
    summary: dict[str, Any] = {"subsets": subsets}
    if method != "random":
        pairs = np.subtract(scores[method], scores["random"])
        summary["difference"] = mean_and_interval(pairs)._asdict()
    return summary


def _label_quality(store: RunFolder, artifact: str) -> dict[str, float]:
    """Agreement of the pseudo-labels with the truth, where both are known."""
    labels = Table(store, "labels_true").column("label")
    known = labels >= 0
    clusters = Table(store, artifact).column("label")[known].astype(np.int64)
    return {
        "pseudo_label_accuracy": round(cluster_accuracy(labels[known], clusters), 4),
        "pseudo_label_nmi": round(normalized_mutual_information(labels[known], clusters), 4),
    }
