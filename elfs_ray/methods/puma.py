"""PUMA: prune the samples far from the decision boundary (Maroto and Frossard, 2024, arXiv 2405.06298)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.probe import boundary_distances, train_probe
from elfs_ray.core.pruning import hardness_order
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Puma(SelectionMethod):
    """Keep the samples of smallest margin, measured by DeepFool on a probe in embedding space.

    The paper measures margins of a robust network on images, for adversarial training; the selection rule is the same.

    Attributes:
        steps: optimizer steps of the probe on the pseudo-labels.
    """

    steps: PositiveInt = 1000

    name, summary, source, needs = about("puma")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Smallest margin first. The score is the margin."""
        vectors = given(inputs.embeddings)
        probe = train_probe(vectors, given(inputs.pseudo_labels), rng, steps=self.steps)
        margins = boundary_distances(probe, vectors)
        return Selection(hardness_order(-margins, inputs.ids, name="margin")[:budget], margins.astype(np.float32))
