"""The device that a worker computes on."""

import torch


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
