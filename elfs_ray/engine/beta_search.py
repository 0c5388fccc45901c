"""Beta search: for one budget, which share of the hardest samples to drop, by accuracy on held-out pseudo-labels.

For the method `auto` the candidates are methods, each with its betas.
Reads: `embeddings`, `pseudo_labels`, and what the method declares. Writes: `beta_search/METHOD/BUDGET` (a row for each
candidate and seed). One Ray Tune trial for each of them, in actors that are used again: a trial costs its training, not
a process.
Each trial saves its row when it ends; a second run of the driver does the others. (Tune's own restore needs a snapshot
of the experiment, which a kill early in the search leaves without, and forgets the trials since the last one.)
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from ray import tune

from elfs_ray import schema
from elfs_ray.config import BetaSearchConfig
from elfs_ray.core.classifier import MlpClassifier, accuracy, train_for_steps
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.pruning import beta_grid
from elfs_ray.core.splits import stratified_split
from elfs_ray.defaults import MLP_LEARNING_RATE
from elfs_ray.engine.artifacts import part_name, read_column, read_vectors
from elfs_ray.engine.inputs import count_classes, labeled_mask, labels_in_use, read_inputs
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import UsageError
from elfs_ray.methods import get_method, select_coreset

TRIALS = "trials"
BATCH_SIZE = 128
GPU_SHARE = 0.25


def run(context: StageContext) -> StageResult:
    """Try every candidate with every seed and take the best mean; ties go to the first, with the smaller beta."""
    options, budget = context.config.beta_search, int(context.budget or 0)
    store, select = context.store, context.config.select
    betas = _betas(options, budget / store.count_rows("samples"))
    candidates = get_method(select.method, **select.options).candidates(betas)
    rows = _search(context, candidates)
    store.write_table(pa.Table.from_pylist(rows), schema.BETA_SEARCH, context.work, "table", part_name(0))
    accuracies = np.array([row["validation_accuracy"] for row in rows]).reshape(len(candidates), options.seeds)
    means = accuracies.mean(axis=1).round(12)
    best = int(means.argmax())
    return StageResult(
        artifacts={f"beta_search/{select.name}/{budget}": "table"},
        chosen={**options.model_dump(mode="json"), "betas": betas},
        metrics={
            "found": candidates[best],
            "beta": candidates[best].get("beta"),
            "mean_validation_accuracy": round(float(means[best]), 4),
            "trials": len(rows),
        },
    )


def _betas(options: BetaSearchConfig, keep_fraction: float) -> list[float]:
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


def _search(context: StageContext, candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the trials that have not ended yet; returns a row for each candidate and seed, in this order."""
    store, work, seeds = context.store, context.work, range(context.config.beta_search.seeds)
    trials = [
        {"number": number, "found": found, "seed": seed} for number, found in enumerate(candidates) for seed in seeds
    ]
    ended = set(store.names(work, TRIALS))
    pending = [trial for trial in trials if _file_name(trial) not in ended]
    if pending:
        with context.counting("beta search", len(trials), "trials", len(trials) - len(pending)) as counter:
            _run_trials(context, pending, {**_load(context), "counter": counter})
    return [store.read_json(work, TRIALS, _file_name(trial)) for trial in trials]


def _run_trials(context: StageContext, trials: list[dict[str, Any]], data: dict[str, Any]) -> None:
    """One Ray Tune trial for each candidate and seed, in actors that go on from trial to trial."""
    options, store = context.config.beta_search, context.store
    resources = {"GPU": GPU_SHARE} if context.hardware.device == "cuda" else {"CPU": 1.0}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_BetaTrial, data=data), resources),
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(metric="validation_accuracy", mode="max", reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=store.path(context.work),
            storage_filesystem=None if store.is_local else store.filesystem,
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            verbose=0,
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]


def _file_name(trial: dict[str, Any]) -> str:
    return f"candidate-{trial['number']}-seed-{trial['seed']}.json"


def _load(context: StageContext) -> dict[str, Any]:
    """What every trial needs: inputs of the method, pseudo-labels, and a 90 / 10 split for each seed.

    One split would decide between betas by a few samples of luck. The splits are the same for all methods and budgets.
    """
    config, store, full_budget = context.config, context.store, int(context.budget or 0)
    labels = read_column(store, labels_in_use(store, config), "label").astype(np.int64)
    rng = np.random.default_rng(context.seed(unit="beta_search"))
    fraction, seeds = config.beta_search.validation_fraction, range(config.beta_search.seeds)
    method = get_method(config.select.method, **config.select.options)
    return {
        "store": store,
        "work": context.work,
        "select": config.select,
        "inputs": read_inputs(store, config, method),
        "vectors": read_vectors(store),
        "labels": labels,
        "splits": [stratified_split(labels, fraction, rng) for _ in seeds],
        "full_budget": full_budget,
        "num_classes": count_classes(store, config),
        "steps": config.beta_search.steps,
        "hidden_dim": config.proxy.hidden_dim,
        "seed": context.seed(1, unit="beta_search"),
    }


class _BetaTrial(tune.Trainable):
    """Trains on the coreset of one beta; one call of `step` is the whole trial."""

    def setup(  # type: ignore[override] # Tune passes what `with_parameters` was given
        self, config: dict[str, Any], data: dict[str, Any]
    ) -> None:
        torch.set_num_threads(1)
        self._data, self._trial = data, config["trial"]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._inputs = torch.from_numpy(normalize_rows(data["vectors"])).to(self._device)
        self._labels = torch.tensor(data["labels"], device=self._device)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = new_config["trial"]
        return True

    def step(self) -> dict[str, Any]:
        data, found, seed = self._data, self._trial["found"], self._trial["seed"]
        generator = torch.Generator().manual_seed(data["seed"] + seed)
        training, validation = data["splits"][seed]
        rows = _coreset(data, found, training, np.random.default_rng([data["seed"], seed]))
        inputs, labels = self._inputs[rows], self._labels[rows]
        network = MlpClassifier(inputs, data["num_classes"], data["hidden_dim"], generator=generator).to(self._device)
        train_for_steps(
            network,
            inputs,
            labels,
            steps=data["steps"],
            batch_size=BATCH_SIZE,
            learning_rate=MLP_LEARNING_RATE,
            generator=generator,
        )
        row = {
            "budget": data["full_budget"],
            "method": found.get("choice", data["select"].name),
            "beta": found.get("beta"),
            "seed": seed,
            "validation_accuracy": accuracy(network, self._inputs[validation], self._labels[validation]),
            "epochs": data["steps"] * BATCH_SIZE / len(rows),
        }
        data["store"].write_json(row, data["work"], TRIALS, _file_name(self._trial))
        data["counter"].advance(1)
        return {**row, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial is one step."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""


def _coreset(data: dict[str, Any], found: dict[str, Any], training: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the method selects of the training split with these options, positions among all samples."""
    select, inputs = data["select"], data["inputs"].take(training)
    method = get_method(select.method, **{**select.options, **found})
    # The same share of a tenth fewer samples: the split is to stand for the whole. Rounding may leave one sample less
    # than the share; and there must be one beside those labelled before.
    labeled = int(labeled_mask(inputs).sum())
    share = round(data["full_budget"] * len(training) / len(data["labels"]))
    budget = min(max(share, labeled + 1), labeled + method.capacity(inputs.num_open))
    return training[select_coreset(method, inputs, budget, rng, balance=select.balance).positions]
