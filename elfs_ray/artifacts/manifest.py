"""The manifest of a run folder as those read it who want nothing else: of a local folder, without pyarrow."""

import json
import os
from pathlib import Path
from typing import Any

from elfs_ray.artifacts.filesystems import refuse_credentials
from elfs_ray.artifacts.record import Records
from elfs_ray.errors import UsageError

MANIFEST = "manifest.json"
FORMAT = 2
"""Of the run folder; those of another one are refused."""
REPORT = "report.html"


def read_manifest(location: str) -> dict[str, Any]:
    """The manifest of the run folder at a local path or a URI; empty when there is none.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    refuse_credentials(location)
    if "://" in location:
        from elfs_ray.artifacts.run_folder import RunFolder

        return RunFolder(location).manifest()
    return read_local(os.path.abspath(os.path.expanduser(location)))


def read_records(location: str) -> Records:
    """What a manifest says of finished units.

    Raises:
        UsageError: as `read_manifest`.
    """
    return Records.from_json(read_manifest(location).get("records", {}))


def read_local(folder: str) -> dict[str, Any]:
    """`read_manifest` of an absolute path."""
    file = Path(folder, MANIFEST)
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise damaged(str(file)) from None
    return of_this_version(found, folder)


def damaged(file: str) -> UsageError:
    """The error for a file of a run folder that cannot be read."""
    return UsageError(f"{file} is damaged; remove the run folder, or restore that file")


def of_this_version(manifest: dict[str, Any], location: str) -> dict[str, Any]:
    """A manifest, if this version can go on with its run.

    Raises:
        UsageError: another version wrote it.
    """
    if manifest and manifest.get("format") != FORMAT:
        raise UsageError(
            f"{location} holds a run of elfs_ray 0.{manifest.get('format', 1)}, which this version cannot go on with; "
            "choose another --out, or use that version there"
        )
    return manifest
