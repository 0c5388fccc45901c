"""Arrays that all processes of one machine share: written once, and mapped into the memory of each.

Copies of their own would cost the memory of all samples for every worker. The files lie in the folder for temporary
files of the machine, under names made from the run folder, the artifact and the hash of its content: every stage, and a
worker that is started again, finds them, and nobody finds those of an artifact that has changed. A new array removes
the ones that stand for an earlier content; the end of the run removes all.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

from elfs_ray.workers.machine import machine_folder

_UNFIT = re.compile(r"[^\w.-]")


def machine_array(
    run: str, name: str, content: str, blocks: Callable[[], Iterable[np.ndarray]], rows: int
) -> np.ndarray:
    """A shared array [rows, ...]; the first process that asks for it writes it.

    Args:
        run: location of the run folder.
        name: of the array, within the run.
        content: changes when what it is made of does.
        blocks: its rows, a block at a time.
        rows: how many there are.
    """
    folder, name = _folder(run), _UNFIT.sub("-", name)
    path = folder / f"{name}.{content}.npy"
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            for earlier in folder.glob(f"{name}.{'?' * len(content)}.npy"):
                earlier.unlink()
            _write(path, blocks(), rows)
    # Copy on write: torch takes no array that may not be written to, and nobody writes.
    mapped: np.ndarray = np.load(path, mmap_mode="c").view(np.ndarray)
    return mapped


def remove_arrays(run: str) -> None:
    """Remove the arrays of a run on this machine; who has mapped one keeps it."""
    shutil.rmtree(_folder(run), ignore_errors=True)


def _folder(run: str) -> Path:
    return machine_folder("arrays", hashlib.sha256(run.encode()).hexdigest()[:16])


def _write(path: Path, blocks: Iterable[np.ndarray], rows: int) -> None:
    """Write the array so that it appears whole or not at all."""
    aside, array, start = path.with_suffix(".tmp"), None, 0
    for block in blocks:
        if array is None:
            array = np.lib.format.open_memmap(aside, "w+", block.dtype, (rows, *block.shape[1:]))
        array[start : start + len(block)] = block
        start += len(block)
    if array is None or start != rows:
        aside.unlink(missing_ok=True)
        raise ValueError(f"{path.name} has {start} rows, not {rows}")
    array.flush()
    aside.replace(path)
