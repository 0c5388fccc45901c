"""DUAL: difficulty and uncertainty early in training, with beta sampling (Cho et al., 2025, arXiv 2502.06905)."""

from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeFloat

from elfs_ray.core.pruning import beta_sampling_weights, hardness_order, weighted_order
from elfs_ray.core.scores import hardness
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Dual(SelectionMethod):
    """Draw by the DUAL score, the more towards easy samples the smaller the budget.

    Attributes:
        sampling: draw with beta sampling; off: the samples of highest score.
        exponent: c_d, how fast the draw moves to easy samples; published: 5.5 for 10 classes, 4 for 100.
    """

    sampling: bool = True
    exponent: NonNegativeFloat = 5.5

    name, summary, source, needs = about("dual")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """In order of the draw. The score is DUAL."""
        dynamics = inputs.dynamics or {}
        scores = hardness(dynamics, "dual")
        if self.sampling:
            mean_target = dynamics["target_probability_mean"]
            weights = beta_sampling_weights(scores, mean_target, budget / len(scores), self.exponent, inputs.ids)
            order = weighted_order(weights, inputs.ids, rng)
        else:
            order = hardness_order(scores, inputs.ids, name="dual")
        return Selection(order[:budget], scores.astype(np.float32))
