"""A folder of image files, searched in depth; ids are paths below it."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from elfs_ray import storage
from elfs_ray.data.files import files_signature
from elfs_ray.data.sources.base import Chunk, Source, read_files, runs, table_of


class FolderSource(Source):
    """The files of a folder, in order of path."""

    kind = "folder"
    carries_bytes = False

    def __init__(self, location: str, root: str, files: list[pafs.FileInfo], chunk_rows: int) -> None:
        self.location, self.count = location, len(files)
        self._root, self._signature = root, files_signature(files)
        self.chunks = [
            Chunk(number, first, rows, tuple(info.path for info in files[first : first + rows]))
            for number, (first, rows) in enumerate(runs((info.size for info in files), chunk_rows))
        ]

    def signature(self) -> str:
        """Of the files."""
        return self._signature

    def ids(self) -> Iterator[str]:
        """Paths below the folder."""
        return (self._id(path) for chunk in self.chunks for path in chunk.paths)

    def read(self, chunk: Chunk) -> pa.Table:
        """Each file of the chunk."""
        uris = [storage.uri_of(path, self.location) for path in chunk.paths]
        ids = [self._id(path) for path in chunk.paths]
        return table_of(chunk, ids, uris, read_files(uris, self.location))

    def _id(self, path: str) -> str:
        return path[len(self._root) :].lstrip("/")
