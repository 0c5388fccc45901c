"""Beta search: for one budget, which share of the hardest samples to drop, by accuracy on held-out pseudo-labels.

Reads: `embeddings`, `pseudo_labels`, `dynamics`. Writes: `beta_search/METHOD/BUDGET` (one row for each beta and seed).
One Ray Tune trial for each beta and seed, in actors that are used again: a trial costs its training, not a process.
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
from elfs_ray.engine.artifacts import part_name, read_column, read_dynamics, read_vectors
from elfs_ray.engine.stage import StageContext, StageResult
from elfs_ray.errors import UsageError
from elfs_ray.methods import SelectionInputs, get_method

TRIALS = "trials"
BATCH_SIZE = 128
GPU_SHARE = 0.25


def run(context: StageContext) -> StageResult:
    """Try every beta with every seed and take the best mean; ties go to the smaller beta."""
    options, budget = context.config.beta_search, int(context.budget or 0)
    store = context.store
    betas = _betas(options, budget / store.count_rows("pseudo_labels"))
    rows = _search(context, betas)
    store.write_table(pa.Table.from_pylist(rows), schema.BETA_SEARCH, context.work, "table", part_name(0))
    means = {
        beta: float(np.mean([row["validation_accuracy"] for row in rows if row["beta"] == beta])) for beta in betas
    }
    best = max(betas, key=lambda beta: (round(means[beta], 12), -beta))
    return StageResult(
        artifacts={f"beta_search/{context.config.select.method}/{budget}": "table"},
        chosen={**options.model_dump(mode="json"), "betas": betas},
        metrics={"beta": best, "mean_validation_accuracy": round(means[best], 4), "trials": len(rows)},
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


def _search(context: StageContext, betas: list[float]) -> list[dict[str, Any]]:
    """Run the trials that have not ended yet; returns a row for each beta and seed, in this order."""
    store, work = context.store, context.work
    trials = [{"beta": beta, "seed": seed} for beta in betas for seed in range(context.config.beta_search.seeds)]
    ended = set(store.names(work, TRIALS))
    pending = [trial for trial in trials if _file_name(trial) not in ended]
    if pending:
        with context.counting("beta search", len(trials), "trials", len(trials) - len(pending)) as counter:
            _run_trials(context, pending, {**_load(context), "counter": counter})
    return [store.read_json(work, TRIALS, _file_name(trial)) for trial in trials]


def _run_trials(context: StageContext, trials: list[dict[str, Any]], data: dict[str, Any]) -> None:
    """One Ray Tune trial for each beta and seed, in actors that go on from trial to trial."""
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
    return f"beta-{trial['beta']:g}-seed-{trial['seed']}.json"


def _load(context: StageContext) -> dict[str, Any]:
    """What every trial needs: inputs, pseudo-labels, dynamics and the fixed 90 / 10 split."""
    config, store = context.config, context.store
    labels = read_column(store, "pseudo_labels", "label").astype(np.int64)
    dynamics = read_dynamics(store)
    rng = np.random.default_rng(context.seed())
    training, validation = stratified_split(labels, config.beta_search.validation_fraction, rng)
    # The same share of a tenth fewer samples: the split is to stand for the whole.
    budget = max(1, round(int(context.budget or 0) * len(training) / len(labels)))
    return {
        "store": store,
        "work": context.work,
        "full_budget": int(context.budget or 0),
        "vectors": read_vectors(store),
        "labels": labels,
        "dynamics": {name: values[training] for name, values in dynamics.items()},
        "method": config.select.method,
        "method_options": config.select.options,
        "training": training,
        "validation": validation,
        "budget": budget,
        "num_classes": config.num_classes,
        "steps": config.beta_search.steps,
        "hidden_dim": config.proxy.hidden_dim,
        "seed": context.seed(1),
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
        data, beta, seed = self._data, self._trial["beta"], self._trial["seed"]
        generator = torch.Generator().manual_seed(data["seed"] + seed)
        rows = _coreset(data, beta, np.random.default_rng([data["seed"], seed]))
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
        validation = data["validation"]
        row = {
            "budget": data["full_budget"],
            "beta": beta,
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


def _coreset(data: dict[str, Any], beta: float, rng: np.random.Generator) -> np.ndarray:
    """What the method selects of the training split with this beta, positions among all samples."""
    training = data["training"]
    budget = min(data["budget"], len(training) - round(beta * len(training)))
    method = get_method(data["method"], **data["method_options"], beta=beta)
    inputs = SelectionInputs(ids=training, dynamics=data["dynamics"])
    return training[method.select(inputs, budget, rng).positions]
