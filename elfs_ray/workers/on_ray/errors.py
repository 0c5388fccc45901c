"""What Ray makes of an exception that a task, an actor, a training worker or a trial raised."""

import re
import sys

import ray.exceptions as of_ray

LOST = (
    of_ray.RayActorError,
    of_ray.WorkerCrashedError,
    of_ray.NodeDiedError,
    of_ray.LocalRayletDiedError,
    of_ray.ObjectLostError,
)

# What Ray Data adds to the text of whatever is raised in a block of its, behind a line's end.
_ADVICE = re.compile(r"\n?Failed to [^\n]* after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


def wrapped(error: BaseException) -> list[BaseException]:
    """The exceptions that one of Ray's carries: it is nothing but their wrapping; empty for any other."""
    if isinstance(error, of_ray.RayTaskError):
        return [_without_advice(cause) for cause in _exceptions(error.cause)]
    if isinstance(error, of_ray.ActorDiedError):
        # Of an actor that could not be made Ray keeps the error of its constructor among the arguments alone.
        return _exceptions(*error.args)
    train = sys.modules.get("ray.train")
    if train is not None and isinstance(error, train.WorkerGroupError):
        return _exceptions(*(error.worker_failures[rank] for rank in sorted(error.worker_failures)))
    if train is not None and isinstance(error, train.ControllerError):
        return _exceptions(error.controller_failure)
    return []


def is_lost(error: BaseException) -> bool:
    """Whether a process, a machine or what it held is gone."""
    return isinstance(error, LOST)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Ray ended a worker that took too much memory, or its object store is full."""
    return isinstance(error, of_ray.OutOfMemoryError | of_ray.ObjectStoreFullError)


def is_disk_full(error: BaseException) -> bool:
    """Whether Ray found no room for objects on the disk."""
    return isinstance(error, of_ray.OutOfDiskError)


def _without_advice(error: BaseException) -> BaseException:
    """The exception with its own text alone."""
    *others, last = error.args or (None,)
    if isinstance(last, str) and (found := _ADVICE.search(last)):
        own = last[: found.start()]
        error.args = (*others, own) if own else tuple(others)
    if isinstance(error, OSError) and _ADVICE.match(str(error.filename)):
        error.filename = None  # the third argument of an error with a number
    return error


def _exceptions(*carried: object) -> list[BaseException]:
    return [each for each in carried if isinstance(each, BaseException)]
