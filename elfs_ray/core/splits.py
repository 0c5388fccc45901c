"""Splitting samples into parts.

Symbols: n samples, m and n - m of them in the parts.
"""

import numpy as np
from jaxtyping import Int, Int64


def stratified_split(
    labels: Int[np.ndarray, " n"], fraction: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " n-m"]]:
    """Split positions so that each label is held out in the same proportion.

    Args:
        labels: int [n].
        fraction: share held out of each label, rounded; a label with two samples or more keeps one on each side. Where
            no label has two, one sample of all is held out.
        rng: source of the draws.

    Returns:
        Kept and held-out positions, both int64 and ascending.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    if len(labels) > 1 and not held_out.any():
        held_out[rng.integers(len(labels))] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
