"""The optimizers of torch, without its compiler.

Torch keeps its compiler out of optimizers, and imports it for that when one is first used: a second, as long as a small
training takes. Nothing here compiles an optimizer, so their methods are called as they stand.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method, out of what would import the compiler."""
    found: Callable[..., Any] = inspect.unwrap(method)
    return found


class _Plain(Optimizer):
    """What all optimizers share."""

    add_param_group = _plain(Optimizer.add_param_group)
    load_state_dict = _plain(Optimizer.load_state_dict)
    state_dict = _plain(Optimizer.state_dict)
    zero_grad = _plain(Optimizer.zero_grad)


class SGD(_Plain, torch.optim.SGD):
    """As torch has it."""

    step = torch.no_grad()(_plain(torch.optim.SGD.step))


class AdamW(_Plain, torch.optim.AdamW):
    """As torch has it."""

    step = torch.no_grad()(_plain(torch.optim.AdamW.step))
