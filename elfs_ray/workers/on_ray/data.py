"""Streams as executions of Ray Data."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from elfs_ray.workers.base import Source, Step


class _Items(Datasource):
    """The rows of items. As blocks of their own small rows would all be read at once, and stay in the driver's memory.

    A task does the first step on what it reads, because both ask for the same.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source = source

    def estimate_inmemory_data_size(self) -> None:
        """Not known; what a task gives on is cut to blocks anyway."""

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """One for each item."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(self._source.read, item), metadata) for item in self._source.items]


def run_stream(source: Source, steps: tuple[Step, ...], block_bytes: int, verbose: bool) -> Iterator[dict[str, Any]]:
    """Run one execution; yields the blocks of the last step."""
    _quieten(verbose)
    needs = {"num_cpus": source.cpus, "memory": source.memory}
    dataset = ray.data.read_datasource(_Items(source), override_num_blocks=len(source.items), **needs)
    # At the default of 128 MiB a step would wait for hundreds of batches.
    dataset.context.target_max_block_size = block_bytes
    for step in steps:
        dataset = dataset.map_batches(step.function, **_options(step))
    blocks: Iterator[dict[str, np.ndarray]] = iter(dataset.iter_batches(batch_size=None, batch_format="numpy"))
    return blocks


def _options(step: Step) -> dict[str, Any]:
    """Those of Ray Data."""
    options: dict[str, Any] = {
        "batch_size": step.rows,
        "batch_format": "pyarrow" if step.as_table else "numpy",
        "num_cpus": step.cpus,
        ("fn_constructor_kwargs" if step.holders else "fn_kwargs"): step.arguments,
    }
    if step.memory is not None:
        options["memory"] = step.memory
    if step.holders:
        options["num_gpus"] = step.gpus
        options["compute"] = ActorPoolStrategy(
            min_size=1,
            max_size=step.holders,
            initial_size=1 if step.gpus else step.holders,
            max_concurrent_calls_per_actor=step.at_once,
            enable_true_multi_threading=step.at_once > 1,
        )
    return options


def _quieten(verbose: bool) -> None:
    context = DataContext.get_current()
    # Of an exception that Ray Data wraps in its own, nothing but text reaches the driver.
    context.raise_original_map_exception = True
    if not verbose:
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
