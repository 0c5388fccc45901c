"""Uniform random selection: the baseline that every other method must beat."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Random(SelectionMethod):
    """A uniform draw without replacement; a smaller budget is the beginning of a larger one."""

    name, summary, source, needs = about("random")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Highest draw first. The score is the draw."""
        scores = rng.random(len(inputs.ids), dtype=np.float32)
        return Selection(np.argsort(-scores, kind="stable")[:budget], scores)
