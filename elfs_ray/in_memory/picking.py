"""From samples in memory to the positions of those to label: `elfs_ray.pick`."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from elfs_ray.config import RunConfig
from elfs_ray.console import Reporter
from elfs_ray.core.features import normalize_rows
from elfs_ray.core.groups import representatives
from elfs_ray.core.pruning import budget_count
from elfs_ray.core.seeds import derived_seed
from elfs_ray.errors import UsageError
from elfs_ray.methods import SelectionInputs, SelectionMethod, check_labeled, get_method, select_coreset
from elfs_ray.planning.auto_options import ON_EMBEDDINGS
from elfs_ray.stages.identity import check_num_classes, is_searched, method_of, uses_pseudo_labels
from elfs_ray.workers.hardware import Hardware, hardware_here


def pick_samples(X: Any, config: RunConfig, labeled: Any, groups: Any, reporter: Reporter) -> np.ndarray:
    """What `elfs_ray.pick` gives back, with its options in a configuration."""
    check_num_classes(config)
    _check_models(config)
    samples = _Samples(X, config, reporter)
    return _pick(samples, config, _labeled_mask(labeled, samples.count), groups)


class _Samples:
    """What is picked from.

    Attributes:
        count: n.
        config: of the pick.
        reporter: is told of progress.
    """

    def __init__(self, X: Any, config: RunConfig, reporter: Reporter) -> None:
        from elfs_ray.in_memory.images import as_images

        if isinstance(X, (str, bytes)) or not hasattr(X, "__len__"):
            raise UsageError(f"X is {X!r:.80}; pass a matrix or a list of images; for a folder, call elfs_ray.select")
        self.config, self.reporter = config, reporter
        self._images, self._halves = as_images(X), None
        if self._images is None:
            from elfs_ray.in_memory.vectors import as_unit_rows

            self._halves = as_unit_rows(X).vectors
        self.count = len(X)

    @property
    def halves(self) -> np.ndarray:
        """Embeddings of unit length, float16 [n, d]."""
        if self._halves is None:
            from elfs_ray.in_memory.images import embed_images

            images = self._images or []
            self._halves = embed_images(images, self.config, self.hardware, self.reporter).vectors
        return self._halves

    @property
    def hardware(self) -> Hardware:
        """This machine."""
        return hardware_here()


def _check_models(config: RunConfig) -> None:
    """Refuse networks on images: what is trained here sees embeddings."""
    for option, model in (("proxy.model", config.proxy.model), ("beta_search.model", config.beta_search.model)):
        if model not in ("auto", *ON_EMBEDDINGS):
            raise UsageError(f"{option}={model} trains on images, and pick on embeddings; use mlp")


class _Task(NamedTuple):
    """What one selection is about: some of the samples, and which of these have labels."""

    rows: np.ndarray
    labeled: np.ndarray | None


def _pick(samples: _Samples, config: RunConfig, labeled: np.ndarray | None, groups: Any) -> np.ndarray:
    """Positions of the picked samples, int64 [budget]."""
    task = _one_of_each(samples, labeled, groups)
    budget, method = budget_count(config.budgets[0], samples.count), method_of(config)
    if budget > len(task.rows):
        raise UsageError(
            f"the budget is {budget}, but the groups of {samples.count} samples give {len(task.rows)} (one for each, "
            "beside what has labels already); pass a smaller budget"
        )
    if task.labeled is not None:
        check_labeled(int(task.labeled.sum()), budget)
    if not method.requirements() and not uses_pseudo_labels(config):
        inputs = SelectionInputs(ids=np.arange(len(task.rows)), labeled=task.labeled)
    else:
        method, inputs = _computed(samples, config, method, task, budget)
    rng = np.random.default_rng(derived_seed(config.seed, f"coresets/{config.select.name}"))
    chosen = select_coreset(method, inputs, budget, rng, balance=config.select.balance).positions
    return task.rows[chosen]


def _computed(
    samples: _Samples, config: RunConfig, method: SelectionMethod, task: _Task, budget: int
) -> tuple[SelectionMethod, SelectionInputs]:
    """The method with the options that a search found or the user named, and what it selects from."""
    from elfs_ray.in_memory.computed import Computed
    from elfs_ray.in_memory.search import search

    computed = Computed(samples.halves[task.rows], config, samples.hardware, samples.reporter)
    inputs = computed.inputs(method, task.labeled)
    found: dict[str, Any] = {}
    if is_searched(config):
        found = search(computed, method, inputs, budget)
    elif method.searched:
        found = {"beta": config.select.beta}
    return get_method(config.select.method, **{**config.select.options, **found}), inputs


def _one_of_each(samples: _Samples, labeled: np.ndarray | None, groups: Any) -> _Task:
    """The samples that may be picked, and those with labels: of each group one at most."""
    count = samples.count
    if groups is None:
        return _Task(np.arange(count), labeled)
    if isinstance(groups, str) or len(groups) != count:
        raise UsageError(f"groups has {len(groups)} entries for {count} samples; pass a name or number for each")
    numbers, _ = pd.factorize(np.asarray(groups) if not isinstance(groups, pd.Series) else groups)
    alone = numbers < 0
    numbers = np.where(alone, numbers.max(initial=-1) + 1 + np.cumsum(alone), numbers).astype(np.int64)
    done = np.zeros(count, dtype=bool) if labeled is None else labeled
    rows = np.flatnonzero(~np.isin(numbers, numbers[done]))
    if len(rows):
        rows = rows[representatives(normalize_rows(samples.halves[rows]), numbers[rows])]
    rows = np.sort(np.concatenate([rows, np.flatnonzero(done)]))
    return _Task(rows, None if labeled is None else labeled[rows])


def _labeled_mask(labeled: Any, count: int) -> np.ndarray | None:
    """Which samples have labels already, bool [n].

    Raises:
        UsageError: neither a mask of all samples nor positions among them.
    """
    if labeled is None:
        return None
    values = np.asarray(labeled.detach().cpu() if hasattr(labeled, "detach") else labeled)
    if values.dtype == bool:
        if values.shape != (count,):
            raise UsageError(f"labeled is a mask of shape {values.shape} for {count} samples; pass a bool for each")
        return values
    if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
        raise UsageError(f"labeled holds {values.dtype} of shape {values.shape}; pass positions in X, or a mask")
    outside = values[(values < 0) | (values >= count)]
    if len(outside):
        raise UsageError(f"labeled names the sample {outside[0]}, but X has the samples 0 to {count - 1}")
    mask = np.zeros(count, dtype=bool)
    mask[values.astype(np.int64)] = True
    return mask
