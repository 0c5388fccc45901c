"""What computes: processors and GPUs of a machine or a cluster."""

import contextlib
import os
import platform
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


def describe_machine() -> dict[str, Any]:
    """Processor, memory and GPUs of this machine, for the manifest."""
    gpus = _names_of_gpus()
    return {
        "device": "cuda" if gpus else "cpu",
        "cpus": os.cpu_count(),
        "processor": _from_cpuinfo("model name") or platform.processor() or platform.machine(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def hardware_summary(hardware: Hardware, workers: str) -> dict[str, Any]:
    """The machine's description, with who works and what they offer to stages."""
    return {**describe_machine(), "workers": {"are": workers, **asdict(hardware)}}


def hardware_here(num_cpus: int | None = None, num_gpus: int | None = None) -> Hardware:
    """What this machine offers to this process; numbers that are given count as they are."""
    import joblib

    cpus = joblib.cpu_count() if num_cpus is None else num_cpus  # knows of the limits of a container
    gpus = len(_names_of_gpus()) if num_gpus is None else num_gpus
    return Hardware("cuda" if gpus else "cpu", cpus, gpus, has_bfloat16())


def has_bfloat16() -> bool:
    """Whether the processors of this machine (x86 under Linux; others were not tried) have instructions for it."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_from_cpuinfo("flags").split())


def _names_of_gpus() -> list[str]:
    """The GPUs that torch can use; it takes seconds to import, and is not asked where the system shows none."""
    shown = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists() or platform.system() == "Windows"
    if not shown:
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _from_cpuinfo(name: str) -> str:
    """What Linux says of the first processor under this name; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
