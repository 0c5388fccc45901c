"""Turning what Ray, the file system and the libraries raise into one line that a user can act on."""

import contextlib
import errno
from collections.abc import Iterator

from elfs_ray import storage
from elfs_ray.errors import ElfsRayError, RunError, UsageError, one_line


@contextlib.contextmanager
def expected_errors(unit: str, run_dir: str, *, verbose: bool) -> Iterator[None]:
    """Raise the expected error that stands behind another, if there is one; with `verbose`, the other as it is."""
    try:
        yield
    except ElfsRayError:
        raise
    except Exception as error:
        expected = as_expected(error, unit, run_dir)
        if expected is None or verbose:
            raise
        raise expected from error


def as_expected(error: BaseException, unit: str, run_dir: str) -> ElfsRayError | None:
    """The expected error behind an exception, found through the layers that Ray wraps around it; None if unknown."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ElfsRayError) and not _wraps(cause):
            return cause
    for cause in causes:
        if isinstance(cause, OSError) and not _wraps(cause):
            return _from_os_error(cause, unit, run_dir)
    for cause in causes:
        name = type(cause).__name__
        if name in ("OutOfMemoryError", "MemoryError"):
            return RunError(
                f"{unit} ran out of memory; use a smaller batch, fewer actors, or a larger machine, and run again"
            )
        if name in ("ActorDiedError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OwnerDiedError"):
            reason = str(cause).strip().splitlines()[0]
            return RunError(
                f"{unit} lost a worker too often ({reason}); run the same command again to go on from there"
            )
    return None


def _from_os_error(error: OSError, unit: str, run_dir: str) -> ElfsRayError | None:
    place = error.filename or run_dir
    if error.errno == errno.ENOSPC or "No space left on device" in str(error):
        return UsageError(
            f"{unit} stopped: the disk is full (writing to {place}); free some space and run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        reason = one_line(error)
        return UsageError(f"{unit} stopped: {reason} ({place}); mend the permissions and run the same command again")
    return storage.as_expected(error, unit, run_dir)


def _causes(error: BaseException | None, depth: int = 0) -> Iterator[BaseException]:
    """The exception and all that it carries: causes, contexts, Ray's `cause`, the failures of training workers."""
    if error is None or depth > 12:
        return
    yield error
    carried = [error.__cause__, getattr(error, "cause", None), error.__context__]
    carried += list((getattr(error, "worker_failures", None) or {}).values())
    seen: list[BaseException] = []
    for inner in carried:
        if isinstance(inner, BaseException) and inner not in seen:
            seen.append(inner)
            yield from _causes(inner, depth + 1)


def _wraps(error: BaseException) -> bool:
    """Whether this is Ray's copy of an exception, whose text is a whole traceback, and not the exception itself."""
    return isinstance(getattr(error, "cause", None), BaseException)
