"""Loops that numba compiles."""

from collections.abc import Callable
from typing import Any, TypeVar, no_type_check

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """Compile a function when it is first called, and keep the result on disk where numba finds a folder for it.

    With `cache=True` alone numba raises where it finds none, as soon as the module is imported.

    Args:
        **options: of `numba.njit`.
    """

    def decorate(function: F) -> F:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            return numba.njit(**options)(function)

    return decorate


@compiled()
@no_type_check
def value_at(values: np.ndarray, place: int) -> Any:
    """The value that would be at a place if they were sorted; moves them. Hoare's selection.

    `np.partition` does the same, and takes numba six seconds to compile.
    """
    low, high = 0, len(values) - 1
    while low < high:
        pivot, left, right = values[(low + high) // 2], low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            break
    return values[place]
