"""What a run needs of this machine, each thing looked at in seconds: one line for each, with the remedy where it lacks.

Every check does the thing itself, as a run with these options would: it imports, encodes an image, writes a file, and
starts Ray where a run would.
"""

import contextlib
import os
import platform
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from itertools import chain
from pathlib import Path
from typing import Literal

from elfs_ray.config import RayConfig, RunConfig
from elfs_ray.errors import UsageError, one_line
from elfs_ray.run.errors_seen import as_expected, behind
from elfs_ray.workers import machine, search_path

LIBRARIES = ("torch", "torchvision", "timm", "open_clip", "faiss", "pyarrow", "numpy")
# Libraries that some encoders alone import, which takes seconds: the family of these encoders -> what they import.
OF_ENCODERS = {
    "open_clip": ("open_clip", "timm", "torchvision"),
    "timm": ("timm", "torchvision"),
    **dict.fromkeys(("torchvision", "hub"), ("torchvision",)),
}
DISTRIBUTIONS = {"open_clip": ("open_clip_torch",), "faiss": ("faiss-gpu", "faiss-cpu")}
MIN_FREE_DISK, MIN_MEMORY, MIN_SHARED = 5 * 2**30, 4 * 2**30, 2**30
# Ray refuses new objects from here on.
FULL_DISK = 0.95
NO_INPUT = "none://"
"""Input of a configuration whose images are not looked at."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        state: `ok`; `weak`, works but slowly or not for everything; `bad`, a run would fail.
        seen: what was found.
        remedy: what to do about it; empty when it is `ok`.
    """

    name: str
    state: Literal["ok", "weak", "bad"]
    seen: str
    remedy: str = ""


def examine(config: RunConfig) -> Iterator[Finding]:
    """Look at one thing after the other, as a run with this configuration would meet them."""
    machine.provide_folders()
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("user", _user),
        ("caches", _caches),
        ("search path", _search_path),
        ("terminal", _terminal),
        ("temporary files", lambda: _temporary_files(config.ray)),
        ("machine folder", _machine_folder),
        *((library, lambda library=library: _library(library, config.embed.encoder)) for library in LIBRARIES),
        ("gpu", lambda: _gpu(config.embed.dtype)),
        ("memory", _memory),
        ("shared memory", _shared_memory),
        ("encoder", lambda: _encoder(config.embed.encoder, config.embed.weights)),
        ("ray", lambda: _ray(config)),
    ]
    if config.input != NO_INPUT:
        checks.append(("input", lambda: _input(config)))
    for name, check in checks:
        try:
            yield check()
        except Exception as error:  # noqa: BLE001 - what a library raises when it does not work here
            expected, nearest = as_expected(error, "the check", "a folder of this machine"), behind(error)[0]
            told, _, remedy = str(expected).partition("; ")
            if expected is None:
                told, remedy = f"{type(nearest).__name__}: {one_line(nearest)}", "install it again"
            yield Finding(name, "bad", told, remedy)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= tuple(map(int, platform.python_version_tuple()[:2])) < (3, 14):
        return Finding("python", "ok", version)
    return Finding("python", "bad", version, "use Python 3.11, 3.12 or 3.13")


def _user() -> Finding:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "without a name"
    home = Path.home()
    told = f"one of its own, {home}, as it has none" if home.is_relative_to(machine.machine_folder()) else str(home)
    return Finding("user", "ok", f"{name} ({uid}), home {told}")


def _caches() -> Finding:
    own = machine.machine_folder()
    moved = [name for name in machine.CACHES if Path(os.environ.get(name, os.sep)).is_relative_to(own)]
    if moved:
        seen = f"the home {Path.home()} cannot be written to: in {own}, which may not stay"
        return Finding("caches", "weak", seen, f"set HOME, or {', '.join(moved)}, to what you can write to")
    return Finding("caches", "ok", f"in {os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}")


def _search_path() -> Finding:
    search_path.refuse_imported_before()
    search_path.refuse_hidden_from_workers()
    passed_over = [path for folder in search_path.started_in() for path in search_path.hidden_by(folder).values()]
    if not passed_over:
        return Finding("search path", "ok", "nothing hides a module of Python's own")
    names = ", ".join(passed_over)
    return Finding("search path", "ok", f"passed over, as they have names of Python's own modules: {names}")


def _terminal() -> Finding:
    encoding = getattr(sys.stdout, "encoding", None)
    if encoding is None:
        return Finding("terminal", "ok", "no output")
    try:
        "\N{PLUS-MINUS SIGN}\N{BOX DRAWINGS LIGHT HORIZONTAL}".encode(encoding)
    except UnicodeEncodeError:
        return Finding("terminal", "ok", f"{encoding}: other characters are escaped, as \\xe4")
    return Finding("terminal", "ok", encoding)


def _library(name: str, encoder: str) -> Finding:
    of_some = set(chain.from_iterable(OF_ENCODERS.values()))
    needed = name not in of_some or name in OF_ENCODERS.get(encoder.partition(":")[0], ())
    if needed or (name == "torchvision" and _has_gpu()):  # which decodes with it
        import_module(name)
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            told = "" if name in sys.modules else f", not tried: {encoder} does without"
            return Finding(name, "ok", metadata.version(distribution) + told)
    return Finding(name, "weak", "not installed as a package", "install elfs-ray again, with its dependencies")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _gpu(dtype: str) -> Finding:
    import torch

    from elfs_ray.workers.hardware import has_bfloat16

    found = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if found:
        return Finding("gpu", "ok", ", ".join(found))
    if shutil.which("nvidia-smi"):
        return Finding("gpu", "weak", "torch sees none, but nvidia-smi is here", "install a torch for your driver")
    if dtype not in ("auto", "float32") and not has_bfloat16():
        seen = f"none, and these processors have no instructions for {dtype}"
        return Finding("gpu", "weak", seen, "use --set embed.dtype=float32, ten times as fast")
    default = "bfloat16" if has_bfloat16() else "float32"
    return Finding(
        "gpu", "ok", f"none: {os.cpu_count()} processors with cheaper settings, networks on images in {default}"
    )


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available
    seen = f"{free / 2**30:.1f} GiB free"
    return (
        Finding("memory", "ok", seen)
        if free >= MIN_MEMORY
        else Finding("memory", "weak", seen, f"free some: a run wants {MIN_MEMORY >> 30} GiB or more")
    )


def _shared_memory() -> Finding:
    shared = Path("/dev/shm")  # noqa: S108 - where Ray keeps its objects
    if not shared.is_dir():
        return Finding("shared memory", "ok", "not used on this system")
    size = shutil.disk_usage(shared).total
    seen = f"{size / 2**30:.1f} GiB in {shared}"
    if size >= MIN_SHARED:
        return Finding("shared memory", "ok", seen)
    return Finding("shared memory", "weak", seen, "start the container with --shm-size=4g; else Ray uses the disk")


def _temporary_files(there: RayConfig) -> Finding:
    machine.check_temporary_folder()
    ray_starts_here = not (there.address or os.environ.get("RAY_ADDRESS"))
    folder = machine.check_ray_folder() if ray_starts_here else tempfile.gettempdir()
    usage = shutil.disk_usage(folder)
    seen = f"{usage.free / 2**30:.1f} GiB free in {folder}"
    if usage.used / usage.total >= FULL_DISK or usage.free < MIN_FREE_DISK:
        remedy = "free some, or set RAY_TMPDIR and TMPDIR to another disk: Ray stops at 95 % full"
        return Finding("temporary files", "weak", seen, remedy)
    return Finding("temporary files", "ok", seen)


def _machine_folder() -> Finding:
    folder, first = machine.machine_folder(), machine.first_choice()
    if folder != first:
        seen = f"{folder}, as {first} is not a folder of yours that is closed to others"
        return Finding("machine folder", "weak", seen, f"remove {first}, or set TMPDIR to a folder of your own")
    around = folder.parent.stat()
    if around.st_mode & 0o022 and not around.st_mode & stat.S_ISVTX:
        seen = f"{folder}, which others may rename"
        return Finding("machine folder", "weak", seen, f"run `chmod +t {folder.parent}`, or set TMPDIR")
    return Finding("machine folder", "ok", str(folder))


def _encoder(name: str, weights: str | None) -> Finding:
    import torch

    from elfs_ray.encoders import check_encoder, load_encoder

    check_encoder(name, weights)
    encoder = load_encoder(name, weights=weights)
    size = encoder.preprocessing.size
    vectors = encoder.encode(torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.float32)
    return Finding("encoder", "ok", f"{name}: {vectors.shape[1]} values for an image of {size} pixels")


def _ray(config: RunConfig) -> Finding:
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if not address and (why := _why_not_started(config)):
        import_module("ray")
        return Finding("ray", "ok", f"{metadata.version('ray')}, not started: {why}")
    from elfs_ray.workers.on_ray.session import ray_session

    with ray_session(config.ray) as workers:
        workers.call(_nothing, cpus=0)
        hardware = workers.hardware
        where = f"cluster at {address}" if address else "started here"
        seen = f"{metadata.version('ray')}, {where}: {hardware.cpus} processors, {hardware.gpus} GPUs, a task ran"
        return Finding("ray", "ok", seen)


def _why_not_started(config: RunConfig) -> str:
    """Why a run does not need it, as far as is known; empty if it does."""
    if config.input == NO_INPUT:
        return "with --input, or --address, it is"
    from elfs_ray.artifacts.record import Records
    from elfs_ray.run.where import works_on_ray
    from elfs_ray.stages.parts.listed import prefixes_of, small_inputs

    try:
        inputs = small_inputs(config, Records({}))
    except UsageError:
        return "the input cannot be used"  # what is wrong with it, its own check says
    count = sum(source.count for source in inputs.values()) if set(inputs) == set(prefixes_of(config)) else None
    return "" if works_on_ray([config], count) else f"a run over {count:,} images works without it"


def _nothing() -> None:
    """A task to see whether tasks run."""


def _input(config: RunConfig) -> Finding:
    from elfs_ray.data.sources import open_input

    source = open_input(config, config.input)
    return Finding("input", "ok", f"{source.count:,} files or rows ({source.kind}) in {config.input}")
