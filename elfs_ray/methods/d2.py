"""D2: diversity and difficulty by message passing on the neighbour graph (Maharana et al., ICLR 2024)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from pydantic import NonNegativeFloat, PositiveInt

from elfs_ray.core.dynamics import Score, hardness
from elfs_ray.core.features import unit_distances
from elfs_ray.core.graph import select_by_density, start_density
from elfs_ray.errors import UsageError
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import Needs, about


@dataclass(frozen=True)
class D2(SelectionMethod):
    """Take the densest sample, discount its neighbours, and so on.

    Attributes:
        score: importance of a sample: `none` (label-free: all alike), or a score of the training dynamics.
        num_neighbors: neighbours that a message reaches; at most those that `neighbors.k` found.
        gamma: how fast a discount falls with distance; small: it reaches far.
        product: multiply, not add, a sample's importance and its neighbours' messages.
    """

    score: Literal["none", Score] = "none"
    num_neighbors: PositiveInt = 10
    gamma: NonNegativeFloat = 1.0
    product: bool = False

    name, summary, source, needs = about("d2")
    knows_labeled = True

    def requirements(self) -> frozenset[Needs]:
        """Dynamics too, when a score is named."""
        return self.needs if self.score == "none" else self.needs | {Needs.DYNAMICS}

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """In order of selection. The score is the density before any discount."""
        ids, similarity = given(inputs.neighbor_ids), given(inputs.neighbor_similarity)
        if self.num_neighbors > ids.shape[1]:
            raise UsageError(
                f"select.options.num_neighbors is {self.num_neighbors}, but only {ids.shape[1]} neighbours were found; "
                "use a smaller one or a larger neighbors.k"
            )
        ids = ids[:, : self.num_neighbors]
        distances = unit_distances(similarity[:, : self.num_neighbors])
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
