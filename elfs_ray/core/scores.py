"""Scores of the training dynamics, and which way each points. What records them is in `core.dynamics`, with torch.

Symbol: N samples.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Shaped

from elfs_ray.errors import UsageError

Score = Literal["aum", "aum_logit", "forgetting", "el2n", "entropy", "dual", "dyn_unc", "tdds"]


def hardness(dynamics: Mapping[str, Shaped[np.ndarray, " N"]], score: str) -> Float64[np.ndarray, " N"]:
    """A score turned so that larger means harder, float64 [N]: the one place that knows each score's direction.

    A sample that was never learned counts as forgotten more often than any other.

    Raises:
        UsageError: an unknown score, or one that was not recorded.
    """
    if score not in get_args(Score):
        raise UsageError(f"score {score!r} is unknown; choose one of {', '.join(get_args(Score))}")
    if score not in dynamics:
        raise UsageError(f"score {score!r} is not among those recorded: {', '.join(dynamics)}; record it too")
    values = np.asarray(dynamics[score], dtype=np.float64)
    if score in ("aum", "aum_logit"):
        return -values
    if score == "forgetting":
        return np.where(dynamics["never_learned"], values.max(initial=0) + 1, values)
    return values
