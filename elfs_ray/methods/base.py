"""The contract of a selection method: what it needs, and a ranking of the samples it selects."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped
from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from elfs_ray.core.pruning import check_scores
from elfs_ray.core.scores import Score
from elfs_ray.errors import UsageError, wrong_value
from elfs_ray.methods.catalogue import Needs

AUTO: Literal["auto"] = "auto"
Count = PositiveInt | Literal["auto"]
"""An option that fits itself to the samples unless it is named."""
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
_validator: Callable[[Any], Any] = cache(TypeAdapter)


@dataclass(frozen=True)
class SelectionInputs:
    """What a method selects from; n samples. Only what the method declares in `needs` is given.

    Attributes:
        ids: of the samples, int64 [n]; ties go to the smaller id.
        embeddings: rows of unit length, float32 [n, d].
        neighbor_ids: positions of other samples, int64 [n, k], most similar first.
        neighbor_similarity: float32 [n, k].
        pseudo_labels: int32 [n].
        dynamics: scores by name, each [n] (`core.dynamics.DynamicsAccumulator.finalize`).
        labeled: samples that have labels already, bool [n]: never selected, and covered for methods that cover.

    Raises:
        UsageError: there are no samples, the row counts differ, or a value is not a number.
    """

    # The rows of the others are `_`, not n: it is `__post_init__` that refuses differing counts, for the user to read.
    ids: Int64[np.ndarray, " n"]
    embeddings: Float32[np.ndarray, "_ d"] | None = None
    neighbor_ids: Int64[np.ndarray, "_ k"] | None = None
    neighbor_similarity: Float32[np.ndarray, "_ k"] | None = None
    pseudo_labels: Int32[np.ndarray, " _"] | None = None
    dynamics: Mapping[str, Shaped[np.ndarray, " _"]] | None = None
    labeled: Bool[np.ndarray, " _"] | None = None

    def __post_init__(self) -> None:
        """Check that all arrays describe the same samples."""
        check_scores(self.ids, "ids")
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "dynamics"}
        arrays.update(self.dynamics or {})
        for name, values in arrays.items():
            if values is None:
                continue
            if len(values) != len(self.ids):
                raise UsageError(f"{name} has {len(values)} rows, but there are {len(self.ids)} samples")
            check_scores(values.sum(axis=1) if values.ndim > 1 else values, name)

    def take(self, rows: Int64[np.ndarray, " m"]) -> "SelectionInputs":
        """The inputs of some samples, int64 [m]; a neighbour that is not among them sends and gets no message."""

        def part(values: Shaped[np.ndarray, "n ..."] | None) -> Shaped[np.ndarray, "m ..."] | None:
            return None if values is None else values[rows]

        neighbor_ids, similarity = part(self.neighbor_ids), part(self.neighbor_similarity)
        if neighbor_ids is not None and similarity is not None:
            position = np.full(len(self.ids), -1)
            position[rows] = np.arange(len(rows))
            neighbor_ids = position[neighbor_ids]
            outside = neighbor_ids < 0
            neighbor_ids = np.where(outside, np.arange(len(rows))[:, None], neighbor_ids)
            similarity = np.where(outside, np.float32(-np.inf), similarity)
        return SelectionInputs(
            ids=self.ids[rows],
            embeddings=part(self.embeddings),
            neighbor_ids=neighbor_ids,
            neighbor_similarity=similarity,
            pseudo_labels=part(self.pseudo_labels),
            dynamics=None if self.dynamics is None else {name: values[rows] for name, values in self.dynamics.items()},
            labeled=part(self.labeled),
        )

    @property
    def num_open(self) -> int:
        """Samples that may be selected."""
        return len(self.ids) if self.labeled is None else int((~self.labeled).sum())


@dataclass(frozen=True)
class Selection:
    """What a method selected.

    Attributes:
        positions: of the selected samples in rank order, best first, int64 [budget].
        scores: of all samples, float32 [n], in the method's own unit.
    """

    positions: Int64[np.ndarray, " budget"]
    scores: Float32[np.ndarray, " n"]


@dataclass(frozen=True)
class SelectionMethod(ABC):
    """One way to select. Its options are its dataclass fields, with defaults; pydantic checks their types and ranges.

    A package adds a method by a subclass under the entry point group `elfs_ray.methods`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[Needs]]
    searched: ClassVar[bool] = False  # has options that the search finds for each budget: see `candidates`
    takes_first_within_noise: ClassVar[bool] = False  # the search takes an earlier candidate that is about as good
    balanced: ClassVar[bool] = False  # does better with a share of the budget for each cluster
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)  # in methods of other packages
    knows_labeled: ClassVar[bool] = False  # sees the samples with labels, as covered; others are not shown them

    @abstractmethod
    def select(self, inputs: SelectionInputs, budget: int, rng: np.random.Generator) -> Selection:
        """Select exactly `budget` of the samples, 1 to `num_open`.

        Called through `select_coreset`, which passes the rows in ascending order of id: neither the draws nor the sums
        of floats depend on the order of the user's rows.

        Raises:
            UsageError: an option does not fit the samples or the budget.
        """

    def requirements(self) -> frozenset[Needs]:
        """What these options need: `needs`, and more where an option asks for it."""
        return self.needs

    def check_sizes(self, num_samples: int, num_neighbors: int) -> None:  # noqa: B027 - most have no such option
        """Refuse options that do not fit so many samples, or so many neighbours of each, before they are computed.

        Raises:
            UsageError: with the option, its value, and the largest that fits.
        """

    def candidates(self, betas: Sequence[float]) -> list[dict[str, Any]]:
        """The options that the search tries, simplest first; `betas` leave room for the budget."""
        return [{"beta": beta} for beta in betas] if self.searched else [{}]

    def chosen(self) -> "SelectionMethod":
        """The method that selects: itself, but for one that chooses among several."""
        return self

    def capacity(self, num_samples: int) -> int:
        """How many of so many samples it can select at most."""
        return num_samples

    def fitted(self, num_samples: int, budget: int) -> "SelectionMethod":
        """The method with options that leave room for a budget, where rounding in a small cluster leaves none."""
        return self

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> "SelectionMethod":
        """Build the method from named options.

        Raises:
            UsageError: an option that the method does not have, or a value of a wrong type or out of range.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"
                raise UsageError(f"method {cls.name!r} has no option {name!r}; {hint}")
        try:
            return _validator(cls).validate_python(dict(options))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            cause = problem.get("ctx", {}).get("error")
            if isinstance(cause, UsageError):  # from a method's own check
                raise cause from None
            name = str(problem["loc"][0]) if problem["loc"] else ""
            raise UsageError(f"method {cls.name!r}: {wrong_value(name, problem)}") from None


@dataclass(frozen=True)
class DropsHardest(SelectionMethod):
    """Base of the methods that drop the hardest beta N first.

    Attributes:
        score: of the training dynamics: aum, aum_logit, forgetting, el2n, entropy, dual, dyn_unc or tdds.
        beta: share of the hardest to drop, found by the beta search.
    """

    score: Score = "aum"
    beta: ShareBelowOne = 0.0

    needs = frozenset({Needs.DYNAMICS})
    searched = True
    balanced = True

    def capacity(self, num_samples: int) -> int:
        """All but the hardest beta N."""
        return num_samples - round(self.beta * num_samples)

    def fitted(self, num_samples: int, budget: int) -> "DropsHardest":
        """With a smaller beta where the budget would not fit."""
        if budget <= self.capacity(num_samples):
            return self
        return replace(self, beta=(num_samples - budget) / num_samples)


def check_neighbors(asked: int | str, found: int) -> None:
    """Refuse an option `num_neighbors` that names more neighbours than are found.

    Raises:
        UsageError: it does.
    """
    if asked != AUTO and int(asked) > found:
        raise UsageError(
            f"select.options.num_neighbors is {asked}, but only {found} neighbours of each image are found; "
            "use a smaller one or a larger neighbors.k"
        )


def given(values: np.ndarray | None) -> np.ndarray:
    """An input that the method declared, and so was given."""
    if values is None:
        raise TypeError("an input that the method declares in `requirements` was not given")
    return values


def check_budget(budget: int, num_samples: int) -> None:
    """Refuse a budget that the samples cannot meet."""
    if not 1 <= budget <= num_samples:
        raise UsageError(f"budget {budget} does not fit {num_samples} samples; pass 1 to {num_samples}")
