"""Uniform random selection: the baseline that every other method must beat."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod


@dataclass(frozen=True)
class Random(SelectionMethod):
    """A uniform draw without replacement; a smaller budget is the beginning of a larger one."""

    name = "random"
    summary = "uniform draw; the baseline"
    source = "-"
    needs = frozenset()

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Highest draw first. The score is the draw."""
        scores = rng.random(len(inputs.ids), dtype=np.float32)
        return Selection(np.argsort(-scores, kind="stable")[:budget], scores)
