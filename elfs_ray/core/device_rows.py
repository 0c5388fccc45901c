"""Where the rows of an array lie that batches are made of: on the device as a whole, or fed to it in time.

Symbols: N rows, b rows in a batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

AHEAD = 2
"""Batches that are gathered and copied while the device works on the one before."""
_COPY_ROWS = 2**16


class Room:
    """What is left of the device's memory for rows that stay there: at first half of what is free."""

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        """Look how much there is; `limit`, in bytes, stands in for half of what is free."""
        self.device = device
        if limit is None and device.type == "cuda":
            limit = torch.cuda.mem_get_info(device)[0] // 2
        self._left = limit

    def take(self, num_bytes: int) -> bool:
        """Whether so many bytes have room; then they are taken."""
        if self._left is None:  # the device's memory is this process's own
            return True
        if num_bytes > self._left:
            return False
        self._left -= num_bytes
        return True


class DeviceRows:
    """Rows [N, ...] of which batches are made on a device.

    Attributes:
        resident: all rows lie on the device. Else each batch is gathered by a thread into pinned memory and copied
            while the device works on the one before.
    """

    def __init__(self, rows: Shaped[Tensor, "N ..."], room: Room, dtype: torch.dtype | None = None) -> None:
        """Place the rows on the device if there is room.

        Args:
            rows: in main memory, or on the device already.
            room: on the device; rows that stay there take their part of it.
            dtype: to hold them in, on the device or not; without: as they are.
        """
        dtype = dtype or rows.dtype
        self._device = room.device
        there = rows.device.type == room.device.type
        self.resident = there or room.take(rows.numel() * dtype.itemsize)
        self._dtype = dtype
        if there:
            self._rows = rows.to(dtype)
        elif self.resident:
            self._rows = torch.empty(rows.shape, dtype=dtype, device=room.device)
            # Part by part: the rows may be a file, and a copy of all in main memory too much.
            for start in range(0, len(rows), _COPY_ROWS):
                self._rows[start : start + _COPY_ROWS] = rows[start : start + _COPY_ROWS].to(room.device)
        else:
            self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> torch.Size:
        """[N, ...]."""
        return self._rows.shape

    def take(self, *places: Int64[Tensor, " b"]) -> Shaped[Tensor, "b ..."]:
        """Some rows, by their positions, or with columns beside these one value of each; on the device."""
        if self.resident:
            return self._rows[places]
        return self._rows[tuple(each.cpu() for each in places)].to(self._dtype).to(self._device)

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """The rows of each batch in turn, on the device.

        Args:
            positions: of each batch, int64 [b], on the device.
        """
        if self.resident:
            return map(self.take, positions)
        sizes = [len(batch) for batch in positions]
        # In one copy: the device is waited for once, not at each batch.
        return self._fed(torch.cat(list(positions)).cpu().split(sizes) if sizes else [])

    def _fed(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        largest = max((len(batch) for batch in positions), default=0)
        feeder = _Feeder(self._rows, self._dtype, self._device, largest)
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
            coming = deque[Future[tuple[Tensor, torch.cuda.Event | None]]]()
            for batch in positions:
                coming.append(pool.submit(feeder.copy, batch))
                if len(coming) > AHEAD:
                    yield feeder.receive(*coming.popleft().result())
            while coming:
                yield feeder.receive(*coming.popleft().result())


class _Feeder:
    """Copies batches to the device from pinned buffers, which take turns, on a stream of their own."""

    def __init__(self, rows: Tensor, dtype: torch.dtype, device: torch.device, largest: int) -> None:
        self._rows, self._dtype, self._device = rows, dtype, device
        self._on_card = device.type == "cuda"
        if self._on_card:
            self._stream = torch.cuda.Stream(device)
            shape = largest, *rows.shape[1:]
            self._buffers = [torch.empty(shape, dtype=rows.dtype, pin_memory=True) for _ in range(AHEAD + 1)]
            self._read = [torch.cuda.Event() for _ in self._buffers]
            self._turn = 0

    def copy(self, positions: Int64[Tensor, " b"]) -> tuple[Tensor, "torch.cuda.Event | None"]:
        """Gather some rows and send them off; returns them, and the event of their arrival."""
        if not self._on_card:
            return self._rows[positions].to(self._dtype).to(self._device), None
        arrived = self._read[self._turn]
        arrived.synchronize()  # the buffer's last copy; at once where there was none
        buffer = self._buffers[self._turn][: len(positions)]
        torch.index_select(self._rows, 0, positions, out=buffer)
        with torch.cuda.stream(self._stream):
            # Narrowed there: the bus is faster than one thread's conversion.
            batch = buffer.to(self._device, non_blocking=True).to(self._dtype)
            arrived.record()
        self._turn = (self._turn + 1) % len(self._buffers)
        return batch, arrived

    def receive(self, batch: Tensor, arrived: "torch.cuda.Event | None") -> Tensor:
        """The batch, ready for what the device does next."""
        if arrived is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrived)
            batch.record_stream(current)
        return batch
