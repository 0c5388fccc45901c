"""Prototypicality: distance to the k-means centroid in embedding space (Sorscher et al., NeurIPS 2022)."""

from dataclasses import dataclass

import numpy as np

from elfs_ray.core.centers import centroid_distances, k_means
from elfs_ray.core.pruning import hardness_order
from elfs_ray.errors import UsageError
from elfs_ray.methods.base import AUTO, Count, Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about

# Clusters, and samples on average that each has at least.
CLUSTERS, EACH = 10, 5


@dataclass(frozen=True)
class Prototypicality(SelectionMethod):
    """Take the samples farthest from their k-means centroid (hard), or nearest to it (easy).

    Attributes:
        num_clusters: of k-means; auto: 10, or so many that five samples come on each if that is fewer.
        nearest: take the prototypes themselves, which pays where the budget is tiny.
    """

    num_clusters: Count = AUTO
    nearest: bool = False

    name, summary, source, needs = about("prototypicality")

    def check_sizes(self, num_samples: int, num_neighbors: int) -> None:
        """No more clusters than samples."""
        if self.num_clusters != AUTO and self.num_clusters > num_samples:
            raise UsageError(
                f"select.options.num_clusters is {self.num_clusters}, more than the {num_samples} samples; lower it"
            )

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Farthest (or nearest) first. The score is the distance."""
        vectors, count = given(inputs.embeddings), len(inputs.ids)
        self.check_sizes(count, 0)
        num_clusters = min(CLUSTERS, max(1, count // EACH)) if self.num_clusters == AUTO else self.num_clusters
        centroids, labels = k_means(vectors, num_clusters, rng)
        distances = centroid_distances(vectors, centroids, labels)
        order = hardness_order(-distances if self.nearest else distances, inputs.ids, name="distance")
        return Selection(order[:budget], distances.astype(np.float32))
