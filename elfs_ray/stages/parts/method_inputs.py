"""What a selection method is given, read from the artifacts."""

from typing import Any

import numpy as np

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.config import RunConfig
from elfs_ray.errors import UsageError
from elfs_ray.methods import Needs, SelectionInputs, SelectionMethod, balances
from elfs_ray.stages import identity


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
        inputs["labeled"] = Table(store, "labels_known").column("label") >= 0
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
    return len(_labels_record(store)["classes"]) if config.select.supervised else config.clusters


def _labels_record(store: RunFolder) -> dict[str, Any]:
    return store.records()[Unit("labels")].metrics


def labeled_mask(inputs: SelectionInputs) -> np.ndarray:
    """Which samples have labels already, bool [n]."""
    return np.zeros(len(inputs.ids), dtype=bool) if inputs.labeled is None else inputs.labeled
