"""ZCore: zero-shot coreset selection by coverage and redundancy (Griffin et al., arXiv 2411.15349)."""

from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from elfs_ray.core.pruning import hardness_order
from elfs_ray.core.zcore import as_columns, coverage_scores, draw, min_max
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class ZCore(SelectionMethod):
    """Score samples by random views of the embedding: good where they cover, bad where they are redundant.

    Attributes:
        draws: random points, each in a random view.
        view_dims: dimensions in a view.
        num_neighbors: samples that share the penalty of redundancy at each draw.
        exponent: how fast the penalty falls with distance.
        random_start: add a uniform draw to each score before scaling, as published.
    """

    draws: PositiveInt = 100_000
    view_dims: PositiveInt = 2
    num_neighbors: PositiveInt = 1000
    exponent: NonNegativeFloat = 4.0
    random_start: bool = True

    name, summary, source, needs = about("zcore")
    knows_labeled = True

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Highest score first."""
        vectors = given(inputs.embeddings)
        columns = as_columns(vectors)
        random_views = draw(columns, self.draws, min(self.view_dims, len(columns)), rng)
        raw = coverage_scores(columns, random_views, self.num_neighbors, self.exponent)
        if self.random_start:
            raw += rng.random(len(raw))
        scores = min_max(raw).astype(np.float32)
        order = hardness_order(scores, inputs.ids, name="zcore score")
        if inputs.labeled is not None:
            order = order[~inputs.labeled[order]]
        return Selection(order[:budget], scores)
