"""Moderate coreset: samples at the median distance from their class centre (Xia et al., ICLR 2023)."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.core.centers import centroid_distances, class_means
from elfs_ray.core.pruning import hardness_order
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Moderate(SelectionMethod):
    """Neither the most typical nor the most unusual of each pseudo-class."""

    name, summary, source, needs = about("moderate")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Nearest to the median of its class first. The score is how far the distance is from it."""
        vectors, labels = given(inputs.embeddings), given(inputs.pseudo_labels)
        distances = centroid_distances(vectors, class_means(vectors, labels), labels)
        medians = np.array([np.median(distances[labels == label]) if (labels == label).any() else 0.0
                            for label in range(int(labels.max()) + 1)])  # fmt: skip
        offset = np.abs(distances - medians[labels])
        return Selection(hardness_order(-offset, inputs.ids, name="distance")[:budget], offset.astype(np.float32))
