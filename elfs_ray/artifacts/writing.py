"""Writing artifacts: parts of about `PART_BYTES`, and the index that is written when all of them are there.

Tasks write parts and return what the index says of them; who gave out the tasks writes the index, and reads nothing.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence

import pyarrow as pa

from elfs_ray.artifacts.parquet import ROW_GROUP_ROWS, encode
from elfs_ray.artifacts.run_folder import INDEX_FILE, RunFolder
from elfs_ray.artifacts.table import Part, Table

PART_BYTES = 120 * 2**20
"""In memory, of a part of an artifact. Who writes one holds it and its file, whose buffer doubles at 128 MiB."""


def part_name(number: int) -> str:
    """File name of a part of an artifact; parts sort in order of number."""
    return f"part-{number:06d}.parquet"


def write_part(store: RunFolder, folder: str, number: int, first: int, table: pa.Table, schema: pa.Schema) -> Part:
    """Write one part, cast to `schema`, so that it appears whole or not at all.

    Args:
        store: the run folder.
        folder: of the artifact, below the run folder.
        number: of the part.
        first: number of its first row.
        table: its rows.
        schema: of the artifact.

    Returns:
        What the index says of it.
    """
    data, group = encode(table, schema)
    store.write_bytes(data, folder, part_name(number))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Part(first, len(table), group, data.size, digest, part_name(number))


def write_index(store: RunFolder, folder: str, parts: Iterable[Part], schema: pa.Schema) -> Table:
    """Write the index of parts that are all there, in any order; returns the artifact.

    Raises:
        ValueError: rows are missing between two parts, or stand in both.
    """
    in_order, rows = sorted(parts), 0
    for part in in_order:
        if part.first != rows:
            raise ValueError(f"{folder}/{part.name} begins with row {part.first}, not {rows}")
        rows += part.rows
    if not in_order:
        raise ValueError(f"{folder} has no part")
    layout = base64.b64encode(schema.serialize()).decode()
    store.write_json({"schema": layout, "parts": [part._asdict() for part in in_order]}, folder, INDEX_FILE)
    return Table(store, folder)


def write_table(store: RunFolder, folder: str, table: pa.Table, schema: pa.Schema) -> Table:
    """Write an artifact of one part; returns it. Raises as `RunFolder.write_table`."""
    return write_index(store, folder, [write_part(store, folder, 0, 0, table, schema)], schema)


def write_tables(store: RunFolder, folder: str, tables: Iterable[pa.Table], schema: pa.Schema) -> Table:
    """Write an artifact of tables that come one after the other, in parts of about `PART_BYTES`; returns it."""
    parts, held, first = list[Part](), list[pa.Table](), 0

    def write() -> None:
        nonlocal first
        joined = pa.concat_tables(held) if held else schema.empty_table()
        parts.append(write_part(store, folder, len(parts), first, joined, schema))
        first += len(joined)
        held.clear()

    for table in tables:
        if held and sum(each.nbytes for each in held) + table.nbytes > PART_BYTES:
            write()
        held.append(table)
    if held or not parts:
        write()
    return write_index(store, folder, parts, schema)


def row_bytes(schema: pa.Schema) -> int:
    """Bytes of a row in memory, of lists and numbers exactly, of other columns about."""

    def of(kind: pa.DataType) -> int:
        if pa.types.is_fixed_size_list(kind):
            return kind.list_size * of(kind.value_type)
        return kind.bit_width // 8 if pa.types.is_primitive(kind) else 64

    return sum(of(field.type) for field in schema)


def ranges_of_parts(rows: int, schema: pa.Schema) -> list[tuple[int, int]]:
    """First row of each part, and the row after its last; parts are whole row groups of rows that take the same."""
    step = max(1, PART_BYTES // row_bytes(schema) // ROW_GROUP_ROWS) * ROW_GROUP_ROWS
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def grouped(sizes: Sequence[int]) -> list[range]:
    """Neighbours of these sizes, in bytes, that make a part together: of at most `PART_BYTES`, or a single one."""
    groups, first, held = list[range](), 0, 0
    for number, size in enumerate(sizes):
        if number > first and held + size > PART_BYTES:
            groups.append(range(first, number))
            first, held = number, 0
        held += size
    return [*groups, range(first, len(sizes))] if sizes else []
