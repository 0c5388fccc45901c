"""The search of beta (and, for `auto`, of the method) over embeddings in memory: the trials of a run, one by one."""

from typing import Any

import numpy as np

from elfs_ray.config import EvaluateConfig
from elfs_ray.core.metrics import best_candidate
from elfs_ray.core.splits import stratified_split
from elfs_ray.in_memory.computed import Computed
from elfs_ray.methods import SelectionInputs, SelectionMethod
from elfs_ray.planning.auto_options import choose_beta_search
from elfs_ray.stages.beta_search import SearchData, betas_to_try, run_trial


def search(computed: Computed, method: SelectionMethod, inputs: SelectionInputs, budget: int) -> dict[str, Any]:
    """The options that do best on held-out pseudo-labels, by name."""
    config, count = computed.config, len(inputs.ids)
    options = choose_beta_search(config.beta_search, EvaluateConfig(), 0.0, budget, **computed.hardware.dtypes)
    candidates = method.candidates(betas_to_try(options, budget / count))
    labels, rng = computed.pseudo_labels.astype(np.int64), np.random.default_rng(computed.seed("beta_search"))
    data = SearchData(
        options=options.model_copy(update={"scheduler": "none"}),  # trials that run one by one cannot stop each other
        select=config.select,
        inputs=inputs,
        samples=computed.vectors,
        labels=labels,
        splits=[stratified_split(labels, options.validation_fraction, rng) for _ in range(options.seeds)],
        budget=budget,
        num_classes=computed.num_classes,
        hidden_dim=config.proxy.hidden_dim,
        seed=computed.seed("beta_search", 1),
    )
    accuracies = np.empty((len(candidates), options.seeds))
    with computed.reporter.meter("beta search", len(candidates), "trials") as meter:
        for number, found in enumerate(candidates):
            [*_, report] = run_trial(data, {"number": number, "found": found})
            accuracies[number] = [row["validation_accuracy"] for row in report["seeds"].values()]
            meter.update(number + 1)
    steps = np.full(accuracies.shape, int(options.steps))
    return candidates[best_candidate(accuracies, steps, within_noise=method.takes_first_within_noise)]
