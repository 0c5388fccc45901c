"""Streams as a chain of threads: each step works on the next batches while the one behind it has the last."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.workers.base import Source, Step
from elfs_ray.workers.in_process.tasks import Crew

Batch = dict[str, np.ndarray]


def run_stream(source: Source, steps: Sequence[Step], cpus: int) -> Iterator[Batch]:
    """The batches of the last step, in order."""
    crews = []
    batches: Iterator[Any] = (table for item in source.items for table in source.read(item))
    try:
        for step in steps:
            at_once = step.holders * step.at_once or cpus
            crews.append(Crew(at_once, narrow=not step.holders))
            cut = _tables(batches, step.rows) if step.as_table else _arrays(batches, step.rows)
            work = ((batch,) for batch in cut)
            # Twice as many as run at once: no thread waits for the one that takes the results.
            batches = crews[-1].in_order(_function(step), work, 2 * at_once)
        yield from map(_as_arrays, batches)
    finally:
        for crew in crews:
            crew.end()


def _function(step: Step) -> Callable[[Any], Any]:
    """What a thread calls for a batch; an object is made in the first of the threads that call it, and lives there."""
    if not step.holders:
        return partial(step.function, **step.arguments)
    lock, numbers, objects, held = threading.Lock(), itertools.count(), list[Any](), threading.local()

    def call(batch: Any) -> Any:
        if not hasattr(held, "object"):
            with lock:
                if next(numbers) % step.at_once == 0:
                    objects.append(step.function(**step.arguments))
                held.object = objects[-1]
        return held.object(batch)

    return call


def _tables(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many; the last may have fewer."""
    held = pa.table({})
    for table in batches:
        held = pa.concat_tables([held, table]) if held.num_rows else table
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held = held.slice(rows)
    if held.num_rows:
        yield held


def _arrays(batches: Iterable[Any], rows: int) -> Iterator[Batch]:
    """The same rows in arrays by name, so many in each; the last batch may have fewer."""
    waiting, count = list[Batch](), 0
    for batch in map(_as_arrays, batches):
        waiting.append(batch)
        count += _length(batch)
        while count >= rows:
            whole = _joined(waiting)
            yield {name: column[:rows] for name, column in whole.items()}
            waiting = [{name: column[rows:] for name, column in whole.items()}]
            count -= rows
    if count:
        yield _joined(waiting)


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _as_arrays(batch: Any) -> Batch:
    if isinstance(batch, pa.Table):
        return {name: batch[name].to_numpy() for name in batch.column_names}
    return {name: np.asarray(column) for name, column in batch.items()}
