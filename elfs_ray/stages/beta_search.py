"""Beta search: for one budget, which share of the hardest samples to drop, by accuracy on held-out pseudo-labels.

For the method `auto` the candidates are methods, each with its betas.
Reads: `pseudo_labels`, `embeddings` or `samples` (`beta_search.model`), and what the method declares. Writes:
`beta_search/METHOD/BUDGET` (a row for each candidate and seed). A trial for each candidate trains all its seeds, on
embeddings all at once, and with ASHA part by part: what ASHA stops is a candidate, by its mean, and those that come to
the end can be compared. One task reads the artifacts for all trials.
The rows of each trial are saved when it ends or is stopped; a second run of the driver does the others.
Logs for TensorBoard stay in `logs/beta_search/METHOD/BUDGET`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.pixels import Pixels
from elfs_ray.artifacts.run_folder import LOGS, RunFolder
from elfs_ray.artifacts.samples import median_side
from elfs_ray.artifacts.table import Table
from elfs_ray.config import BetaSearchConfig, RunConfig, SelectConfig
from elfs_ray.core.classifier_training import ClassifierTraining, TrainingSet
from elfs_ray.core.metrics import best_candidate
from elfs_ray.core.pruning import beta_grid
from elfs_ray.core.splits import stratified_split
from elfs_ray.errors import UsageError
from elfs_ray.methods import SelectionInputs, get_method, select_coreset
from elfs_ray.planning.auto_options import GPU_SHARES, choose_beta_search
from elfs_ray.stages.context import StageContext, StageResult
from elfs_ray.stages.identity import method_of
from elfs_ray.stages.parts.method_inputs import count_classes, labeled_mask, labels_in_use, read_inputs
from elfs_ray.stages.parts.pixels import pixels_for
from elfs_ray.stages.parts.training_options import training_options
from elfs_ray.workers.base import Search
from elfs_ray.workers.compute import device_of_task

TRIALS, TUNE = "trials", f"{LOGS}beta_search"
# ASHA looks at a training after 1, 3 and 9 ninths of its steps, and lets the better third of the trials go on.
ASHA_PARTS, ASHA_REDUCTION = 9, 3


@dataclass(frozen=True)
class SearchData:
    """What every trial needs.

    Attributes:
        options: how it trains.
        inputs: what the method selects from.
        samples: what the network sees of all samples; or that in memory, float32 [N, dim].
        splits: positions of training and validation samples, for each seed.
    """

    options: BetaSearchConfig
    select: SelectConfig
    inputs: SelectionInputs
    samples: Embeddings | Pixels | np.ndarray
    labels: np.ndarray
    splits: list[tuple[np.ndarray, np.ndarray]]
    budget: int
    num_classes: int
    hidden_dim: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimizer steps of a training that runs to its end."""
        return int(self.options.steps)

    @property
    def parts(self) -> int:
        """Reports of a trial that runs to its end."""
        return _parts(self.options)


def run(context: StageContext) -> StageResult:
    """Try every candidate with every seed and take the best mean; ties go to the first, with the smaller beta.

    A method may ask that candidates within the noise count as ties. Candidates of which a trial was stopped early count
    only where no other came farther.
    """
    config, store = context.config, context.store
    budget, dtypes = context.unit.budget, context.hardware.dtypes
    options = choose_beta_search(config.beta_search, config.evaluate, median_side(store), budget, **dtypes)
    options = context.as_begun(options)
    context.begin(options)
    betas = betas_to_try(options, budget / context.table("samples").rows)
    method = method_of(config)
    candidates = method.candidates(betas)
    rows = _search(context, options, candidates)
    context.write("beta_search", pa.Table.from_pylist(rows), schema.BETA_SEARCH)
    accuracies, steps = (
        np.array([row[name] for row in rows]).reshape(len(candidates), options.seeds)
        for name in ("validation_accuracy", "steps")
    )
    best = best_candidate(accuracies, steps, within_noise=method.takes_first_within_noise)
    return StageResult(
        chosen={**options.model_dump(mode="json"), "betas": betas},
        metrics={
            "found": candidates[best],
            "beta": candidates[best].get("beta"),
            "mean_validation_accuracy": round(float(accuracies[best].mean()), 4),
            "trainings": len(rows),
            "devices": sorted({row["device"] for row in rows}),
        },
    )


def _parts(options: BetaSearchConfig) -> int:
    """Reports of a trial that runs to its end."""
    return ASHA_PARTS if options.scheduler == "asha" else 1


def betas_to_try(options: BetaSearchConfig, keep_fraction: float) -> list[float]:
    """The candidates that leave room for a budget, which is given as a share of the samples.

    Raises:
        UsageError: none does.
    """
    grid = beta_grid(keep_fraction)
    if options.betas == "auto":
        return grid
    possible = sorted({float(beta) for beta in options.betas if beta + keep_fraction <= 1 + 1e-9})
    if not possible:
        raise UsageError(
            f"none of beta_search.betas={options.betas} leaves room for a budget of {keep_fraction:.1%}; "
            f"the largest possible is {1 - keep_fraction:.3f}"
        )
    return possible


def _search(context: StageContext, options: BetaSearchConfig, candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the trials that have not ended yet; returns a row for each candidate and seed, in this order."""
    store, work = context.store, context.work
    trials = [{"number": number, "found": found} for number, found in enumerate(candidates)]
    ended = set(store.names(work, TRIALS))
    pending = [trial for trial in trials if _file_name(trial) not in ended]
    if pending:
        samples = pixels_for(context, int(options.image_size)) if options.image_size else context.embeddings
        with context.counting("trying", len(trials), "trials", len(trials) - len(pending)) as counter:

            def save(trial: dict[str, Any], report: dict[str, Any]) -> None:
                store.write_json(list(report["seeds"].values()), work, TRIALS, _file_name(trial))
                counter.advance(1)

            _run_trials(context, options, samples, pending, save)
    return [row for trial in trials for row in store.read_json(work, TRIALS, _file_name(trial))]


def _run_trials(
    context: StageContext,
    options: BetaSearchConfig,
    samples: Embeddings | Pixels,
    trials: list[dict[str, Any]],
    save: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    """Run these trials; `save` takes each that has ended, with its last report."""
    store, workers = context.store, context.workers
    seeds = context.seed(unit="beta_search"), context.seed(1, unit="beta_search")
    data = workers.begin(_load, store, context.config, options, samples, context.unit.budget, seeds)
    search = Search(
        metric="validation_accuracy",
        parts=_parts(options),
        keep=ASHA_REDUCTION if options.scheduler == "asha" else 0,
        gpus=GPU_SHARES[int(options.image_size) > 0],
        max_failures=options.max_failures,
        name=_name,
        logs=TUNE,
    )
    workers.trials(run_trial, data, trials, search, save, store=store, work=context.work)


def _name(trial: dict[str, Any]) -> str:
    return f"candidate-{trial['number']}"


def _file_name(trial: dict[str, Any]) -> str:
    return f"{_name(trial)}.json"


def _load(
    store: RunFolder,
    config: RunConfig,
    options: BetaSearchConfig,
    samples: Embeddings | Pixels,
    budget: int,
    seeds: tuple[int, int],
) -> SearchData:
    """What every trial needs: inputs of the method, pseudo-labels, and a 90 / 10 split for each seed.

    One split would decide between betas by a few samples of luck. The splits are the same for all methods and budgets.
    """
    labels = Table(store, labels_in_use(store, config)).column("label").astype(np.int64)
    rng = np.random.default_rng(seeds[0])
    return SearchData(
        options=options,
        select=config.select,
        inputs=read_inputs(store, config, method_of(config)),
        samples=samples,
        labels=labels,
        splits=[stratified_split(labels, options.validation_fraction, rng) for _ in range(options.seeds)],
        budget=budget,
        num_classes=count_classes(store, config),
        hidden_dim=config.proxy.hidden_dim,
        seed=seeds[1],
    )


def run_trial(data: SearchData, trial: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train on the coresets of one candidate, one for each seed, part by part; yields the mean after each part."""
    options, found, device = data.options, trial["found"], device_of_task()
    sets = [
        TrainingSet(_coreset(data, found, rest, np.random.default_rng([data.seed, seed])), data.seed + seed)
        for seed, (rest, _) in enumerate(data.splits)
    ]
    samples = _mapped(data)
    trained = training_options(options, options.model, data.num_classes, data.hidden_dim)
    training = ClassifierTraining(trained, samples, data.labels, sets, device=device)
    judged = [training.held_out(samples[held_out], data.labels[held_out]) for _, held_out in data.splits]
    for step in training.parts(data.parts):
        rows = {
            str(seed): {
                "budget": data.budget,
                "method": found.get("choice", data.select.name),
                "beta": found.get("beta"),
                "seed": seed,
                "validation_accuracy": training.accuracy(seed, judged[seed]),
                "steps": step,
                "epochs": step * int(options.batch_size) / len(sets[seed].rows),
                "device": device.type,
            }
            for seed in range(len(sets))
        }
        yield {
            "validation_accuracy": float(np.mean([row["validation_accuracy"] for row in rows.values()])),
            "steps": step,
            "seeds": rows,
            "done": step == data.steps,
        }


def _mapped(data: SearchData) -> np.ndarray:
    """What the network sees of all samples, as an array."""
    samples = data.samples
    if isinstance(samples, np.ndarray):
        return samples
    return samples.mapped_squares() if isinstance(samples, Pixels) else samples.mapped_unit_vectors()


def _coreset(data: SearchData, found: dict[str, Any], training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the method selects of the training split with these options, positions among all samples."""
    select, inputs = data.select, data.inputs.take(training)
    method = get_method(select.method, **{**select.options, **found})
    # The same share of a tenth fewer samples: the split is to stand for the whole. Rounding may leave one sample less
    # than the share; and there must be one beside those labelled before.
    labeled = int(labeled_mask(inputs).sum())
    if not inputs.num_open:
        return training
    share = round(data.budget * len(training) / len(data.labels))
    budget = min(max(share, labeled + 1), labeled + max(1, method.capacity(inputs.num_open)))
    fitted = method.fitted(inputs.num_open, budget - labeled)
    return training[select_coreset(fitted, inputs, budget, rng, balance=select.balance).positions]
