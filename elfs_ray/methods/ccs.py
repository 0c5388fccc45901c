"""CCS: coverage-centric coreset selection (Zheng et al., ICLR 2023)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.pruning import stratified_prune
from elfs_ray.core.scores import hardness
from elfs_ray.methods.base import DropsHardest, Selection, SelectionInputs
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Ccs(DropsHardest):
    """Drop the beta N hardest samples, then draw evenly over the range of the others' scores.

    Attributes:
        strata: parts of equal width that the range of scores is cut into.
    """

    strata: PositiveInt = 50

    name, summary, source, needs = about("ccs")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Hardest of the drawn first. The score is the hardness."""
        scores = hardness(inputs.dynamics or {}, self.score)
        positions = stratified_prune(scores, budget, self.beta, rng, ids=inputs.ids, num_strata=self.strata)
        return Selection(positions, scores.astype(np.float32))
