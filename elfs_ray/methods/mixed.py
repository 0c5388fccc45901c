"""Mixed: a share of what ELFS selects gives way to random samples, so that a wrong beta costs little."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.methods.base import Selection, SelectionInputs, Share
from elfs_ray.methods.catalogue import about
from elfs_ray.methods.elfs import Elfs


@dataclass(frozen=True)
class Mixed(Elfs):
    """Select as `elfs` does, and replace a share of that by a uniform draw from all other samples.

    A coreset of one range of difficulty has nothing of the others; what that costs depends on beta and on the
    pseudo-labels, and can be much. Random samples hold something of each range, also of the one that was dropped.

    Attributes:
        random_share: part of the coreset to draw at random; 0: as `elfs`, 1: as `random`.
    """

    random_share: Share = 0.5

    name, summary, source, needs = about("mixed")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Random samples at random ranks, the others hardest first. The score is the hardness."""
        hard = super().select(inputs, budget, rng)
        positions = hard.positions.copy()
        replaced = rng.choice(budget, round(self.random_share * budget), replace=False)
        others = np.setdiff1d(np.arange(len(inputs.ids)), np.delete(positions, replaced))
        positions[replaced] = rng.choice(others, len(replaced), replace=False)
        return Selection(positions, hard.scores)
