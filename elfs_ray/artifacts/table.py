"""Reading artifacts as arrays, for the stages that compute on them."""

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.schema import shows_pictures

KEY = ["sample_id", "index"]
_MODULUS, _BASE = 2**127 - 1, 0x5BD1E995A7F3C1D94E6B2F8D03A1C7B5  # a prime, and any large number below it


def read_keys(store: RunFolder, artifact: str = "samples") -> pa.Table:
    """`sample_id` and `index` of every sample, in order of `index`."""
    return store.read_table(artifact, columns=KEY)


def read_ids(store: RunFolder, *artifacts: str) -> list[str]:
    """Ids in artifacts, one after the other."""
    return [
        each for name in artifacts for each in store.read_table(name, columns=["sample_id"])["sample_id"].to_pylist()
    ]


def read_vectors(store: RunFolder, artifact: str = "embeddings", start: int = 0, stop: int | None = None) -> np.ndarray:
    """Embeddings of the samples start..stop-1, float16 [rows, d]."""
    rows = None if stop is None else (pc.field("index") >= start) & (pc.field("index") < stop)
    return fixed_size_matrix(store.read_table(artifact, columns=["vector"], rows=rows)["vector"])


def read_vectors_at(store: RunFolder, positions: np.ndarray, artifact: str = "embeddings") -> np.ndarray:
    """Embeddings of some samples, float16 [n, d]; `positions` int64 [n] in ascending order."""
    rows = pc.field("index").isin(pa.array(positions))
    return fixed_size_matrix(store.read_table(artifact, columns=["vector"], rows=rows)["vector"])


def read_column(store: RunFolder, artifact: str, column: str) -> np.ndarray:
    """One scalar column of an artifact, in order of `index`."""
    return store.read_table(artifact, columns=[column])[column].to_numpy()


def median_side(store: RunFolder, artifact: str = "samples") -> float:
    """Median short side of the images, pixels; 0 where embeddings stand for them."""
    if not shows_pictures(store.dataset(artifact).schema):
        return 0.0
    sizes = store.read_table(artifact, columns=["width", "height"])
    return float(np.median(np.minimum(sizes["width"].to_numpy(), sizes["height"].to_numpy())))


def read_dynamics(store: RunFolder, artifact: str = "dynamics") -> dict[str, np.ndarray]:
    """Every score of the training dynamics by name, each [N]."""
    table = store.read_table(artifact)
    return {name: table[name].to_numpy() for name in table.column_names if name not in KEY}


def fixed_size_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed-size-list column as a matrix [rows, width]."""
    width = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, width), column.type.value_type.to_pandas_dtype())


def matrix_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """A matrix [rows, width] as a fixed-size-list column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def part_name(number: int) -> str:
    """File name of a part of an artifact; parts sort in order of number."""
    return f"part-{number:06d}.parquet"


def samples_content(samples: pa.Table) -> int:
    """What stands for the ids, places and hashes of some samples: all that later stages read of them, or rest on.

    A polynomial over the samples' hashes, with `index` as the exponent: `join_contents` adds up those of all parts to
    the same sum, whatever parts the samples are cut into.
    """
    names = [name for name in ("sample_id", "uri", "content_hash") if name in samples.column_names]
    power, total = pow(_BASE, samples["index"][0].as_py(), _MODULUS) if len(samples) else 1, 0
    for row in zip(*(samples[name].to_pylist() for name in names), strict=True):
        digest = hashlib.blake2b(json.dumps(row).encode(), digest_size=15).digest()
        total = (total + int.from_bytes(digest) * power) % _MODULUS
        power = power * _BASE % _MODULUS
    return total


def join_contents(parts: Iterable[int]) -> str:
    """The content of all samples, from those of their parts."""
    return f"{sum(parts) % _MODULUS:032x}"
