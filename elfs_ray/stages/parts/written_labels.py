"""Labels as artifacts."""

import hashlib
import json

import pyarrow as pa

from elfs_ray.artifacts.schema import LABELS
from elfs_ray.artifacts.table import KEY, Part, Table
from elfs_ray.artifacts.writing import ranges_of_parts, write_index, write_part
from elfs_ray.data.labels import Labels


def write_labels(found: Labels, samples: Table, folder: str) -> str:
    """Write the label of each sample, -1 and no class name where it has none; returns what stands for the content."""
    names, parts = pa.array(found.classes, pa.string()), list[Part]()
    for start, stop in ranges_of_parts(samples.rows, LABELS):
        labels = found.numbers[start:stop]
        table = samples.read(start, stop, KEY).append_column("label", pa.array(labels))
        table = table.append_column("class_name", names.take(pa.array(labels, mask=labels < 0)))
        parts.append(write_part(samples.store, folder, len(parts), start, table, LABELS))
    write_index(samples.store, folder, parts, LABELS)
    content = hashlib.blake2b(json.dumps(found.classes).encode(), digest_size=16)
    content.update(found.numbers.data)
    return content.hexdigest()
