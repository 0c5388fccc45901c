"""What a worker sets before it computes: its threads, its card."""

import torch
from threadpoolctl import threadpool_limits


def use_threads(count: int) -> None:
    """Let torch and the numeric libraries of this worker use so many threads, where Ray allows what it reserved."""
    use_torch_threads(count)
    threadpool_limits(count)


def use_torch_threads(count: int) -> None:
    """Let what this thread gives torch to do use so many threads, whatever other threads ask for theirs."""
    # A thread that has not computed yet takes over the number that any thread set last, once it does; so also after it
    # has set one itself. Asking for the number makes it do that now.
    torch.get_num_threads()
    torch.set_num_threads(count)


def use_tensor_cores(device: torch.device) -> None:
    """Let a card multiply what stays float32 in TF32, and choose the fastest convolutions; processors stay exact."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def device_of_task() -> torch.device:
    """The GPU that this task or trial was given, ready to use; the processor if there is none that torch can use."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_tensor_cores(device)
    return device
