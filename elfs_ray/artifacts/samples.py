"""The samples as a whole: their ids, what stands for their content, and facts that later stages go by."""

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.schema import shows_pictures
from elfs_ray.artifacts.table import Table

_MODULUS, _BASE = 2**127 - 1, 0x5BD1E995A7F3C1D94E6B2F8D03A1C7B5  # a prime, and any large number below it


def image_ids(*artifacts: Table) -> pa.ChunkedArray:
    """Ids of the images in artifacts, one after the other, text [n]."""
    columns = [artifact.read(columns=["sample_id"])["sample_id"] for artifact in artifacts]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())


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


def facts_of(samples: Table) -> dict[str, float]:
    """How many they are, and the median short side of the images in pixels (0 where embeddings stand for them)."""
    side = 0.0
    if shows_pictures(samples.schema):
        sizes = samples.read(columns=["width", "height"])
        side = float(np.median(np.minimum(sizes["width"].to_numpy(), sizes["height"].to_numpy())))
    return {"samples": samples.rows, "median_side": side}


def median_side(store: RunFolder) -> float:
    """The median short side of the candidates, as ingest found it."""
    side: float = store.records()[Unit("ingest")].metrics["median_side"]
    return side
