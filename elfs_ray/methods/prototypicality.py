"""Prototypicality: distance to the k-means centroid in embedding space (Sorscher et al., NeurIPS 2022)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.centers import centroid_distances, k_means
from elfs_ray.core.pruning import hardness_order
from elfs_ray.errors import UsageError
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Prototypicality(SelectionMethod):
    """Take the samples farthest from their k-means centroid (hard), or nearest to it (easy).

    Attributes:
        num_clusters: of k-means.
        nearest: take the prototypes themselves, which pays where the budget is tiny.
    """

    num_clusters: PositiveInt = 10
    nearest: bool = False

    name, summary, source, needs = about("prototypicality")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Farthest (or nearest) first. The score is the distance."""
        if self.num_clusters > len(inputs.ids):
            raise UsageError(
                f"select.options.num_clusters is {self.num_clusters}, more than the {len(inputs.ids)} samples; lower it"
            )
        vectors = given(inputs.embeddings)
        centroids, labels = k_means(vectors, self.num_clusters, rng)
        distances = centroid_distances(vectors, centroids, labels)
        order = hardness_order(-distances if self.nearest else distances, inputs.ids, name="distance")
        return Selection(order[:budget], distances.astype(np.float32))
