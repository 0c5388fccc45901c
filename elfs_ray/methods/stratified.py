"""Stratified draw: uniform, but each region of the embeddings has its share (Cochran, Sampling Techniques, ch. 5)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.centers import regions
from elfs_ray.core.pruning import rank_within
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, given
from elfs_ray.methods.catalogue import about
from elfs_ray.methods.coreset import cluster_quotas


@dataclass(frozen=True)
class Stratified(SelectionMethod):
    """Draw from each region of k-means a number in proportion to its size.

    Every sample has nearly the chance that `random` gives it, so that nothing is favoured; but no region is left out,
    or taken twice as often, by chance.

    Attributes:
        max_regions: of k-means; never more than the budget.
    """

    max_regions: PositiveInt = 500

    name, summary, source, needs = about("stratified")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """From region to region; the highest draw of each first. The score is the draw."""
        region = regions(given(inputs.embeddings), min(self.max_regions, budget), rng)
        sizes = np.bincount(region)
        quotas = cluster_quotas(sizes, sizes, budget)
        draws = rng.random(len(region), dtype=np.float32)
        place = rank_within(region, draws)
        chosen = np.flatnonzero(place < quotas[region])
        # By how much of its region's quota stands before: the beginning of the list has something of all regions.
        order = np.argsort((place[chosen] + 0.5) / quotas[region[chosen]], kind="stable")
        return Selection(chosen[order], draws)
