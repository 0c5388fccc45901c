"""The threads that a worker computes with."""

import sys

from threadpoolctl import threadpool_limits


def use_threads(count: int) -> None:
    """Let the numeric libraries of this worker use so many threads, where Ray allows what it reserved.

    Only those that are imported by now: what needs torch imports it before.
    """
    use_torch_threads(count)
    threadpool_limits(count)


def use_torch_threads(count: int) -> None:
    """Let torch, if it is imported, compute with so many of the calling thread's own."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
