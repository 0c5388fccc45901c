"""ELFS: prune both ends of the difficulty scale (Zheng et al., ICLR 2025, arXiv 2406.04273)."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.core.pruning import double_end_prune
from elfs_ray.core.scores import hardness
from elfs_ray.methods.base import DropsHardest, Selection, SelectionInputs
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Elfs(DropsHardest):
    """Drop the beta N hardest samples by a proxy's training dynamics, keep the next hardest."""

    name, summary, source, needs = about("elfs")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Hardest of the kept first. The score is the hardness."""
        scores = hardness(inputs.dynamics or {}, self.score)
        return Selection(double_end_prune(scores, budget, self.beta, inputs.ids), scores.astype(np.float32))
