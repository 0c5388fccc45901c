"""What methods need of embeddings in memory, computed once: the work of the stages, without files and workers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from elfs_ray.config import RunConfig
from elfs_ray.console import Meter, Reporter
from elfs_ray.core.clustering import Clustering, reduced_features
from elfs_ray.core.components import PrincipalComponents, sample_for_components
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.neighbors import nearest_others
from elfs_ray.core.progress import Progress
from elfs_ray.core.proxy_training import ProxyTraining
from elfs_ray.core.seeds import derived_seed
from elfs_ray.errors import UsageError
from elfs_ray.methods import Needs, SelectionInputs, SelectionMethod, balances
from elfs_ray.planning.auto_options import choose_proxy, choose_pseudo_labels, neighbors_of_each
from elfs_ray.stages.parts.training_options import proxy_options, temi_options, temi_schedule
from elfs_ray.stages.pseudo_labels import SEED_NAME
from elfs_ray.workers.compute import device_of_task
from elfs_ray.workers.hardware import Hardware


@dataclass(frozen=True)
class Computed:
    """Neighbours, pseudo-labels and training dynamics of some embeddings; each is computed when it is asked for.

    Attributes:
        halves: the rows as a run stores them: of unit length, float16 [n, d].
    """

    halves: np.ndarray
    config: RunConfig
    hardware: Hardware
    reporter: Reporter

    def inputs(self, method: SelectionMethod, labeled: np.ndarray | None) -> SelectionInputs:
        """Exactly what the method declares."""
        needs, given = method.requirements(), dict[str, Any]()
        if Needs.EMBEDDINGS in needs:
            given["embeddings"] = self.vectors
        if Needs.NEIGHBORS in needs:
            given["neighbor_ids"], given["neighbor_similarity"] = self.neighbors
        if Needs.PSEUDO_LABELS in needs or balances(method, self.config.select.balance):
            given["pseudo_labels"] = self.pseudo_labels
        if Needs.DYNAMICS in needs:
            given["dynamics"] = self.dynamics
        return SelectionInputs(ids=np.arange(len(self.halves)), labeled=labeled, **given)

    def seed(self, name: str, *keys: int) -> int:
        """That of a piece of work, as in a run."""
        return derived_seed(self.config.seed, name, *keys)

    @cached_property
    def device(self) -> torch.device:
        """What computes."""
        return device_of_task()

    @cached_property
    def vectors(self) -> np.ndarray:
        """Rows of unit length, float32 [n, d]."""
        return normalize_rows(self.halves)

    @cached_property
    def neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 [n, k] and similarity float32 [n, k]; k is what was asked for, or all others."""
        count = len(self.halves)
        with self.reporter.meter("neighbours", count, "samples") as meter:
            k = min(neighbors_of_each(self.config.neighbors, count), count - 1)
            has = self.hardware.bfloat16
            return nearest_others(self.halves, k, self.device, _shown_by(meter), bfloat16=has)

    @property
    def num_classes(self) -> int:
        """Of the pseudo-labels.

        Raises:
            UsageError: none was given, or more than there are samples.
        """
        classes, count = self.config.clusters, len(self.halves)
        if classes > count:
            raise UsageError(f"num_classes is {classes}, but there are only {count} samples; pass a smaller one")
        return classes

    @cached_property
    def pseudo_labels(self) -> np.ndarray:
        """Clusters, int32 [n]."""
        there, (count, dim), classes = self.hardware, self.halves.shape, self.num_classes
        options = choose_pseudo_labels(
            self.config.pseudo_labels,
            there.device,
            there.units,
            count,
            dim,
            num_classes=classes,
            neighbors=self.neighbors[0].shape[1],
        )
        seed, epochs = self.seed(SEED_NAME), int(options.epochs)
        features = np.concatenate(list(reduced_features(self.vectors, int(options.pca_dim), seed)))
        heads, schedule = temi_options(options, classes), temi_schedule(options)
        clustering = Clustering(
            features, self.neighbors[0][:, : int(options.num_neighbors)], heads, schedule, seed=seed, device=self.device
        )
        self._train("clustering", clustering.train_epoch, epochs)
        return clustering.pseudo_labels(best_head=options.assignment == "best_head").labels

    @cached_property
    def dynamics(self) -> dict[str, np.ndarray]:
        """Scores by name, each [n], of a proxy trained on the pseudo-labels."""
        there, (count, dim) = self.hardware, self.halves.shape
        # 0 pixels a side: the proxy sees embeddings.
        section = choose_proxy(self.config.proxy, there.device, there.units, count, dim, 0.0, **there.dtypes)
        options = proxy_options(section, self.num_classes)
        labels, seed = self.pseudo_labels.astype(np.int64), self.seed("proxy")
        seen = self._components(int(section.pca_dim))
        proxy = ProxyTraining(seen, labels, options, seed=seed, device=self.device, width=dim)
        self._train("proxy training", proxy.train_epoch, options.total_epochs)
        return proxy.scores(proxy.all_dynamics())

    def _components(self, dim: int) -> np.ndarray:
        """Leading principal components of the rows, float32 [n, dim]; 0: the rows as they are."""
        if not dim:
            return self.vectors
        fitted = self.vectors[sample_for_components(len(self.vectors))]
        return PrincipalComponents(fitted, dim).project(self.vectors)

    def _train(self, title: str, train_epoch: Callable[..., None], epochs: int) -> None:
        """Train to the end and show how far it is."""
        count = len(self.halves)
        with self.reporter.meter(title, epochs * count, "samples") as meter:
            for epoch in range(epochs):
                train_epoch(epoch, _shown_by(meter, epoch * count))


def _shown_by(meter: Meter, before: int = 0) -> Progress:
    """Shows samples seen in addition to those before."""

    def show(_step: int, _steps: int, seen: int) -> None:
        meter.update(before + seen)

    return show
