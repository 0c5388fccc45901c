"""The hardest samples by one score of the training dynamics, without pruning the hard end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from elfs_ray.core.pruning import double_end_prune
from elfs_ray.core.scores import hardness
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class _Hardest(SelectionMethod):
    score: ClassVar[str]

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Hardest first. The score is the hardness."""
        scores = hardness(inputs.dynamics or {}, self.score)
        return Selection(double_end_prune(scores, budget, 0.0, inputs.ids), scores.astype(np.float32))


@dataclass(frozen=True)
class Aum(_Hardest):
    """Smallest area under the margin."""

    name, summary, source, needs = about("aum")
    score = name


@dataclass(frozen=True)
class Forgetting(_Hardest):
    """Most often forgotten; never learned counts as most."""

    name, summary, source, needs = about("forgetting")
    score = name


@dataclass(frozen=True)
class El2n(_Hardest):
    """Largest error norm early in training."""

    name, summary, source, needs = about("el2n")
    score = name


@dataclass(frozen=True)
class Entropy(_Hardest):
    """Least certain at the end of training."""

    name, summary, source, needs = about("entropy")
    score = name


@dataclass(frozen=True)
class Tdds(_Hardest):
    """Largest change of the prediction between epochs, the last epochs counting most; needs `proxy.tdds`."""

    name, summary, source, needs = about("tdds")
    score = name


@dataclass(frozen=True)
class DynUnc(_Hardest):
    """Most variable probability of the label."""

    name, summary, source, needs = about("dyn_unc")
    score = name
