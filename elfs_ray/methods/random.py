"""Uniform random selection: the baseline that every other method must beat."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, check_budget


@dataclass(frozen=True)
class Random(SelectionMethod):
    """A uniform draw without replacement; a smaller budget is the beginning of a larger one."""

    name = "random"
    summary = "uniform draw; the baseline"
    source = "-"
    needs = frozenset()

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Draw over the ids in ascending order, so that the order of the rows does not matter."""
        check_budget(budget, len(inputs.ids))
        by_id = np.argsort(inputs.ids)
        scores = np.empty(len(by_id), dtype=np.float32)
        scores[by_id] = rng.random(len(by_id), dtype=np.float32)
        return Selection(np.lexsort((inputs.ids, -scores))[:budget], scores)
