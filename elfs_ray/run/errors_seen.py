"""Turning what Ray, the file system and the libraries raise into one line that a user can act on."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from types import ModuleType

from elfs_ray.artifacts import filesystems
from elfs_ray.errors import ElfsRayError, RunError, UsageError, one_line


@contextlib.contextmanager
def expected_errors(unit: str, place: str) -> Iterator[None]:
    """Raise the expected error that stands behind another, if there is one, with the other as its cause.

    Args:
        unit: what is done in the block.
        place: where it writes or reads, for errors that do not say it.
    """
    try:
        yield
    except Exception as error:
        expected = as_expected(error, unit, place)
        if expected is None or expected is error:
            raise
        raise expected from error


def as_expected(error: BaseException, unit: str, place: str) -> ElfsRayError | None:
    """The expected error behind an exception, found through all that was wrapped around it; None if there is none.

    One of ours comes before what follows from it, and it before what is known by its kind alone.
    """
    found = behind(error)
    first = next((each for each in found if isinstance(each, ElfsRayError)), None)
    if first is not None:
        return first
    told = (_told(each, unit, place) for each in found)
    return next((each for each in told if each is not None), None)


def behind(error: BaseException) -> list[BaseException]:
    """The exceptions that an exception stands for, innermost wrapping taken off, the nearest first; at least one.

    These are itself, what it was raised from or during, and what Ray wrapped. Ray's copies of an exception are
    instances of its class, too, with a whole traceback for a text: they count as wrapping.
    """
    ray = _errors_of_ray()
    waiting, seen, found = [error], set[int](), list[BaseException]()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        inner = ray.wrapped(each) if ray else []
        if not inner:
            found.append(each)
        context = None if each.__suppress_context__ else each.__context__
        waiting = [*inner, *(one for one in (each.__cause__, context) if one is not None), *waiting]
    return found or [error]


def _told(error: BaseException, unit: str, place: str) -> ElfsRayError | None:
    """What an exception of a known kind means for whoever runs the tool."""
    if isinstance(error, OSError):
        return _from_os_error(error, unit, place)
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return _no_memory(unit)
    return _from_ray(error, unit)


def _from_ray(error: BaseException, unit: str) -> ElfsRayError | None:
    known = _errors_of_ray()
    if known is None:
        return None
    if known.is_out_of_memory(error):
        return _no_memory(unit)
    if known.is_disk_full(error):
        return _disk_full(unit, "Ray's folder for temporary files")
    if known.is_lost(error):
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return RunError(f"{unit} lost a worker too often ({reason}); run the same command again to go on from there")
    return None


def _from_os_error(error: OSError, unit: str, place: str) -> ElfsRayError | None:
    where = error.filename or place
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return _disk_full(unit, where)
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        reason = one_line(error)
        return UsageError(f"{unit} stopped: {reason} ({where}); change the permissions and run the same command again")
    if error.errno == errno.ENOMEM:
        return _no_memory(unit)
    return filesystems.as_expected(error, unit, place)


def _disk_full(unit: str, where: object) -> UsageError:
    return UsageError(
        f"{unit} stopped: the disk is full (writing to {where}); free some space and run the same command again"
    )


def _no_memory(unit: str) -> RunError:
    return RunError(f"{unit} ran out of memory; use a smaller batch, fewer actors, or a larger machine, and run again")


def _errors_of_ray() -> ModuleType | None:
    """What knows them; None where Ray is not in use, so that wrong uses end without importing it."""
    if "ray" not in sys.modules:
        return None
    from elfs_ray.workers.on_ray import errors

    return errors
