"""Small pictures of samples, inlined into the page."""

import base64
import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from elfs_ray.data.files import read_uri
from elfs_ray.data.images import ImageError, decode
from elfs_ray.schema import shows_pictures
from elfs_ray.store import Store

SIDE = 96
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Thumbnail:
    """A picture of one sample; `data` is empty when the image cannot be read any more."""

    sample_id: str
    caption: str
    data: str


def make_thumbnails(store: Store, captions: dict[int, str]) -> list[Thumbnail]:
    """Pictures of the samples with the given indices, in their order; index -> caption."""
    dataset = store.dataset("samples")
    if not shows_pictures(dataset.schema):
        return []
    column = "image" if "image" in dataset.schema.names else "uri"
    wanted = pc.field("index").isin(pa.array(list(captions), pa.int64()))
    rows = dataset.to_table(columns=["index", "sample_id", column], filter=wanted).to_pylist()
    by_index = {row["index"]: row for row in rows}
    location = store.manifest()["input"]
    return [
        Thumbnail(by_index[index]["sample_id"], caption, _encode(by_index[index][column], location))
        for index, caption in captions.items()
        if index in by_index
    ]


def _encode(source: bytes | str, location: str) -> str:
    """A JPEG as a data URI."""
    try:
        image = decode(source if isinstance(source, bytes) else read_uri(source, location), max_pixels=MAX_PIXELS)
    except (ImageError, OSError):
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
