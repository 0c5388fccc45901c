"""TypiClust: the most typical sample of each cluster, for small budgets (Hacohen et al., ICML 2022)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.centers import regions
from elfs_ray.core.features import unit_distances
from elfs_ray.core.pruning import rank_within
from elfs_ray.methods.base import AUTO, Count, Selection, SelectionInputs, SelectionMethod, check_neighbors, given
from elfs_ray.methods.catalogue import about

NEIGHBORS = 20


@dataclass(frozen=True)
class TypiClust(SelectionMethod):
    """Go round the clusters, those with the fewest taken first, then the largest; take the most typical sample of each.

    Attributes:
        max_clusters: of k-means; never more than the samples that will have labels.
        num_neighbors: nearest neighbours that decide how typical a sample is; auto: 20, or all that `neighbors.k`
            finds if these are fewer.
        min_size: smaller clusters come last, as outliers.
    """

    max_clusters: PositiveInt = 500
    num_neighbors: Count = AUTO
    min_size: PositiveInt = 5

    name, summary, source, needs = about("typiclust")
    knows_labeled = True

    def check_sizes(self, num_samples: int, num_neighbors: int) -> None:
        """No more neighbours than are found."""
        check_neighbors(self.num_neighbors, num_neighbors)

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """In order of selection. The score is the typicality: one over the mean distance to the nearest neighbours."""
        count = len(inputs.ids)
        labeled = np.zeros(count, dtype=bool) if inputs.labeled is None else inputs.labeled
        clusters = regions(given(inputs.embeddings), min(self.max_clusters, budget + int(labeled.sum())), rng)
        typicality = self._typicality(given(inputs.neighbor_similarity))
        sizes, owned = np.bincount(clusters), np.bincount(clusters[labeled], minlength=int(clusters.max()) + 1)
        # How many of its cluster are taken before a sample: its rank among those without labels, and those with.
        turn = owned[clusters] + rank_within(clusters, np.where(labeled, -np.inf, typicality))
        small = sizes[clusters] < self.min_size
        order = np.lexsort((clusters, -sizes[clusters], turn, small, labeled))
        return Selection(order[:budget], typicality)

    def _typicality(self, similarity: np.ndarray) -> np.ndarray:
        """One over the mean Euclidean distance of vectors of unit length, float32 [n]; 0 without a neighbour."""
        self.check_sizes(*similarity.shape)
        near = similarity[:, : NEIGHBORS if self.num_neighbors == AUTO else self.num_neighbors]
        known = np.isfinite(near)  # where a method runs in one cluster, neighbours outside it are not
        distances = unit_distances(np.where(known, near, 1.0)).sum(axis=1)
        found = known.sum(axis=1)
        return np.where(found > 0, found / np.maximum(distances, 1e-6), 0).astype(np.float32)
