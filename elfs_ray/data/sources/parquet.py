"""Parquet tables of image bytes, or of paths."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from elfs_ray import storage
from elfs_ray.data.columns import Wanted, as_text, beside, check_column, find_ids, find_images, ids_of, is_text
from elfs_ray.data.files import files_signature, open_parquet, reading_parquet
from elfs_ray.data.sources.base import Chunk, Source, even_runs, read_files, table_of
from elfs_ray.errors import UsageError

CHUNKS_READ_TOGETHER = 8


class ParquetSource(Source):
    """The rows of one table, or of several in order of path."""

    kind = "parquet"

    def __init__(
        self,
        location: str,
        filesystem: pafs.FileSystem,
        files: list[pafs.FileInfo],
        wanted: Wanted,
    ) -> None:
        self.location, self._filesystem, self._signature = location, filesystem, files_signature(files)
        self.chunks, self.count = [], 0
        for info in files:
            self._add_file(info.path, wanted.chunk_rows)
        if self.count == 0:
            raise UsageError(f"{location} holds no rows; pass a table with images")
        schema = open_parquet(files[0].path, filesystem).schema_arrow
        self._id_column = find_ids(location, schema, wanted.id_column)
        self._image_column = find_images(location, schema, wanted.image_column)
        self.carries_bytes = not is_text(schema.field(self._image_column).type)

    def _add_file(self, path: str, chunk_rows: int) -> None:
        metadata = open_parquet(path, self._filesystem).metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            row_bytes = metadata.row_group(group).total_byte_size // max(rows, 1)
            for offset, size in even_runs(rows, row_bytes, chunk_rows):
                self.chunks.append(Chunk(len(self.chunks), self.count, size, (path,), group, offset))
                self.count += size

    def signature(self) -> str:
        """Of the files."""
        return self._signature

    def groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """Neighbours in one row group, whose rows have to be decoded from the first on."""
        groups: list[list[Chunk]] = []
        for chunk in chunks:
            last = groups[-1] if groups else []
            same = last and (last[0].paths, last[0].row_group) == (chunk.paths, chunk.row_group)
            if same and len(last) < CHUNKS_READ_TOGETHER:
                last.append(chunk)
            else:
                groups.append([chunk])
        return groups

    def read(self, chunk: Chunk) -> pa.Table:
        """Its rows."""
        return next(self.read_group([chunk]))

    def read_group(self, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
        """The table of each chunk, from one pass over their row group that holds few of its rows."""
        path, columns = chunks[0].paths[0], [self._image_column, *([self._id_column] if self._id_column else [])]
        with reading_parquet(path):
            file, group = open_parquet(path, self._filesystem), chunks[0].row_group
            batches = file.iter_batches(chunks[0].rows, row_groups=[group], columns=columns)
            held, start = pa.Table.from_batches([next(batches)]), 0
            for chunk in chunks:
                while start + held.num_rows < chunk.offset + chunk.rows:
                    passed = max(0, min(chunk.offset - start, held.num_rows))
                    held = pa.concat_tables([held.slice(passed), pa.Table.from_batches([next(batches)])])
                    start += passed
                yield self._table_of(chunk, path, held.slice(chunk.offset - start, chunk.rows))

    def columns(self) -> list[str] | None:
        """Of the first table."""
        path = self.chunks[0].paths[0]
        with reading_parquet(path):
            return list(open_parquet(path, self._filesystem).schema_arrow.names)

    def read_column(self, name: str) -> tuple[pa.Array, pa.Array]:
        """The columns of ids and labels of all tables."""
        ids, values, first = list[pa.ChunkedArray](), list[pa.ChunkedArray](), 0
        for path in dict.fromkeys(chunk.paths[0] for chunk in self.chunks):
            with reading_parquet(path):
                file = open_parquet(path, self._filesystem)
                check_column(path, file.schema_arrow.names, name)
                rows = file.read(columns=[name, *([self._id_column] if self._id_column else [])])
            ids.append(self._ids(path, rows, first))
            values.append(as_text(rows[name], f"column {name!r} of {path}"))
            first += rows.num_rows
        return pa.concat_arrays([one.combine_chunks() for one in ids]), pa.concat_arrays(
            [one.combine_chunks() for one in values]
        )

    def _ids(self, path: str, rows: pa.Table, first: int) -> pa.ChunkedArray:
        """Ids of rows of a table, of which the first stands at that position."""
        if self._id_column:
            return ids_of(rows[self._id_column], f"column {self._id_column!r} of {path}")
        name = path.rsplit("/", 1)[-1]
        return pa.chunked_array([[f"{name}#{number}" for number in range(first, first + rows.num_rows)]], pa.string())

    def _table_of(self, chunk: Chunk, path: str, rows: pa.Table) -> pa.Table:
        numbers, ids = range(chunk.first, chunk.first + chunk.rows), self._ids(path, rows, chunk.first).to_pylist()
        images = rows[self._image_column]
        if not self.carries_bytes:
            uris = [beside(path, self.location, text) for text in images.to_pylist()]
            return table_of(chunk, ids, uris, read_files(uris, self.location))
        if pa.types.is_struct(images.type):  # Hugging Face: {bytes, path}
            images = pc.struct_field(images, "bytes")
        encoded = [(data, None if data else "the image is empty (0 bytes)") for data in images.to_pylist()]
        uri = storage.uri_of(path, self.location)
        return table_of(chunk, ids, [f"{uri}#{number}" for number in numbers], encoded)
