"""A manifest: a CSV, TSV or JSON-lines file that names an image on each row."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.columns import Wanted, as_strings, as_text, beside, check_column, find_ids, find_images, ids_of
from elfs_ray.data.listing import Entry
from elfs_ray.data.sources.base import FILES_IN_A_CHUNK, Facts, piece_of
from elfs_ray.data.sources.folder import FilesSource
from elfs_ray.data.text_tables import read_text_table, text_table_schema


class ManifestSource(FilesSource):
    """Its rows, in order. Without a column of ids, the path is the id. Who lists it holds its paths and ids."""

    kind = "manifest"
    small_bytes = 2**26  # it is read

    @classmethod
    def settle(cls, location: str, files: Sequence[Entry], wanted: Wanted) -> dict[str, Any]:
        """The columns of paths and ids."""
        filesystem, _ = filesystems.resolve(location)
        schema = text_table_schema(location, filesystem, filesystem.get_file_info(files[0].path))
        id_column = find_ids(location, schema, wanted.id_column)
        image_column = find_images(location, schema, wanted.image_column, paths_alone=True)
        return {
            "path": files[0].path,
            "image_column": image_column,
            "id_column": id_column or image_column,
            "chunk_entries": min(wanted.chunk_rows, FILES_IN_A_CHUNK),
        }

    def entries_of(self, files: Sequence[Entry]) -> tuple[pa.Table, Facts]:
        """An entry for each row; the files that rows name are not looked at."""
        [manifest], names = files, self.about.reading
        rows = self._read(list(dict.fromkeys([names["image_column"], names["id_column"]])))
        places = [
            beside(manifest.path, self.location, text) for text in as_strings(rows[names["image_column"]]).to_pylist()
        ]
        columns = {"id": self._ids(rows), "uri": places}
        return piece_of(columns, len(rows)), Facts(len(rows), len(rows), len(rows), {})

    def columns(self) -> list[str] | None:
        """Of the manifest."""
        return list(text_table_schema(self.location, self.filesystem, self._info).names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """A column of the manifest; an empty text says nothing."""
        check_column(self.location, self.columns() or [], name)
        rows = self._read(list(dict.fromkeys([name, self.about.reading["id_column"]])))
        values = as_text(rows[name], f"column {name!r} of {self.location}").combine_chunks()
        return self._ids(rows), pc.if_else(pc.equal(values, ""), None, values)

    @property
    def _info(self) -> pafs.FileInfo:
        return self.filesystem.get_file_info(self.about.reading["path"])

    def _read(self, columns: list[str]) -> pa.Table:
        return read_text_table(self.location, self.filesystem, self._info, columns)

    def _ids(self, rows: pa.Table) -> pa.Array:
        name = self.about.reading["id_column"]
        return ids_of(rows[name], f"column {name!r} of {self.location}").combine_chunks()
