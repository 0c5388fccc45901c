"""What a training tells while it runs."""

from collections.abc import Callable

Progress = Callable[[int, int, int], None]
"""Told of each step of an epoch: its number, how many there are, and the samples of the epoch that were seen."""
