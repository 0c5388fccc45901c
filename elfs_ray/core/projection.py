"""Embeddings as points in the plane, for a person to look at.

Symbols: n rows, d dimensions.
"""

import numpy as np
from jaxtyping import Float32

from elfs_ray.core.components import PrincipalComponents

COMPONENTS = 50
PERPLEXITY = 30
# Fewer than the library's 250 and 500: a map to look at has its final form by then.
EXAGGERATED_STEPS, STEPS = 150, 350
MIN_ROWS = 12


def principal_plane(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n 2"]:
    """The two leading principal components, float32 [n, 2]; zeros where the vectors have fewer."""
    dim = min(2, *vectors.shape)
    plane = np.zeros((len(vectors), 2), dtype=np.float32)
    plane[:, :dim] = PrincipalComponents(vectors, dim).project(vectors)
    return plane


def neighbor_map(vectors: Float32[np.ndarray, "n d"], seed: int, threads: int) -> Float32[np.ndarray, "n 2"]:
    """A map that keeps neighbours together, float32 [n, 2]: t-SNE (van der Maaten and Hinton, JMLR 2008).

    On 50 principal components, and begun with the first two, so that far groups keep their places (Kobak and Berens,
    Nature Communications 2019). Fewer than a dozen rows are given as their principal plane.

    Args:
        vectors: float32 [n, d].
        seed: of what is drawn in the search of neighbours.
        threads: to compute with; their number moves the points by rounding.
    """
    from openTSNE import TSNE  # takes a second, and brings pyarrow
    from openTSNE.affinity import PerplexityBasedNN

    if len(vectors) < MIN_ROWS:
        return principal_plane(vectors)
    components = PrincipalComponents(vectors, min(COMPONENTS, *vectors.shape)).project(vectors)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    affinities = PerplexityBasedNN(components, perplexity=perplexity, n_jobs=threads, random_state=seed)
    start = principal_plane(components).astype(np.float64)
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)
    search = TSNE(early_exaggeration_iter=EXAGGERATED_STEPS, n_iter=STEPS, n_jobs=threads, random_state=seed)
    return np.asarray(search.fit(affinities=affinities, initialization=start), dtype=np.float32)
