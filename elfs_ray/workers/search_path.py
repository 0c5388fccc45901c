"""Where Python looks for modules: its own come first, those of the folder that a run happens to start in come last.

`python -m` and scripts put their folder first, and Ray does so on its workers: a `statistics.py` there would be
imported in place of Python's own. Only what Python has when it starts is imported here: all else could be such a file.
"""

import os
import sys

_STANDARD = os.path.dirname(os.__file__)
_ARCHIVE = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where this package lies: a checkout, or the folder of all installed packages."""


class StandardLibraryFirst:
    """A block with the search path in this order; afterwards a script has its own back, with what packages added."""

    def __enter__(self) -> None:
        refuse_imported_before()
        self._before = sys.path[:]
        put_standard_library_first()

    def __exit__(self, *_: object) -> None:
        sys.path[:] = [*(entry for entry in sys.path if entry not in self._before), *self._before]


def put_standard_library_first() -> None:
    """Order the search path of this process."""
    sys.path[:] = _in_order(sys.path)


def refuse_imported_before() -> None:
    """Refuse a module of the user's that this process has imported in place of Python's own already.

    Raises:
        UsageError: there is one.
    """
    for name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        file = getattr(sys.modules[name], "__file__", None)
        if file and os.path.dirname(file.removesuffix(f"{os.sep}__init__.py")) in started_in():
            from elfs_ray.errors import UsageError

            raise UsageError(f"{file} was imported in place of Python's own module {name!r}; give it another name")


def of_local_workers() -> list[str]:
    """The search path of workers on this machine: that of this process, this very package before other copies of it."""
    path = [_absolute(entry) for entry in _in_order([*sys.path, *started_in()])]
    standard = [entry for entry in path if _is_standard(entry)]
    return list(dict.fromkeys([*standard, *_checkout(), *path]))


def of_other_workers() -> list[str]:
    """What workers of a cluster look through before their own search path: folders that hide nothing there."""
    return [folder for folder in dict.fromkeys([*started_in(), *_checkout()]) if not hidden_by(folder)]


def started_in() -> list[str]:
    """The working directory, and the script's folder, unless PYTHONPATH names them: then they are meant to be first."""
    path = [_absolute(entry) for entry in sys.path]
    script = os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv else ""
    folders = [_absolute(""), *([script] if script in path else [])]
    return [folder for folder in dict.fromkeys(folders) if folder not in (_STANDARD, *named_in_environment())]


def named_in_environment() -> list[str]:
    """The folders in PYTHONPATH. Every Python looks there first, also those that Ray starts."""
    return [_absolute(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def hidden_by(folder: str) -> dict[str, str]:
    """Python's own modules that a folder has modules or packages of the same name for: module -> path."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    found = {_module(folder, name): os.path.join(folder, name) for name in names}
    return {module: path for module, path in found.items() if module in sys.stdlib_module_names}


def refuse_hidden_from_workers() -> None:
    """Refuse what no order helps against: files in PYTHONPATH that Ray's processes would import for Python's own.

    Raises:
        UsageError: there is one, of a module that this process has needed so far.
    """
    for folder in named_in_environment():
        for module, path in hidden_by(folder).items():
            if module in sys.modules:
                from elfs_ray.errors import UsageError

                raise UsageError(
                    f"{path} hides Python's own module {module!r} from Ray's processes, because PYTHONPATH names its "
                    "folder; give it another name, or take the folder out of PYTHONPATH"
                )


def _in_order(path: list[str]) -> list[str]:
    standard = [entry for entry in path if _is_standard(entry)]
    last = [entry for entry in path if _absolute(entry) in started_in() and entry not in standard]
    return [*standard, *(entry for entry in path if entry not in standard and entry not in last), *last]


def _checkout() -> list[str]:
    """The folder of this package, unless other packages are installed there, too."""
    return [] if os.path.basename(PACKAGE_FOLDER) in ("site-packages", "dist-packages") else [PACKAGE_FOLDER]


def _is_standard(entry: str) -> bool:
    return entry == _STANDARD or os.path.basename(entry) in ("lib-dynload", _ARCHIVE)


def _absolute(entry: str) -> str:
    try:
        return os.path.abspath(entry)
    except FileNotFoundError:  # the working directory was removed
        return entry


def _module(folder: str, name: str) -> str:
    """The module that an entry of a folder would be imported as; empty for none."""
    module, ending = os.path.splitext(name)
    if ending == ".so":
        return module.partition(".")[0]
    if ending in (".py", ".pyc"):
        return module
    return name if os.path.isfile(os.path.join(folder, name, "__init__.py")) else ""
