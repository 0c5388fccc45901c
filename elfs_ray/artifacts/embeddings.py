"""The embeddings as all stages read them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from elfs_ray.artifacts.table import Table, fixed_size_matrix
from elfs_ray.core.features import normalize_rows


@dataclass(frozen=True)
class Embeddings(Table):
    """The vectors of all samples: stored at unit length in half precision, and read as float32 of unit length."""

    name: str = "embeddings"

    @property
    def dim(self) -> int:
        """Values of a vector."""
        width: int = self.schema.field("vector").type.list_size
        return width

    def unit_vectors(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Of the samples start..stop-1, float32 [stop - start, d]."""
        return normalize_rows(self.matrix("vector", start, stop))

    def unit_vectors_at(self, positions: np.ndarray) -> np.ndarray:
        """Of some samples, float32 [n, d]; `positions` as for `take`."""
        return normalize_rows(self.matrix_at("vector", positions))

    def chunks(self, start: int, stop: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of the samples start..stop-1, so many at a time: as stored, float16 [n, d], and as `unit_vectors`."""
        for first in range(start, stop, rows):
            halves = self.matrix("vector", first, min(first + rows, stop))
            yield halves, normalize_rows(halves)

    def mapped_unit_vectors(self) -> np.ndarray:
        """Of all samples, float32 [rows, d], shared as `mapped` says."""
        return self.derived(
            "unit", lambda: (normalize_rows(fixed_size_matrix(batch["vector"])) for batch in self.batches(["vector"]))
        )

    def mapped_components(self, dim: int) -> np.ndarray:
        """The leading principal components of the unit vectors, float32 [rows, dim], shared as `mapped` says.

        Args:
            dim: components to keep; 0: the unit vectors as they are.
        """
        if not dim:
            return self.mapped_unit_vectors()

        def reduced() -> Iterator[np.ndarray]:
            from elfs_ray.core.components import SAMPLE_ROWS, PrincipalComponents, sample_for_components

            components = PrincipalComponents(self.unit_vectors_at(sample_for_components(self.rows)), dim)
            for _, vectors in self.chunks(0, self.rows, SAMPLE_ROWS):
                yield components.project(vectors)

        return self.derived(f"components-{dim}", reduced)
