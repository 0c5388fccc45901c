"""A manifest: a CSV, TSV or JSON-lines file that names an image on each row."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.data.columns import Wanted, as_text, check_column, find_ids, find_images, ids_of
from elfs_ray.data.files import files_signature
from elfs_ray.data.sources.base import FILES_IN_A_CHUNK, Chunk, Source, read_cells, table_of
from elfs_ray.data.sources.found import Found, counted
from elfs_ray.data.text_tables import read_text_table, text_table_schema
from elfs_ray.errors import UsageError


class ManifestSource(Source):
    """Its rows, in order. Without a column of ids, the path is the id. Holds paths and ids in memory, as Arrow does."""

    kind = "manifest"
    carries_bytes = False

    def __init__(self, location: str, filesystem: pafs.FileSystem, info: pafs.FileInfo, wanted: Wanted) -> None:
        self.location, self._signature = location, files_signature([info])
        self._filesystem, self._path = filesystem, info.path
        schema = text_table_schema(location, filesystem, info)
        id_column = find_ids(location, schema, wanted.id_column)
        image_column = find_images(location, schema, wanted.image_column, paths_alone=True)
        columns = list(dict.fromkeys([image_column, id_column or image_column]))
        rows = read_text_table(location, filesystem, info, columns)
        self.count = rows.num_rows
        if self.count == 0:
            raise UsageError(f"{location} holds no rows; pass a table with images")
        self.found = Found(counted("rows", self.count))
        self._paths = rows[image_column].combine_chunks()
        self._ids = ids_of(rows[columns[-1]], f"column {columns[-1]!r} of {location}").combine_chunks()
        most = min(wanted.chunk_rows, FILES_IN_A_CHUNK)
        self.chunks = [
            Chunk(number, first, min(most, self.count - first), (info.path,))
            for number, first in enumerate(range(0, self.count, most))
        ]

    def signature(self) -> str:
        """Of the manifest; the images that it names are not looked at."""
        return self._signature

    def read(self, chunk: Chunk) -> pa.Table:
        """The file that each row names."""
        places, encoded = read_cells(self._paths.slice(chunk.first, chunk.rows), self._path, self.location)
        ids = self._ids.slice(chunk.first, chunk.rows).to_pylist()
        return table_of(chunk, ids, [str(place) for place in places], encoded)

    def columns(self) -> list[str] | None:
        """Of the manifest."""
        info = self._filesystem.get_file_info(self._path)
        return list(text_table_schema(self.location, self._filesystem, info).names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """A column of the manifest; an empty text says nothing."""
        info = self._filesystem.get_file_info(self._path)
        check_column(self.location, self.columns() or [], name)
        column = read_text_table(self.location, self._filesystem, info, [name])[name]
        values = as_text(column, f"column {name!r} of {self.location}").combine_chunks()
        return self._ids, pc.if_else(pc.equal(values, ""), None, values)
