"""Pixels of images for the networks that train on them, decoded once for each side (`stages.parts.pixels`)."""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np

from elfs_ray.artifacts.record import TEST, Record, Unit
from elfs_ray.artifacts.run_folder import INDEX_FILE, RunFolder
from elfs_ray.artifacts.table import Table

PIXELS = "pixels"
DECODING = 1
"""Raised when images are decoded or resized in another way: pixels from before no longer count."""
BLOCK_BYTES = 32 * 2**20
"""Of pixels that are read at a time."""


@dataclass(frozen=True)
class Pixels(Table):
    """Images of one side: those that any stage has asked for, in the order in which they were decoded.

    It needs no record: its name says what it is of, and rows are only ever added.
    """

    @classmethod
    def of(cls, store: RunFolder, ingest: Record, side: int) -> "Pixels":
        """Those of the candidates or of the separate test images, whether there are any yet or not."""
        return cls(store, f"{ingest.unit.artifact(PIXELS)}/{side}{_ending(ingest)}")

    @cached_property
    def held(self) -> np.ndarray:
        """Positions of the images that are there, row by row, int64 [rows]."""
        return self.column("index") if self.store.exists(self.name, INDEX_FILE) else np.empty(0, np.int64)

    @cached_property
    def _by_position(self) -> np.ndarray:
        return np.argsort(self.held)

    def squares_at(self, positions: np.ndarray) -> np.ndarray:
        """Of some images, uint8 [n, 3, side, side].

        Args:
            positions: int64 [n], in any order.

        Raises:
            IndexError: of an image that is not there.
        """
        places = np.searchsorted(self.held, positions, sorter=self._by_position)
        rows = self._by_position[np.minimum(places, len(self.held) - 1)]
        if not np.array_equal(self.held[rows], positions):
            raise IndexError(f"{self.name} lacks some of the images that are asked for")
        width: int = self.schema.field(PIXELS).type.byte_width
        side, block, in_order = isqrt(width // 3), max(1, BLOCK_BYTES // width), np.argsort(rows)
        squares = np.empty((len(rows), 3, side, side), np.uint8)
        for first in range(0, len(rows), block):
            some = in_order[first : first + block]
            squares[some] = self.matrix_at(PIXELS, rows[some]).reshape(-1, 3, side, side)
        return squares

    def mapped_squares(self) -> np.ndarray:
        """Of all images, which must be there, uint8 [N, 3, side, side], shared as `mapped` says."""
        block = max(1, BLOCK_BYTES // self.schema.field(PIXELS).type.byte_width)
        firsts = range(0, self.rows, block)
        return self.derived(
            "squares",
            lambda: (self.squares_at(np.arange(first, min(first + block, self.rows))) for first in firsts),
        )


def remove_stale_pixels(store: RunFolder) -> None:
    """Remove pixels of images that are not the samples any more."""
    records = store.records().current
    for unit in (Unit("ingest"), Unit("ingest", TEST)):
        folder, current = unit.artifact(PIXELS), _ending(records[unit]) if unit in records else None
        for name in store.names(folder):
            if current is None or not name.endswith(current):
                # The index first: without it, what a kill leaves of the parts is decoded again.
                store.delete(folder, name, INDEX_FILE)
                store.delete(folder, name)


def _ending(ingest: Record) -> str:
    return f"-{DECODING}-{ingest.content}"
