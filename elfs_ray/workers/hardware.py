"""What computes: processors and GPUs of a machine or a cluster."""

import contextlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil


@dataclass(frozen=True)
class Hardware:
    """What stages plan with.

    Attributes:
        device: what computes.
        cpus: processors of the machine or cluster.
        gpus: GPUs of the machine or cluster.
        bfloat16: whether the processors have instructions for bfloat16; where not, torch takes ten times as long as
            with float32.
    """

    device: Literal["cpu", "cuda"]
    cpus: int
    gpus: int
    bfloat16: bool = False

    @property
    def image_dtype(self) -> Literal["float32", "bfloat16"]:
        """Arithmetic of networks on images: the faster one."""
        return "bfloat16" if self.device == "cuda" or self.bfloat16 else "float32"

    @property
    def vector_dtype(self) -> Literal["float32", "bfloat16"]:
        """Arithmetic of networks on embeddings: on processors they are too small to gain by another."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def dtypes(self) -> dict[str, str]:
        """Both, as the functions of `elfs_ray.planning.auto_options` take them."""
        return {"image_dtype": self.image_dtype, "vector_dtype": self.vector_dtype}

    @property
    def units(self) -> int:
        """Devices to spread work over: GPUs, or one where there is none."""
        return max(1, self.gpus)


class Memory(NamedTuple):
    """Main memory to plan with, in bytes.

    Attributes:
        nodes: of each machine that is there, largest first.
        may_grow: the configuration counts on machines that an autoscaler has yet to start.
    """

    nodes: tuple[int, ...]
    may_grow: bool

    @property
    def total(self) -> int:
        """Of all nodes."""
        return sum(self.nodes)

    def holds(self, actors: int, bytes_each: int) -> bool:
        """Whether so many workers of this size find room, none of them split between nodes."""
        return self.may_grow or sum(node // max(1, bytes_each) for node in self.nodes) >= actors


def this_machine() -> Hardware:
    """What this process computes on, by itself."""
    import torch

    gpu = torch.cuda.is_available()
    return Hardware("cuda" if gpu else "cpu", len(os.sched_getaffinity(0)), int(gpu), has_bfloat16())


def describe_machine() -> dict[str, Any]:
    """Processor, memory and GPUs of this machine, for the manifest."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "device": "cuda" if gpus else "cpu",
        "cpus": os.cpu_count(),
        "processor": _processor_name(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def hardware_summary(hardware: Hardware) -> dict[str, Any]:
    """The machine's description with what Ray offers to stages."""
    return {**describe_machine(), "ray": asdict(hardware)}


def has_bfloat16() -> bool:
    """Whether the processors of this machine (x86; others were not tried) have instructions for bfloat16."""
    import torch

    ask: Callable[[], Mapping[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)  # not in each torch 2
    capabilities = ask() if ask else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
