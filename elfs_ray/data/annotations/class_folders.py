"""The pictures of an export as links, sorted by hand into a folder for each class."""

import os
from pathlib import Path

from elfs_ray.data.annotations.base import LABEL_CONTROL, NO_ANSWER, Annotations, Answer, Picture, chosen


def read_class_folders(where: str, folder: Path) -> Annotations:
    """CLASS/NAME of each file or link; what still lies in no class has no label. Hidden files are passed over.

    Raises:
        OSError: the folder cannot be listed.
        ValueError: the name of a class is no text.
    """
    pictures = []
    for label in sorted(os.listdir(folder)):
        path = folder / label
        if label.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            answer = Answer({LABEL_CONTROL: chosen([label])})
            pictures += [Picture(name, (answer,)) for name in _names(path)]
        else:
            pictures.append(Picture(label, (NO_ANSWER,)))
    return Annotations(where, "symlinks", tuple(pictures))


def _names(folder: Path) -> list[str]:
    """Names of what lies in a class, deeper ones as paths: those are no names of an export."""
    found = []
    for top, folders, files in os.walk(folder, followlinks=False):
        links = [name for name in folders if (Path(top) / name).is_symlink()]
        below = Path(top).relative_to(folder)
        found += [str(below / name) for name in (*files, *links) if not name.startswith(".")]
    return sorted(found)
