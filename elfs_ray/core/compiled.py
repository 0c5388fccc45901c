"""Loops that numba compiles."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

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
