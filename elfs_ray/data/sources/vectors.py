"""Embeddings that stand for images: their ids are the samples, and nothing is known of any picture."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import Wanted
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import Chunk, Facts, Source, piece_of
from elfs_ray.data.vectors import Vectors, open_vectors


class VectorSource(Source):
    """The rows of precomputed embeddings, in order: an entry for each of the groups in which they are read."""

    kind = "vectors"
    has_images = False

    @classmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:  # noqa: ARG003
        """The column of ids, as the user named it."""
        return {"id_column": wanted.id_column, "chunk_entries": 1}

    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:  # noqa: ARG002
        """Of all files: what lists them knows their groups."""
        groups = self._vectors.groups
        rows = np.array([group.rows for group in groups])
        first = {group.path: group.first for group in reversed(groups)}
        columns = {
            "rows": rows,
            "uri": [filesystems.uri_of(group.path, self.location) for group in groups],
            "group": range(len(groups)),
            "row": [group.first - first[group.path] for group in groups],
        }
        return piece_of(columns, len(groups)), Facts(len(groups), int(rows.sum()), len(groups), {})

    def read(self, chunk: Chunk) -> pa.Table:
        """The ids of a group of rows, with no images and no errors."""
        [entry] = self.entries.read(chunk.start, chunk.stop).to_pylist()
        uris = [f"{entry['uri']}#{number}" for number in range(entry["row"], entry["row"] + chunk.rows)]
        ids = self._vectors.ids(entry["group"]).slice(0, chunk.rows).to_pylist()
        return self.table_of(chunk, ids, uris, [(None, None)] * chunk.rows)

    def columns(self) -> list[str] | None:
        """Of the table of embeddings."""
        return self._vectors.columns()

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """A column of the table of embeddings."""
        values, groups = self._vectors.column(name), range(len(self._vectors.groups))
        return pa.concat_arrays([self._vectors.ids(number) for number in groups]), values

    @cached_property
    def _vectors(self) -> Vectors:
        return open_vectors(self.location, self.about.reading["id_column"])
