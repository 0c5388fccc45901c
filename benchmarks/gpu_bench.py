"""How `gpu.py` measures: times on a device, rows of a table with goals, parts that fail by themselves."""

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Of one repeated action, beyond the first and the second time.
SECONDS_OF_REPEATS = 15


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        goal: what it should be, if that was set.
        met: whether it is; None where there is no goal.
    """

    part: str
    what: str
    value: float
    unit: str
    note: str
    goal: str
    met: bool | None


@dataclass
class Bench:
    """Sizes, device, and the rows of the table.

    Attributes:
        part: what is measured now.
        bandwidth: bytes a second of a copy, read and written; 0 before it is known.
        matrix_rate: operations a second of a product in bfloat16; 0 before it is known.
    """

    small: bool
    device: torch.device
    rows: list[Row] = field(default_factory=list)
    part: str = ""
    bandwidth: float = 0.0
    matrix_rate: float = 0.0

    @property
    def half(self) -> torch.dtype:
        """What networks compute in: bfloat16, which is slow on most processors."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def size(self, full: int, small: int) -> int:
        """The size to measure at."""
        return small if self.small else full

    def timed(self, action: Callable[[], object], repeats: int) -> list[float]:
        """Seconds of each repeat, the device idle before and after; fewer where they take long."""
        action()
        seconds = [self.once(action)]
        while not self.small and len(seconds) < repeats and sum(seconds) < SECONDS_OF_REPEATS:
            seconds.append(self.once(action))
        return seconds

    def once(self, action: Callable[[], object]) -> float:
        """Seconds of one call, the device idle before and after."""
        self.wait()
        started = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def add(
        self, what: str, value: float, unit: str, note: str = "", *, goal: str = "", met: bool | None = None
    ) -> None:
        """Print a line now and keep it for the table; goals are for full sizes on a GPU."""
        if self.small or self.device.type != "cuda":
            goal, met = "", None
        self.rows.append(Row(self.part, what, value, unit, note, goal, None if met is None else bool(met)))
        print(f"{what:60} {value:12,.4g} {unit:12} {note}", flush=True)

    def share(self, operations: float) -> float:
        """Of the measured rate of products in bfloat16, that so many operations a second are."""
        return operations / self.matrix_rate if self.matrix_rate else float("nan")

    def images(self, count: int, side: int) -> Tensor:
        """Random pixels on the CPU, uint8 [n, 3, s, s]."""
        return torch.randint(256, (count, 3, side, side), dtype=torch.uint8)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.4g} - {max(seconds):.4g} s, {len(seconds)} repeats"


def measure(
    bench: Bench, parts: Mapping[str, Callable[[Bench], None]], save: Callable[[dict[str, str], dict[str, float]], None]
) -> dict[str, str]:
    """Run parts by name, whatever becomes of each.

    Args:
        bench: takes the rows.
        parts: what to measure.
        save: is given, after each part, what went wrong so far with which, and the seconds of each.

    Returns:
        What went wrong with which part.
    """
    failed, seconds = dict[str, str](), dict[str, float]()
    for name, part in parts.items():
        bench.part, started = name, time.monotonic()
        try:
            part(bench)
        except Exception as error:  # noqa: BLE001 - one that fails must not cost the others
            failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            traceback.print_exc()
        seconds[name] = round(time.monotonic() - started, 1)
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        save(failed, seconds)
    return failed
