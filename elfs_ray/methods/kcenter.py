"""Greedy k-centre: the core-set approach to active learning (Sener and Savarese, ICLR 2018)."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.core.centers import greedy_k_center
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class KCenter(SelectionMethod):
    """Take the sample farthest from all taken ones, starting with the one nearest to the mean."""

    name, summary, source, needs = about("kcenter")
    knows_labeled = True

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """In order of selection. The score is the similarity to the mean."""
        vectors = given(inputs.embeddings)
        typical = vectors @ vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        order = greedy_k_center(vectors, budget, covered=inputs.labeled, first=int(typical.argmax()))
        return Selection(order, typical)
