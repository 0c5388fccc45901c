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
    """Let what this thread gives torch to do, if it is imported, use so many threads, whatever other threads use."""
    torch = sys.modules.get("torch")
    if torch is not None:
        # A thread that has not computed yet takes over the number that any thread set last, once it does; so also after
        # it has set one itself. Asking for the number makes it do that now.
        torch.get_num_threads()
        torch.set_num_threads(count)
