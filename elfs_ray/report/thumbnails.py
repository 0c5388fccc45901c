"""Small pictures of samples, inlined into the page."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.schema import shows_pictures
from elfs_ray.artifacts.table import KEY, Table
from elfs_ray.config import IngestConfig
from elfs_ray.data.files import map_files
from elfs_ray.data.images import load_image
from elfs_ray.errors import UsageError

SIDE = 96


@dataclass(frozen=True)
class Thumbnail:
    """A picture of one sample; `data` is empty when the image cannot be read any more."""

    sample_id: str
    caption: str
    data: str


class Pictures:
    """Makes pictures until their bytes are spent, so that a page stays small whatever a run holds.

    Attributes:
        possible: False where embeddings stand for images; then none are made.
    """

    def __init__(self, store: RunFolder, most_bytes: int) -> None:
        self._samples = Table(store, "samples")
        self.possible = shows_pictures(self._samples.schema)
        self._left = most_bytes if self.possible else 0
        self._column = "image" if "image" in self._samples.schema.names else "uri"
        manifest = store.manifest()
        self._location = manifest["input"]
        self._max_pixels = manifest["config"].get("ingest", {}).get("max_pixels", IngestConfig().max_pixels)

    def make(self, captions: Mapping[int, str], side: int = SIDE) -> list[Thumbnail]:
        """Pictures of the samples with the given indices, in their order, as long as bytes are left.

        Args:
            captions: index -> caption.
            side: pixels of the longer side.
        """
        if not captions or self._left <= 0:
            return []
        rows = self._samples.take(np.sort(list(captions)), [*KEY, self._column]).to_pylist()
        by_index = {row["index"]: row for row in rows}
        found = [by_index[index] for index in captions]
        texts = map_files(lambda row: self._encode(row[self._column], side), self._location, found)
        made: list[Thumbnail] = []
        for row, text in zip(found, texts, strict=True):
            self._left -= len(text)
            if self._left <= 0:
                break
            made.append(Thumbnail(row["sample_id"], captions[row["index"]], text))
        return made

    def _encode(self, source: bytes | str, side: int) -> str:
        """A JPEG as a data URI; nothing where the image cannot be read any more."""
        try:
            image = load_image(source, self._location, self._max_pixels, 2 * side)
        except (OSError, pa.ArrowInvalid, UsageError):  # the last two: the place cannot be one
            return ""
        if isinstance(image, str):
            return ""
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
