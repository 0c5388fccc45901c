"""What this machine gives a run to write to: a folder of the user's own, caches of the libraries, a folder for Ray.

In a container the user may have no name, no home, or one that nobody can write to; and what lies in the folder for
temporary files may be anybody's.
"""

import contextlib
import ctypes
import os
import secrets
import stat
import sys
import tempfile
from pathlib import Path

from elfs_ray.errors import UsageError, one_line

CACHES = {"NUMBA_CACHE_DIR": "numba", "HF_HOME": "huggingface", "TORCH_HOME": "torch"}
"""Variable that names a library's cache -> its folder below ~/.cache, where it is without the variable."""
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
# Of glibc's mallopt: which memory is given back, from how many bytes; and which is taken apart, from how many.
_TRIM, _TRIM_BYTES, _APART, _APART_BYTES = -1, 2**28, -3, 2**25


def machine_folder(*names: str) -> Path:
    """A folder for what all processes of this user on this machine share and can make again.

    It lies in the folder for temporary files, belongs to the user and is closed to all others, whoever made what there
    before. Its name can be known beforehand: where somebody else has taken it, another one is made, and found again.

    Raises:
        UsageError: no folder can be made there.
    """
    try:
        folder = _own_folder(Path(tempfile.gettempdir())).joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"no folder can be made for temporary files ({one_line(error)}: {error.filename or os.getcwd()}); "
            "set TMPDIR to a folder that you can write to"
        ) from None
    return folder


def first_choice() -> Path:
    """The machine's folder unless somebody else has taken its name."""
    return Path(tempfile.gettempdir()) / f"elfs-ray-{os.geteuid()}"


def is_private(folder: Path) -> bool:
    """Whether this is a folder (no link to one) that the user of this process owns and that is closed to all others."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _own_folder(parent: Path) -> Path:
    first = first_choice()
    with contextlib.suppress(FileExistsError):
        first.mkdir(mode=0o700)
    if is_private(first):
        return first
    others = sorted(folder for folder in parent.glob(f"{first.name}-*") if is_private(folder))
    return others[0] if others else Path(tempfile.mkdtemp(prefix=f"{first.name}-", dir=parent))


def can_write(folder: Path) -> bool:
    """Whether a file may be made in a folder, or in the nearest one above it if it is not there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(
        folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    )


def provide_folders() -> None:
    """Give the libraries folders of the machine's in place of those below a home that is not there or not writable.

    They look once, when they are imported, and fail or write to a folder named `~`. What the user set stays.
    """
    with contextlib.suppress(OSError, UsageError):  # then they fail, or not, as they would have
        if not has_home():
            os.environ["HOME"] = str(machine_folder("home"))
        for variable, folder in missing_caches().items():
            os.environ[variable] = str(machine_folder("cache", folder.name))


def provide_token() -> None:
    """Give a Ray that starts here the token that its processes show each other, where it cannot keep one at home."""
    kept = Path.home() / ".ray" / "auth_token"
    if "RAY_AUTH_TOKEN_PATH" not in os.environ and not kept.exists() and not can_write(kept.parent):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def keep_freed_memory() -> None:
    """Let this process use again what it freed, up to 256 MiB, instead of giving it back and having it cleared anew.

    Networks free and take the same megabytes with each batch: on processors up to a quarter of the time. Only glibc
    can be told.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_APART, _APART_BYTES)
        library.mallopt(_TRIM, _TRIM_BYTES)


def has_home() -> bool:
    """Whether the user has a home, which HOME names or, for a user with a name, the system, and which can be there."""
    try:
        home = Path.home()
    except RuntimeError:
        return False
    return home.is_absolute() and (home.is_dir() or can_write(home))


def missing_caches() -> dict[str, Path]:
    """Variables of the libraries' caches that would be below ~/.cache and cannot, with the folders there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = {variable: cache / name for variable, name in CACHES.items() if not os.environ.get(variable)}
    if can_write(Path(__file__).parents[1] / "core" / "__pycache__"):
        found.pop("NUMBA_CACHE_DIR", None)  # where numba looks first
    # Weights may lie in a cache that is only to be read; of numba's it makes no use.
    readable = {name: path for name, path in found.items() if name != "NUMBA_CACHE_DIR" and path.is_dir()}
    return {name: path for name, path in found.items() if name not in readable and not can_write(path)}


def check_temporary_folder() -> None:
    """Refuse a TMPDIR that cannot be used: Python would quietly take another one, or the working directory.

    Raises:
        UsageError: it names no folder that can be written to.
    """
    named = os.environ.get("TMPDIR")
    if named:
        _check_writable(named, "TMPDIR")


def check_ray_folder() -> str:
    """The folder in which a Ray that starts here makes its own one.

    Raises:
        UsageError: it cannot be written to, or is too long for the sockets in it.
    """
    check_temporary_folder()
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    folder = os.environ.get(variable, "/tmp")  # noqa: S108 - as Ray has it
    if variable == "RAY_TMPDIR":
        with contextlib.suppress(OSError):  # Ray makes it, too
            os.makedirs(folder, exist_ok=True)
    _check_writable(folder, variable)
    inside = os.path.join(folder, "ray")
    if os.path.exists(inside):
        _check_writable(inside, "")
    longest = f"ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    if len(os.fsencode(os.path.join(folder, longest))) > SOCKET_PATH_BYTES:
        raise UsageError(
            f"{_named(folder, variable)} has {len(os.fsencode(folder))} bytes, too many for the sockets that Ray makes "
            f"there; set RAY_TMPDIR to a folder of at most {SOCKET_PATH_BYTES - len(longest) - 1} bytes, such as /tmp"
        )
    return folder


def _check_writable(folder: str, variable: str) -> None:
    remedy = f"set {variable or 'RAY_TMPDIR'} to a folder that you can write to"
    told = _named(folder, variable)
    if not os.path.isabs(folder):
        raise UsageError(f"{told} is no absolute path; {remedy}")
    if not os.path.isdir(folder):
        raise UsageError(f"{told} is no folder; make it, or {remedy}")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"a run writes here")
            file.flush()
    except OSError as error:
        raise UsageError(f"{told} cannot be written to ({one_line(error)}); {remedy}") from None


def _named(folder: str, variable: str) -> str:
    return f"{variable}={folder}" if variable else folder
