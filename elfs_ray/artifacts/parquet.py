"""The form of every Parquet file that a run writes."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 8192
"""Who reads some rows of a large part reads the groups that hold them, not the part."""
IMAGE_GROUP_ROWS, IMAGE_GROUP_BYTES = 1024, 32 * 2**20
"""Groups of images, encoded or as pixels, hold fewer."""


class Encoded(NamedTuple):
    """A Parquet file in memory.

    Attributes:
        data: its bytes.
        group: rows of each of its row groups but the last.
    """

    data: pa.Buffer
    group: int


def encode(table: pa.Table, schema: pa.Schema) -> Encoded:
    """A table as a Parquet file, with the columns of `schema` and cast to it.

    Raises:
        ValueError: the table lacks a column, or a column that may not be null holds nulls.
    """
    table = table.select(schema.names).cast(schema)
    group = ROW_GROUP_ROWS
    if any(pa.types.is_binary(field.type) for field in schema):
        group = max(1, min(IMAGE_GROUP_ROWS, IMAGE_GROUP_BYTES * len(table) // max(1, table.nbytes)))
    for field in schema:
        if pa.types.is_fixed_size_binary(field.type):
            group = max(1, min(IMAGE_GROUP_ROWS, IMAGE_GROUP_BYTES // field.type.byte_width))
    sink = pa.BufferOutputStream()
    columns = _columns_that_repeat(schema)
    pq.write_table(table, sink, compression="zstd", row_group_size=group, use_dictionary=columns)
    return Encoded(sink.getvalue(), group)


def _columns_that_repeat(schema: pa.Schema) -> list[str]:
    """Parquet's names of all columns but pixels and vectors of fractions, slow to read as codes."""
    lists = {field.name: field.type.value_type for field in schema if pa.types.is_fixed_size_list(field.type)}
    alone = {name for name, value in lists.items() if pa.types.is_floating(value)}
    alone |= {field.name for field in schema if pa.types.is_fixed_size_binary(field.type)}
    return [f"{name}.list.element" if name in lists else name for name in schema.names if name not in alone]
