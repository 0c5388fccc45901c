"""A folder of image files, searched in depth; ids are paths below it."""

from collections.abc import Iterator

import pyarrow as pa

from elfs_ray.artifacts import filesystems
from elfs_ray.data.files import files_signature
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import Chunk, Encoded, Source, read_files, runs, table_of
from elfs_ray.data.sources.found import Found, counted


class FolderSource(Source):
    """The files of a folder, in order of path."""

    kind = "folder"
    carries_bytes = False

    def __init__(self, location: str, root: str, files: list[Entry], chunk_rows: int) -> None:
        self.location, self.count = location, len(files)
        self.found = Found(counted("images", self.count))
        self._root, self._signature = root, files_signature(files)
        self._faults = {file.path: file.fault for file in files if file.fault}
        self.chunks = [
            Chunk(number, first, rows, tuple(file.path for file in files[first : first + rows]))
            for number, (first, rows) in enumerate(runs((file.size for file in files), chunk_rows))
        ]

    def signature(self) -> str:
        """Of the files."""
        return self._signature

    def ids(self) -> Iterator[str]:
        """Paths below the folder."""
        return (self._id(path) for chunk in self.chunks for path in chunk.paths)

    def read(self, chunk: Chunk) -> pa.Table:
        """Each file of the chunk."""
        uris = [filesystems.uri_of(path, self.location) for path in chunk.paths]
        good = [uri for uri, path in zip(uris, chunk.paths, strict=True) if path not in self._faults]
        data = iter(read_files(good, self.location))
        encoded: list[Encoded] = [
            (None, self._faults[path]) if path in self._faults else next(data) for path in chunk.paths
        ]
        return table_of(chunk, [self._id(path) for path in chunk.paths], uris, encoded)

    def _id(self, path: str) -> str:
        return path[len(self._root) :].lstrip("/")
