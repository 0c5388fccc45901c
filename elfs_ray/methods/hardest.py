"""The hardest samples by one score of the training dynamics, without pruning the hard end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from elfs_ray.core.dynamics import hardness
from elfs_ray.core.pruning import double_end_prune
from elfs_ray.methods.base import Needs, Selection, SelectionInputs, SelectionMethod


@dataclass(frozen=True)
class _Hardest(SelectionMethod):
    score: ClassVar[str]
    needs = frozenset({Needs.DYNAMICS})

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Hardest first. The score is the hardness."""
        scores = hardness(inputs.dynamics or {}, self.score)
        return Selection(double_end_prune(scores, budget, 0.0, inputs.ids), scores.astype(np.float32))


@dataclass(frozen=True)
class Aum(_Hardest):
    """Smallest area under the margin."""

    name = score = "aum"
    summary = "smallest area under the margin of probabilities"
    source = "Pleiss et al., NeurIPS 2020"


@dataclass(frozen=True)
class Forgetting(_Hardest):
    """Most often forgotten; never learned counts as most."""

    name = score = "forgetting"
    summary = "most often forgotten during training"
    source = "Toneva et al., ICLR 2019"


@dataclass(frozen=True)
class El2n(_Hardest):
    """Largest error norm early in training."""

    name = score = "el2n"
    summary = "largest error norm in the first epochs"
    source = "Paul et al., NeurIPS 2021"


@dataclass(frozen=True)
class Entropy(_Hardest):
    """Least certain at the end of training."""

    name = score = "entropy"
    summary = "largest entropy of the prediction at the end"
    source = "Coleman et al., ICLR 2020"


@dataclass(frozen=True)
class Tdds(_Hardest):
    """Largest change of the prediction between epochs, the last epochs counting most; needs `proxy.tdds`."""

    name = score = "tdds"
    summary = "largest deviation of the prediction's change, late epochs counting most"
    source = "Zhang et al., CVPR 2024"


@dataclass(frozen=True)
class DynUnc(_Hardest):
    """Most variable probability of the label."""

    name = score = "dyn_unc"
    summary = "most variable probability of the label over training"
    source = "He et al., CVPR 2024"
