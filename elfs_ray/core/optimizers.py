"""The optimizers of torch, without its compiler.

Torch keeps its compiler out of optimizers, and imports it for that when one is first used: a second, as long as a small
training takes. Nothing here compiles an optimizer, so their methods are called as they stand.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch


def _step_of(kind: type[torch.optim.Optimizer]) -> Callable[..., Any]:
    """Its step, out of what would import the compiler, and not to be differentiated."""
    found: Callable[..., Any] = torch.no_grad()(inspect.unwrap(kind.step))
    return found


class SGD(torch.optim.SGD):
    """As torch has it."""

    step = _step_of(torch.optim.SGD)


class AdamW(torch.optim.AdamW):
    """As torch has it."""

    step = _step_of(torch.optim.AdamW)


# What these are marked with stands for what the compiler would make of them. Another torch may have no such mark, and
# imports as it does.
for _method in vars(torch.optim.Optimizer).values():
    if hasattr(_method, "__wrapped__"):
        vars(_method.__wrapped__).setdefault("__dynamo_disable", _method.__wrapped__)
