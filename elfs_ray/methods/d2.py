"""D2: diversity and difficulty by message passing on the neighbour graph (Maharana et al., ICLR 2024)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from pydantic import NonNegativeFloat

from elfs_ray.core.features import unit_distances
from elfs_ray.core.graph import select_by_density, start_density
from elfs_ray.core.scores import Score, hardness
from elfs_ray.methods.base import AUTO, Count, Selection, SelectionInputs, SelectionMethod, check_neighbors, given
from elfs_ray.methods.catalogue import Needs, about

NEIGHBORS = 10


@dataclass(frozen=True)
class D2(SelectionMethod):
    """Take the densest sample, discount its neighbours, and so on.

    Attributes:
        score: importance of a sample: `none` (label-free: all alike), or a score of the training dynamics.
        num_neighbors: neighbours that a message reaches; auto: 10, or all that `neighbors.k` finds if these are fewer.
        gamma: how fast a discount falls with distance; small: it reaches far.
        product: multiply, not add, a sample's importance and its neighbours' messages.
    """

    score: Literal["none", Score] = "none"
    num_neighbors: Count = AUTO
    gamma: NonNegativeFloat = 1.0
    product: bool = False

    name, summary, source, needs = about("d2")
    knows_labeled = True

    def requirements(self) -> frozenset[Needs]:
        """Dynamics too, when a score is named."""
        return self.needs if self.score == "none" else self.needs | {Needs.DYNAMICS}

    def check_sizes(self, num_samples: int, num_neighbors: int) -> None:
        """No more neighbours than are found."""
        check_neighbors(self.num_neighbors, num_neighbors)

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """In order of selection. The score is the density before any discount."""
        ids, similarity = given(inputs.neighbor_ids), given(inputs.neighbor_similarity)
        self.check_sizes(*ids.shape)
        count = NEIGHBORS if self.num_neighbors == AUTO else self.num_neighbors
        ids, distances = ids[:, :count], unit_distances(similarity[:, :count])
        density = start_density(self._importance(inputs), distances, ids, product=self.product)
        labeled = np.zeros(len(density), dtype=bool) if inputs.labeled is None else inputs.labeled
        ids = np.ascontiguousarray(ids)
        positions = select_by_density(density, distances, ids, self.gamma, True, budget, labeled)
        return Selection(positions, density.astype(np.float32))

    def _importance(self, inputs: SelectionInputs) -> Float64[np.ndarray, " n"]:
        if self.score == "none":
            return np.ones(len(inputs.ids))
        values = hardness(inputs.dynamics or {}, self.score)
        low, high = values.min(), values.max()
        return (values - low) / (high - low) if high > low else np.ones(len(values))
