"""BADGE: diverse gradient embeddings (Ash et al., ICLR 2020)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.centers import k_means_plus_plus
from elfs_ray.core.probe import last_layer_gradients, train_probe
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Badge(SelectionMethod):
    """Draw samples whose gradients are large and unlike each other, by k-means++.

    Attributes:
        steps: optimizer steps of the probe on the pseudo-labels.
    """

    steps: PositiveInt = 1000

    name, summary, source, needs = about("badge")
    knows_labeled = True

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """In order of the draw. The score is the length of the gradient."""
        vectors = given(inputs.embeddings)
        probe = train_probe(vectors, given(inputs.pseudo_labels), rng, steps=self.steps)
        errors, hidden = last_layer_gradients(probe, vectors)
        order = k_means_plus_plus(errors, hidden, budget, rng, covered=inputs.labeled)
        return Selection(order, np.linalg.norm(errors, axis=1) * np.linalg.norm(hidden, axis=1))
