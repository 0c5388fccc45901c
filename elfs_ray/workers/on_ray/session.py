"""The connection to Ray, and what the machine or cluster behind it offers."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from elfs_ray.config import RayConfig
from elfs_ray.errors import RunError, UsageError, one_line
from elfs_ray.workers import machine, search_path
from elfs_ray.workers.hardware import Hardware, has_bfloat16

if TYPE_CHECKING:
    from elfs_ray.workers.on_ray.workers import OnRay

CONNECT_SECONDS = 10
ENVIRONMENT = {
    # No usage reports, no progress bars beside ours.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray Train takes one report of a worker at each health check; at the default of 2 s short epochs would wait for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Ctrl-C ends a search as it ends all else: Tune's own handler would wait for its trials, and forget the signal.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's logs are those for TensorBoard; the rows of the trials are ours.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Threads that spin while they wait make a shared machine several times slower, and win little on a free one.
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A worker process that has nothing to do for a second is ended, where there are more than processors, and the next
    # task waits seconds for a new one: on two cores most of the time went there.
    "RAY_idle_worker_killing_time_threshold_ms": "30000",
    # Ray Data reads the footers of Parquet files with 32 actors, each a process, however few the files are.
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
}
"""What Ray reads when it is imported, unless the user has set it. This module does not import it before."""


@contextlib.contextmanager
def ray_session(config: RayConfig, *, verbose: bool = False) -> Iterator["OnRay"]:
    """Connect to the cluster named in the configuration or in $RAY_ADDRESS, or start a local Ray; leave it as found.

    Raises:
        UsageError: the address does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    from elfs_ray.workers.on_ray.workers import OnRay

    if not verbose:
        _quieten()
    started_here, handlers = not ray.is_initialized(), _handlers()
    try:
        if started_here:
            _start(config, verbose)
        with _interrupted_by(handlers):
            yield OnRay(_hardware(config, ray.cluster_resources()), verbose)
    finally:
        if started_here:
            ray.shutdown()


def worker_threads(cluster_cpus: int, workers: int, on_this_machine: int = 1) -> int:
    """Threads for one of several equal workers: its share of the cluster, and never more than its own machine has.

    Asked in the worker, whose machine may be a small part of the cluster.

    Args:
        cluster_cpus: processors of all machines.
        workers: that share them.
        on_this_machine: of these workers, where known.
    """
    import ray

    this = ray.get_runtime_context().get_node_id()
    [here] = [int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["NodeID"] == this]
    return max(1, min(cluster_cpus // workers, here // on_this_machine))


def _hardware(config: RayConfig, resources: dict[str, float]) -> Hardware:
    """What is there, or what the configuration says will be: Ray does not tell what an autoscaler may start."""
    cpus = int(resources.get("CPU", 1)) if config.num_cpus is None else config.num_cpus
    gpus = int(resources.get("GPU", 0)) if config.num_gpus is None else config.num_gpus
    return Hardware("cuda" if gpus else "cpu", max(1, cpus), gpus, has_bfloat16())


def _start(config: RayConfig, verbose: bool) -> None:
    import ray

    address = config.address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.CRITICAL}
    quiet = contextlib.nullcontext() if verbose else _standard_error_closed()
    search_path.refuse_hidden_from_workers()
    if address:
        try:
            _knock(address)
            if not address.startswith("ray://"):  # there the driver is a process of the cluster's
                common["job_config"] = _job(search_path.of_other_workers())
            with quiet:
                ray.init(address=address, **common)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            reason = one_line(error)
            raise UsageError(
                f"no Ray cluster answers at {address!r} ({reason}); start one or leave out ray.address"
            ) from None
        return
    folder = machine.check_ray_folder()
    machine.provide_token()
    memory = config.object_store_mb * 2**20 if config.object_store_mb else None
    # No one takes this machine away with notice; the watcher would be one more process for each training.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        with quiet:
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                object_store_memory=memory,
                include_dashboard=False,
                job_config=_job(search_path.of_local_workers()),
                **common,
            )
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        reason = one_line(error)
        raise RunError(
            f"a local Ray could not be started: {reason}; check free memory, and disk in {folder}"
        ) from error


def _job(path: list[str]) -> Any:
    """Where workers look for modules, this package and the user's plug-ins among them, is what we say and no more.

    Ray itself puts the working directory and the script's folder before Python's own modules, unless the job has a
    working directory that was sent to the workers. It puts each of the folders given before all others.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return Job(_py_driver_sys_path=path[::-1])


def _knock(address: str) -> None:
    """Raise `OSError` where nothing listens at a HOST:PORT or ray://HOST:PORT: Ray itself would try for minutes."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _handlers() -> dict[signal.Signals, Any]:
    """What handles the signals that interrupt; of SIGTERM nothing but Ray's own does in a Python script."""
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@contextlib.contextmanager
def _interrupted_by(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """A block that Ctrl-C, and SIGTERM (`ray job stop`, a machine that goes down), end in the way that was before Ray.

    Ray's own handler prints a trace of its native code. Where nothing handles SIGTERM, it ends the block as Ctrl-C
    does. Only the main thread may have handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = handlers[signal.SIGTERM]
    signal.signal(signal.SIGTERM, own if callable(own) else signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _quieten() -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # What they would log of a failure is in the exception.
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _standard_error_closed() -> Iterator[None]:
    """Drop what Ray's own C++ code prints while it starts, which no option turns off; failures come as exceptions.

    What Python prints, such as the line of an interruption, is seen.
    """
    before, kept = sys.stderr, os.dup(2)
    if before is not None:
        before.flush()
    with open(kept, "w", encoding=getattr(before, "encoding", None), errors="backslashreplace") as seen:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        sys.stderr = seen
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(seen.fileno(), 2)
