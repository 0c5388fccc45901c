"""DLC: distorting-based learning complexity (Jiang et al., ICLR 2025, arXiv 2402.05356)."""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from elfs_ray.core.probe import learning_complexity
from elfs_ray.core.pruning import hardness_order
from elfs_ray.errors import UsageError
from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod, Share, given
from elfs_ray.methods.catalogue import about


@dataclass(frozen=True)
class Dlc(SelectionMethod):
    """Draw at random from a range of difficulty (FlexRand), measured without training.

    Attributes:
        capacities: classifiers of growing capacity.
        hardest: where the range begins, as a share of all samples from the hardest on.
        easiest: where it ends. The defaults take the hardest alone, as top-k does, once the range holds the budget.
    """

    capacities: PositiveInt = 10
    hardest: Share = 0.0
    easiest: Share = 0.0

    name, summary, source, needs = about("dlc")

    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Hardest of the drawn first. The score is the complexity."""
        count = len(inputs.ids)
        vectors, labels = given(inputs.embeddings), given(inputs.pseudo_labels)
        scores = learning_complexity(vectors, labels, rng, capacities=self.capacities)
        order = hardness_order(scores, inputs.ids, name="complexity")
        first = round(self.hardest * count)
        last = max(round(self.easiest * count), first + budget)
        if last > count:
            raise UsageError(
                f"select.options.hardest={self.hardest:g} leaves {count - first} of {count} samples, fewer than the "
                f"budget of {budget}; lower it"
            )
        drawn = np.sort(rng.choice(last - first, budget, replace=False)) + first
        return Selection(order[drawn], scores.astype(np.float32))
