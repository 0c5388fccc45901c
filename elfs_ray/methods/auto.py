"""auto: the method and the beta that do best on held-out pseudo-labels, found by the search for each budget.

Candidates that are about as good count as equal, and the first of them is taken. The order is what measurements on real
images taught (docs/results.md): first those that were never far below random, then random itself, then those that can
lose much, which have to show more than luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from elfs_ray.errors import UsageError
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, ShareBelowOne
from elfs_ray.methods.catalogue import Needs, about
from elfs_ray.methods.ccs import Ccs
from elfs_ray.methods.d2 import D2
from elfs_ray.methods.dual import Dual
from elfs_ray.methods.elfs import Elfs
from elfs_ray.methods.prototypicality import Prototypicality
from elfs_ray.methods.random import Random
from elfs_ray.methods.stratified import Stratified
from elfs_ray.methods.typiclust import TypiClust
from elfs_ray.methods.zcore import ZCore

CANDIDATES: dict[str, type[SelectionMethod]] = {
    method.name: method for method in (Dual, ZCore, TypiClust, Stratified, Random, Ccs, Elfs, Prototypicality, D2)
}


@dataclass(frozen=True)
class Auto(SelectionMethod):
    """Select with one of several methods.

    Attributes:
        among: methods that the search tries, with their default options; earlier ones win what is about equal.
        choice: the one that is used; the search sets it.
        beta: its beta, if it has one; the search sets it.
    """

    among: Sequence[str] = tuple(CANDIDATES)
    choice: str = "random"
    beta: ShareBelowOne = 0.0

    name, summary, source, needs = about("auto")
    searched = True
    takes_first_within_noise = True

    def __post_init__(self) -> None:
        """Refuse names that are no candidates."""
        for name in (*self.among, self.choice):
            if name not in CANDIDATES:
                raise UsageError(f"method 'auto' cannot try {name!r}; choose among {', '.join(CANDIDATES)}")

    def requirements(self) -> frozenset[Needs]:
        """What any of the candidates needs."""
        return self.needs.union(*(CANDIDATES[name].needs for name in self.among))

    def candidates(self, betas: Sequence[float]) -> list[dict[str, Any]]:
        """Each method with each of its own candidates."""
        found = chain.from_iterable(
            ({"choice": name, **options} for options in CANDIDATES[name]().candidates(betas)) for name in self.among
        )
        return list(found)

    def chosen(self) -> SelectionMethod:
        """The one that the search found."""
        method = CANDIDATES[self.choice]
        return method.with_options({"beta": self.beta} if method.searched else {})

    def capacity(self, num_samples: int) -> int:
        """That of the chosen method."""
        return self.chosen().capacity(num_samples)

    def fitted(self, num_samples: int, budget: int) -> SelectionMethod:
        """That of the chosen method."""
        return self.chosen().fitted(num_samples, budget)

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """What the chosen method selects."""
        return self.chosen().select(inputs, budget, rng)
