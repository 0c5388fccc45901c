"""A folder of image files, searched in depth; ids are paths below it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import Wanted
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import Chunk, Facts, Source, piece_of
from elfs_ray.data.sources.reading import Encoded, read_files


class FilesSource(Source):
    """Images that are files, each of which the listing names."""

    def read(self, chunk: Chunk) -> pa.Table:
        """Each file of the chunk of which nothing wrong is known."""
        columns = self.entries.read(chunk.start, chunk.stop, ["id", "uri", "error"]).slice(0, chunk.rows).to_pydict()
        errors = columns["error"]
        data = iter(
            read_files([uri for uri, error in zip(columns["uri"], errors, strict=True) if not error], self.location)
        )
        encoded: list[Encoded] = [(None, error) if error else next(data) for error in errors]
        return self.table_of(chunk, columns["id"], columns["uri"], encoded)


class FolderSource(FilesSource):
    """The files of a folder, in order of path."""

    kind = "folder"
    files_at_once = 65_536

    @classmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:  # noqa: ARG003
        """Nothing but the size of chunks."""
        return {"chunk_entries": wanted.chunk_rows}

    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:
        """An entry each."""
        start = len(self.about.root)
        columns = {
            "id": [file.path[start:].lstrip("/") for file in files],
            "uri": [filesystems.uri_of(file.path, self.location) for file in files],
            "size": [file.size for file in files],
            "error": [file.fault for file in files],
        }
        readable = sum(not file.fault for file in files)
        return piece_of(columns, len(files)), Facts(len(files), len(files), readable, {})

    def ids(self) -> pa.ChunkedArray:
        """Paths below the folder."""
        return self.entries.read(columns=["id"])["id"]
