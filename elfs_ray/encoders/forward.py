"""Encoding batches on a device: in smaller parts when memory runs out, and two at once on a card.

While the card encodes one batch, another is decoded, copied and put away: each by a thread of its own, with a stream
and page-locked memory of its own (`Lane`).
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from elfs_ray.encoders.base import Encoder
from elfs_ray.errors import RunError


class AdaptiveForward:
    """Encodes a batch in one go, or in smaller parts from the first time that memory runs out.

    Threads may share it. Where memory runs out for two batches at once, they take turns from then on; parts get smaller
    only where a batch alone does not fit.

    Attributes:
        rows: of a part.
    """

    def __init__(self, encoder: Encoder, device: torch.device, dtype: torch.dtype, rows: int) -> None:
        self._encoder, self._device, self._dtype = encoder, device, dtype
        self.rows = rows
        self._changed = threading.Condition()
        self._inside, self._crowded = 0, False

    def __call__(self, pixels: Tensor) -> Tensor:
        """Vectors float32 [b, dim] of pixels uint8 [b, 3, s, s]. On a card within `turn`.

        Raises:
            RunError: memory runs out with a single image.
        """
        while True:
            with self._changed:
                rows, alone = self.rows, self._crowded or not self._inside
            try:
                return torch.cat([self._encoder.encode(part, self._dtype) for part in pixels.split(rows)])
            except torch.OutOfMemoryError:
                pass  # not here: the traceback of the error holds what the failed pass had in memory
            self._make_room(rows, pixels.shape[-1], alone=alone)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """A block that holds a batch on the device: of one thread at a time, once memory has run out for two."""
        with self._changed:
            self._enter()
        try:
            yield
        finally:
            with self._changed:
                self._leave()

    def _make_room(self, rows: int, side: int, *, alone: bool) -> None:
        """After memory ran out: wait until no other batch takes any; where none could, take smaller parts."""
        with self._changed:
            if not alone:
                self._crowded = True
                self._leave()
                self._enter()
            elif rows == 1:
                raise RunError(
                    f"{self._device} has no memory for one image of {side} pixels a side; "
                    "use --set embed.image_size with fewer, or another encoder"
                )
            else:
                self.rows = -(-rows // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _enter(self) -> None:
        self._changed.wait_for(lambda: not (self._crowded and self._inside))
        self._inside += 1

    def _leave(self) -> None:
        self._inside -= 1
        self._changed.notify_all()


class Lane:
    """What one batch at a time needs to get on and off a device.

    On a card a stream, on which all its work is queued, and page-locked memory, which copies run from while the
    processor goes on. On a processor nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_card = device, device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_card else None
        self._kept: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def used(self) -> Iterator["Clock"]:
        """A block whose work goes to this lane's stream; gives the clock of that work."""
        if self._stream is None:
            yield Clock(on_card=False)
            return
        with torch.cuda.stream(self._stream):
            yield Clock(on_card=True)

    def onto_device(self, values: np.ndarray, rows: int) -> Tensor:
        """An array [n, ...] on the device, filled up with zeros to so many rows.

        On a card what it gives is complete for what is queued after it on this lane.
        """
        staging = self._memory("in", (rows, *values.shape[1:]), torch.from_numpy(values[:0]).dtype)
        staging[: len(values)] = torch.from_numpy(values)
        staging[len(values) :] = 0
        return staging.to(self._device, non_blocking=True)

    def off_device(self, values: Tensor) -> np.ndarray:
        """The values, once all that was queued on this lane is done. The next call overwrites them on a card."""
        if self._stream is None:
            return values.numpy()
        landing = self._memory("out", tuple(values.shape), values.dtype)
        landing.copy_(values, non_blocking=True)
        # Waiting for an event sleeps; waiting for the stream would keep a processor busy.
        done = torch.cuda.Event(blocking=True)
        done.record()
        done.synchronize()
        return landing.numpy()

    def _memory(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the processor; on a card page-locked, and the same for each batch."""
        if not self._on_card:
            return torch.empty(shape, dtype=dtype)
        kept = self._kept.get(name)
        if kept is None or len(kept) < shape[0] or kept.shape[1:] != shape[1:] or kept.dtype != dtype:
            self._kept[name] = kept = torch.empty(shape, dtype=dtype, pin_memory=True)
        return kept[: shape[0]]


class Clock:
    """Seconds between marks: of the work queued so far on a card's stream, of the wall on a processor."""

    def __init__(self, *, on_card: bool) -> None:
        self._on_card = on_card
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []
        self.mark()

    def mark(self) -> None:
        """One more mark; waits for nothing."""
        if self._on_card:
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record()
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Between each mark and the one before it. On a card after the work is done."""
        if self._on_card:
            pairs = zip(self._events, self._events[1:], strict=False)
            return [before.elapsed_time(after) / 1000 for before, after in pairs]
        return [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
