"""Exact neighbours on a GPU: products in bfloat16 find more candidates than asked for, float32 ranks them.

Symbols: n rows, d dimensions, q queries, k neighbours.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

# Rows whose similarities are held at once, and queries whose candidates are ranked at once.
BLOCK_COLUMNS, RANKED_QUERIES = 131_072, 512


class ProductIndex:
    """A flat inner-product index in torch, with the interface of a faiss index.

    Rounding to bfloat16 moves a similarity of unit vectors by about 1e-4; the sums are float32. So the true neighbours
    are among a few more candidates, and the ranking of these is exact.
    """

    def __init__(self, vectors: Float32[np.ndarray, "n d"], device: torch.device, *, spare: float = 1.0) -> None:
        """Index rows of unit length.

        Args:
            vectors: float32 [n, d].
            device: where the products run; on a CPU the rounding is the same, but faiss is faster.
            spare: candidates beyond k, as a multiple of k.
        """
        self._vectors = torch.tensor(vectors, device=device)
        self._rounded = self._vectors.to(torch.bfloat16)
        self._spare = spare

    @property
    def ntotal(self) -> int:
        """Rows in the index."""
        return len(self._vectors)

    @torch.inference_mode()
    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q {k}"], Int64[np.ndarray, "q {k}"]]:
        """The k most similar rows of each query, best first, equal ones in order of row.

        Args:
            queries: float32 [q, d].
            k: at most n.

        Returns:
            Similarity float32 [q, k] and rows int64 [q, k].
        """
        wanted = torch.tensor(queries, device=self._vectors.device)
        candidates = self._candidates(wanted.to(torch.bfloat16), min(self.ntotal, k + round(self._spare * k)))
        parts = zip(wanted.split(RANKED_QUERIES), candidates.split(RANKED_QUERIES), strict=True)
        ranked = [self._rank(*part, k) for part in parts]
        similarity, rows = (torch.cat(columns).cpu().numpy() for columns in zip(*ranked, strict=True))
        return similarity, rows

    def _candidates(self, queries: Tensor, count: int) -> Tensor:
        """Rows of the best rounded products, int64 [q, count], in ascending order."""
        best = torch.empty(len(queries), 0, device=queries.device)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, self.ntotal, BLOCK_COLUMNS):
            block = self._rounded[start : start + BLOCK_COLUMNS]
            values, found = _products(queries, block).topk(min(count, len(block)), dim=1)
            values, found = torch.cat([best, values], dim=1), torch.cat([rows, found + start], dim=1)
            best, kept = values.topk(min(count, values.shape[1]), dim=1)
            rows = found.gather(1, kept)
        return rows.sort(dim=1).values

    def _rank(self, queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Exact similarities of the candidates, and the best k of them."""
        exact = torch.einsum("qd,qcd->qc", queries, self._vectors[candidates])
        values, order = exact.sort(dim=1, descending=True, stable=True)
        return values[:, :k], candidates.gather(1, order)[:, :k]


def _products(queries: Tensor, block: Tensor) -> Tensor:
    """Products of bfloat16 values [q, d] and [m, d], summed in float32, [q, m]."""
    if queries.is_cuda:
        return torch.mm(queries, block.T, out_dtype=torch.float32)
    return queries.float() @ block.float().T
