"""The app that the commands enter, how it ends, and what several commands share."""

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from elfs_ray import __version__
from elfs_ray.artifacts.filesystems import check_bucket
from elfs_ray.artifacts.manifest import read_manifest
from elfs_ray.cli.interrupts import EXIT_INTERRUPTED, Interrupts
from elfs_ray.console import prepare_streams, read_names_as_utf8
from elfs_ray.errors import ElfsRayError, UsageError, one_line
from elfs_ray.locations import absolute
from elfs_ray.run.errors_seen import behind
from elfs_ray.workers.machine import provide_folders

if TYPE_CHECKING:
    from elfs_ray.artifacts.run_folder import RunFolder

INTERRUPTED = "stopped; run the same command again to go on from here"
# What the parser raises on wrong use; Typer exports one of its subclasses only.
CommandLineError: Any = typer.BadParameter.__bases__[0]
out = Console()
err = Console(stderr=True)
app = typer.Typer(
    name="elfs-ray",
    help="Choose which images to label: from unlabelled images and a budget to the coreset that trains the best model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """The `elfs-ray` command; exit status 0, 1 (failed), 2 (wrong use) or 130 (interrupted)."""
    debug, verbose = ("--debug" in sys.argv[1:]), ("--verbose" in sys.argv[1:])
    read_names_as_utf8()
    prepare_streams()
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # for the processes started here
    provide_folders()
    interrupts = Interrupts(_say_interrupted)
    interrupts.listen()
    try:
        _refuse_bytes()
        code = app(standalone_mode=False) or 0
        if code == EXIT_INTERRUPTED:  # Typer makes Ctrl-C an exit without a word
            interrupts.tell()
        sys.exit(code)
    except CommandLineError as error:
        if error.format_message():  # without a command, Typer has shown the help
            command = error.ctx.command_path if error.ctx else "elfs-ray"
            _complain(f"{error.format_message().rstrip('.')}{_value_seen(error)}; see `{command} -h`")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        interrupts.tell()
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort before a traceback
        if interrupts.told:  # what was interrupted made another exception of it
            sys.exit(EXIT_INTERRUPTED)
        if debug or (verbose and error.__cause__):  # of a wrong use, nothing lies behind the line
            err.print_exception()
        if isinstance(error, ElfsRayError):
            _complain(str(error))
            sys.exit(error.exit_code)
        nearest = behind(error)[0]
        told = f"{type(nearest).__name__}: {one_line(nearest)}"
        _complain(f"unexpected {told}; add --debug for details, and report them")
        sys.exit(1)


def command() -> NoReturn:
    """`main` as the whole of a process, which then ends at once.

    Python would first free all modules one by one; of torch and Ray that takes a second.
    """
    status: Any = 1
    try:
        main()
    except SystemExit as ended:
        status = ended.code
    atexit._run_exitfuncs()  # noqa: SLF001 - has no public name
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where there is no output at all
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def run_folder(run_dir: str, *, may_be_new: bool = False) -> "RunFolder":
    """A folder that holds a run.

    Raises:
        UsageError: it holds none, and must.
    """
    from elfs_ray.artifacts.run_folder import RunFolder

    if not may_be_new:
        held_manifest(run_dir)
    return RunFolder(run_dir)


def held_manifest(run_dir: str) -> dict[str, Any]:
    """The manifest of a folder that holds a run.

    Raises:
        UsageError: it holds none.
    """
    check_bucket(run_dir)
    manifest = read_manifest(run_dir)
    if not manifest:
        raise UsageError(
            f"{absolute(run_dir)} holds no run (manifest.json is missing); check the path, or start one with "
            f"`elfs-ray run --out {run_dir} --input ...`"
        )
    return manifest


def say(text: str) -> None:
    """Print a line as it is, however long."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def _refuse_bytes() -> None:
    """Refuse arguments that are no text, as names of files from another system may be: the libraries take text."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{argument} is no UTF-8 text; give the file or folder another name, or link to it"
            ) from None


def _value_seen(error: BaseException) -> str:
    """What was given, where Typer's message does not say it."""
    seen = getattr(error.__cause__, "errors", None)  # that of pydantic, which is imported where there is one
    return f", not {seen()[0]['input']!r}" if seen else ""


def _say_interrupted() -> None:
    if err.is_terminal:  # over a bar, and the ^C that the terminal shows
        err.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
    _complain(INTERRUPTED)


def _complain(message: str) -> None:
    err.print(f"elfs-ray: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True)
