"""Arrays that the training workers of one machine share: written once, and mapped into the memory of each.

Copies of their own would cost the memory of all samples for every worker. The files lie in the folder for temporary
files of the machine, under a name made from the run folder and the stage: a worker that is started again finds them.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import fixed_size_matrix
from elfs_ray.core.features import normalize_rows
from elfs_ray.workers.machine import machine_folder

Blocks = Iterable[np.ndarray]


class MappedArrays:
    """The shared arrays of one stage on this machine."""

    def __init__(self, store: RunFolder, work: str) -> None:
        self._store = store
        name = hashlib.sha256(f"{store.uri}\0{work}".encode()).hexdigest()[:16]
        self._folder = machine_folder("arrays", name)

    def get(self, name: str, blocks: Callable[[], Blocks], rows: int) -> np.ndarray:
        """The array of this name [rows, width]; the first worker that asks writes it, from blocks of its rows."""
        path = self._folder / f"{name}.npy"
        with FileLock(self._folder / f"{name}.lock"):
            if not path.exists():
                _write(path, blocks(), rows)
        # Copy on write: torch takes no array that may not be written to, and nobody writes.
        mapped: np.ndarray = np.load(path, mmap_mode="c")
        return mapped

    def column(self, artifact: str, column: str) -> np.ndarray:
        """A fixed-size-list column of an artifact as a matrix [N, width]."""
        return self.get(column, lambda: self._read(artifact, column), self._store.count_rows(artifact))

    def normalized_vectors(self) -> np.ndarray:
        """The embeddings with rows of unit length, float32 [N, d]."""
        blocks = lambda: map(normalize_rows, self._read("embeddings", "vector"))  # noqa: E731
        return self.get("normalized", blocks, self._store.count_rows("embeddings"))

    def remove(self) -> None:
        """Remove the files; who has mapped them keeps them until it ends."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, artifact: str, column: str) -> Blocks:
        for batch in self._store.dataset(artifact).to_batches(columns=[column]):
            if len(batch):
                yield fixed_size_matrix(batch[column])


def _write(path: Path, blocks: Blocks, rows: int) -> None:
    """Write the array so that it appears whole or not at all."""
    aside, array, start = path.with_suffix(".tmp"), None, 0
    for block in blocks:
        if array is None:
            array = np.lib.format.open_memmap(aside, "w+", block.dtype, (rows, block.shape[1]))
        array[start : start + len(block)] = block
        start += len(block)
    if array is None or start != rows:
        raise ValueError(f"{path.name} has {start} rows, not {rows}")
    array.flush()
    aside.replace(path)
