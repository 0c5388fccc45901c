"""Splitting samples into parts."""

import numpy as np


def stratified_split(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split positions so that each label is held out in the same proportion.

    Args:
        labels: int [n].
        fraction: share held out of each label, rounded; a label with two samples or more keeps one on each side.
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
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
