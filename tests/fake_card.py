"""A graphics card without one: fake tensors on cuda:0, which have a device and a shape and no values.

The code that runs on a card runs on them as it is. Tensors of two devices in one operation raise, as they would on a
card; only tensors without dimensions may mix.
"""

import contextlib

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

CARD = torch.device("cuda:0")
# Of the fused optimizers, torch knows this one on values only; it changes its tensors in place and gives nothing.
_MISSING = torch.library.Library("aten", "IMPL", "Meta")
_MISSING.impl("_fused_sgd_", lambda *_, **__: None)


@contextlib.contextmanager
def fake_card(monkeypatch):
    """A mode in which tensors on `CARD` can be made; what torch cannot do with fake ones is done another way."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    monkeypatch.setattr(nn.utils, "skip_init", lambda module, *args, **options: module(*args, **options))
    monkeypatch.setattr(nn.Module, "to", _moved)
    monkeypatch.setattr(torch.Tensor, "backward", _gradients)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def _gradients(loss):
    """A gradient for each parameter that the loss depends on: torch's own engine starts a thread for the real card."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)


def _moved(module, device=None, **_):
    """The network with its weights on a device: torch's own `to` wants to swap tensors in place."""
    for part in module.modules() if device is not None else ():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(weight.detach().to(device), requires_grad=weight.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(device)
    return module
