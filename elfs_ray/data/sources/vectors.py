"""Embeddings that stand for images: their ids are the samples, and nothing is known of any picture."""

import pyarrow as pa

from elfs_ray.artifacts import filesystems
from elfs_ray.data.sources.base import Chunk, Source, table_of
from elfs_ray.data.sources.found import Found, counted
from elfs_ray.data.vectors import open_vectors, vectors_signature


class VectorSource(Source):
    """The rows of precomputed embeddings, in order."""

    kind = "vectors"
    carries_bytes = False
    has_images = False

    def __init__(self, location: str, id_column: str | None) -> None:
        self.location = location
        self._vectors = open_vectors(location, id_column)
        self.count = self._vectors.rows
        self.found = Found(counted("rows", self.count))
        self._firsts = dict[str, int]()  # of each file
        for group in self._vectors.groups:
            self._firsts.setdefault(group.path, group.first)
        self.chunks = [
            Chunk(number, group.first, group.rows, (group.path,), number)
            for number, group in enumerate(self._vectors.groups)
        ]

    def signature(self) -> str:
        """Of the files."""
        return vectors_signature(self.location)

    def read(self, chunk: Chunk) -> pa.Table:
        """The ids of a group of rows, with no images and no errors."""
        uri = filesystems.uri_of(chunk.paths[0], self.location)
        first = chunk.first - self._firsts[chunk.paths[0]]
        uris = [f"{uri}#{number}" for number in range(first, first + chunk.rows)]
        ids = self._vectors.ids(chunk.row_group).slice(0, chunk.rows).to_pylist()
        return table_of(chunk, ids, uris, [(None, None)] * chunk.rows)

    def columns(self) -> list[str] | None:
        """Of the table of embeddings."""
        return self._vectors.columns()

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """A column of the table of embeddings."""
        values = self._vectors.column(name)
        return pa.concat_arrays([self._vectors.ids(number) for number in range(len(self.chunks))]), values
