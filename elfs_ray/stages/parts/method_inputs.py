"""What a selection method is given, read from the artifacts."""

from typing import Any

import numpy as np

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.samples import image_ids
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.core.pruning import budget_count
from elfs_ray.data.labels import Labels, match_labels
from elfs_ray.data.sources import open_input
from elfs_ray.errors import UsageError
from elfs_ray.methods import Needs, SelectionInputs, SelectionMethod, balances, check_labeled
from elfs_ray.stages import identity
from elfs_ray.workers.base import Workers


def read_inputs(store: RunFolder, config: RunConfig, method: SelectionMethod) -> SelectionInputs:
    """Exactly the artifacts that a method declares, and which samples have labels already."""
    needs = method.requirements()
    inputs: dict[str, Any] = {}
    if Needs.EMBEDDINGS in needs:
        inputs["embeddings"] = Embeddings(store).mapped_unit_vectors()
    if Needs.NEIGHBORS in needs:
        neighbors = Table(store, "neighbors")
        inputs["neighbor_ids"] = neighbors.mapped("ids")
        inputs["neighbor_similarity"] = neighbors.mapped("similarity")
    if Needs.PSEUDO_LABELS in needs or balances(method, config.select.balance):
        inputs["pseudo_labels"] = Table(store, labels_in_use(store, config)).column("label").astype(np.int32)
    if Needs.DYNAMICS in needs:
        inputs["dynamics"] = read_dynamics(Table(store, identity.dynamics_in_use(config)))
    if config.select.labeled is not None:
        inputs["labeled"] = read_known_labels(store, config).numbers >= 0
    return SelectionInputs(ids=np.arange(Table(store, "samples").rows), **inputs)


def read_dynamics(dynamics: Table) -> dict[str, np.ndarray]:
    """Every score of the training dynamics by name, each [N]."""
    table = dynamics.read()
    return {name: table[name].to_numpy() for name in table.column_names if name not in KEY}


def labels_in_use(store: RunFolder, config: RunConfig) -> str:
    """Name of the labels that selection works with.

    Raises:
        UsageError: a supervised baseline, and samples without a label.
    """
    if config.select.supervised:
        labelled, count = _labels_record(store)["labelled"], Table(store, "labels_true").rows
        if labelled < count:
            raise UsageError(
                f"select.supervised needs a label for every sample, but {count - labelled} of {count} have none in "
                f"{config.evaluate.labels}; pass labels for all, or select without it"
            )
    return identity.labels_in_use(config)


def count_classes(store: RunFolder, config: RunConfig) -> int:
    """Classes of the labels in use: the clusters, or those of the true labels in a supervised baseline."""
    return len(_labels_record(store)["classes"]) if config.select.supervised else config.num_classes


def _labels_record(store: RunFolder) -> dict[str, Any]:
    return store.records()[Unit("labels")].metrics


def check_known_labels(workers: Workers, store: RunFolder, config: RunConfig, reporter: Reporter) -> None:
    """Refuse labels that the user has already, if they are of no image, before the long stages; say what they are of.

    Raises:
        UsageError: as `read_known_labels`; or they fill a budget.
    """
    lines, labelled, count = workers.call(_tell_of_known_labels, store, config)
    for line in lines:
        reporter.line(f"labeled: {line}")
    for budget in config.budgets:
        check_labeled(labelled, budget_count(budget, count))


def _tell_of_known_labels(store: RunFolder, config: RunConfig) -> tuple[list[str], int, int]:
    known = read_known_labels(store, config)
    return known.told(config.location), known.labelled, len(known.numbers)


def read_known_labels(store: RunFolder, config: RunConfig) -> Labels:
    """Labels that the user has already, in a run that was given some.

    Raises:
        UsageError: some are of no image of the run, and that is not allowed.
    """
    known = match_labels(
        str(config.select.labeled),
        image_ids(Table(store, "samples")),
        source=lambda: open_input(config, config.input),
        id_column=config.ingest.id_column,
        quarantined=image_ids(Table(store, "quarantine")),
    )
    if not config.allow_unmatched:
        known.refuse_unmatched(config.location)
    return known


def labeled_mask(inputs: SelectionInputs) -> np.ndarray:
    """Which samples have labels already, bool [n]."""
    return np.zeros(len(inputs.ids), dtype=bool) if inputs.labeled is None else inputs.labeled
