"""Beta search: for one budget, which share of the hardest samples to drop, by accuracy on held-out pseudo-labels.

Reads: `embeddings`, `pseudo_labels`, `dynamics`. Writes: `beta_search/BUDGET` (one row for each beta and seed).
One Ray Tune trial for each beta and seed, in actors that are used again: a trial costs its training, not a process.
Finished trials are kept by Tune; a second run of the driver does the others.
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
    num_samples = store.count_rows("pseudo_labels")
    betas = _betas(options, budget / num_samples)
    results = _search(context, betas, num_samples)
    rows = sorted(
        ({"budget": budget, **{name: result[name] for name in ("beta", "seed", "validation_accuracy", "epochs")}}
         for result in results),
        key=lambda row: (row["beta"], row["seed"]),
    )  # fmt: skip
    store.write_table(pa.Table.from_pylist(rows), schema.BETA_SEARCH, context.work, "table", part_name(0))
    means = {
        beta: float(np.mean([row["validation_accuracy"] for row in rows if row["beta"] == beta])) for beta in betas
    }
    best = max(betas, key=lambda beta: (round(means[beta], 12), -beta))
    return StageResult(
        artifacts={f"beta_search/{budget}": "table"},
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


def _search(context: StageContext, betas: list[float], num_samples: int) -> list[dict[str, Any]]:
    """Run the trials that are not finished yet; returns the last result of each."""
    options, store, hardware = context.config.beta_search, context.store, context.hardware
    location = store.path(context.work)
    seeds = list(range(options.seeds))
    with context.counting("beta search", len(betas) * len(seeds), "trials") as counter:
        data = {**_load(context, num_samples), "counter": counter}
        on_gpu = hardware.device == "cuda"
        trainable = tune.with_resources(
            tune.with_parameters(_BetaTrial, data=data), {"GPU": GPU_SHARE} if on_gpu else {"CPU": 1}
        )
        filesystem = None if store.is_local else store.filesystem
        path = f"{location}/{TRIALS}"
        if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
            tuner = tune.Tuner.restore(
                path, trainable, resume_errored=True, restart_errored=True, storage_filesystem=filesystem
            )
        else:
            tuner = tune.Tuner(
                trainable,
                param_space={"beta": tune.grid_search(betas), "seed": tune.grid_search(seeds)},
                tune_config=tune.TuneConfig(metric="validation_accuracy", mode="max", reuse_actors=True),
                run_config=tune.RunConfig(
                    name=TRIALS,
                    storage_path=location,
                    storage_filesystem=filesystem,
                    failure_config=tune.FailureConfig(max_failures=options.max_failures),
                    verbose=0,
                ),
            )
        results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    return [
        {**dict(result.metrics or {}), **dict(result.config or {})}
        for result in (results[number] for number in range(len(results)))
    ]


def _load(context: StageContext, num_samples: int) -> dict[str, Any]:
    """What every trial needs: inputs, pseudo-labels, dynamics and the fixed 90 / 10 split."""
    config, store = context.config, context.store
    labels = read_column(store, "pseudo_labels", "label").astype(np.int64)
    dynamics = {name: read_column(store, "dynamics", name) for name in schema.DYNAMICS_TYPES}
    rng = np.random.default_rng(context.seed())
    training, validation = stratified_split(labels, config.beta_search.validation_fraction, rng)
    # The same share of a tenth fewer samples: the split is to stand for the whole.
    budget = max(1, round(int(context.budget or 0) * len(training) / num_samples))
    return {
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
        self._data, self._options = data, config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._inputs = torch.from_numpy(normalize_rows(data["vectors"])).to(self._device)
        self._labels = torch.tensor(data["labels"], device=self._device)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._options = new_config
        return True

    def step(self) -> dict[str, Any]:
        data, options = self._data, self._options
        budget = min(data["budget"], len(data["training"]) - round(options["beta"] * len(data["training"])))
        method = get_method(data["method"], **data["method_options"], beta=options["beta"])
        rng = np.random.default_rng([data["seed"], options["seed"]])
        inputs_of_method = SelectionInputs(ids=data["training"], dynamics=data["dynamics"])
        rows = data["training"][method.select(inputs_of_method, budget, rng).positions]
        generator = torch.Generator().manual_seed(data["seed"] + options["seed"])
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
        data["counter"].advance(1)
        return {
            "validation_accuracy": accuracy(network, self._inputs[validation], self._labels[validation]),
            "epochs": data["steps"] * BATCH_SIZE / len(rows),
            "done": True,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial is one step."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""
