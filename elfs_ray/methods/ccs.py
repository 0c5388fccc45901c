"""CCS: coverage-centric coreset selection (Zheng et al., ICLR 2023)."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.core.dynamics import hardness
from elfs_ray.core.pruning import stratified_prune
from elfs_ray.methods.base import Needs, Selection, SelectionInputs, SelectionMethod


@dataclass(frozen=True)
class Ccs(SelectionMethod):
    """Drop the beta N hardest samples, then draw evenly over the range of the others' scores.

    Attributes:
        score: difficulty score, as for `elfs`.
        beta: share of the hardest to drop, found by the beta search.
        strata: parts of equal width that the range of scores is cut into.
    """

    score: str = "aum"
    beta: float = 0.0
    strata: int = 50

    name = "ccs"
    summary = "drop the hardest beta N, draw evenly over the range of difficulty"
    source = "Zheng et al., ICLR 2023"
    needs = frozenset({Needs.DYNAMICS})
    searched = True

    def capacity(self, num_samples: int) -> int:
        """All but the hardest beta N."""
        return num_samples - round(self.beta * num_samples)

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Hardest of the drawn first. The score is the hardness."""
        scores = hardness(inputs.dynamics or {}, self.score)
        positions = stratified_prune(scores, budget, self.beta, rng, ids=inputs.ids, num_strata=self.strata)
        return Selection(positions, scores.astype(np.float32))
