"""The selection methods by name, and what each says of itself: the ones here, and those that other packages add.

The entries do not stand in the methods' files, as one might expect, because the command line, its help and the shell's
completion need all of them and must not import what computes. A class takes its own from here (`about`).
"""

import difflib
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from elfs_ray.errors import UsageError

if TYPE_CHECKING:
    from elfs_ray.methods.base import SelectionMethod

ENTRY_POINT_GROUP = "elfs_ray.methods"


class Needs(StrEnum):
    """What a method may ask for beside the samples themselves."""

    EMBEDDINGS = "embeddings"
    NEIGHBORS = "neighbors"
    PSEUDO_LABELS = "pseudo-labels"
    DYNAMICS = "dynamics"


@dataclass(frozen=True)
class Entry:
    """A method as it is listed.

    Attributes:
        name: on the command line.
        summary: what it selects.
        source: the paper.
        needs: what it needs whatever its options.
        place: MODULE:CLASS.
    """

    name: str
    summary: str
    source: str
    needs: frozenset[Needs]
    place: str


BUILT_IN = (
    Entry(
        name="random",
        summary="uniform draw; the baseline",
        source="-",
        needs=frozenset(),
        place="elfs_ray.methods.random:Random",
    ),
    Entry(
        name="stratified",
        summary="uniform draw with its share for each of many regions of the embeddings",
        source="Cochran, Sampling Techniques, 1977",
        needs=frozenset({Needs.EMBEDDINGS}),
        place="elfs_ray.methods.stratified:Stratified",
    ),
    Entry(
        name="elfs",
        summary="drop the hardest beta N by training dynamics on pseudo-labels, keep the next hardest",
        source="Zheng et al., ICLR 2025",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.elfs:Elfs",
    ),
    Entry(
        name="mixed",
        summary="as elfs, but a share of the coreset (half) is drawn at random from all others",
        source="-",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.mixed:Mixed",
    ),
    Entry(
        name="ccs",
        summary="drop the hardest beta N, draw evenly over the range of difficulty",
        source="Zheng et al., ICLR 2023",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.ccs:Ccs",
    ),
    Entry(
        name="aum",
        summary="smallest area under the margin of probabilities",
        source="Pleiss et al., NeurIPS 2020",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.hardest:Aum",
    ),
    Entry(
        name="forgetting",
        summary="most often forgotten during training",
        source="Toneva et al., ICLR 2019",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.hardest:Forgetting",
    ),
    Entry(
        name="el2n",
        summary="largest error norm in the first epochs",
        source="Paul et al., NeurIPS 2021",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.hardest:El2n",
    ),
    Entry(
        name="entropy",
        summary="largest entropy of the prediction at the end",
        source="Coleman et al., ICLR 2020",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.hardest:Entropy",
    ),
    Entry(
        name="dyn_unc",
        summary="most variable probability of the label over training",
        source="He et al., CVPR 2024",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.hardest:DynUnc",
    ),
    Entry(
        name="tdds",
        summary="largest deviation of the prediction's change, late epochs counting most",
        source="Zhang et al., CVPR 2024",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.hardest:Tdds",
    ),
    Entry(
        name="dual",
        summary="difficulty times uncertainty early in training; easier samples for smaller budgets",
        source="Cho et al., 2025, arXiv 2502.06905",
        needs=frozenset({Needs.DYNAMICS}),
        place="elfs_ray.methods.dual:Dual",
    ),
    Entry(
        name="d2",
        summary="the densest of the neighbour graph, discounting the neighbours of each taken sample",
        source="Maharana et al., ICLR 2024",
        needs=frozenset({Needs.NEIGHBORS}),
        place="elfs_ray.methods.d2:D2",
    ),
    Entry(
        name="zcore",
        summary="cover random low-dimensional views of the embeddings, penalise redundancy",
        source="Griffin et al., arXiv 2411.15349",
        needs=frozenset({Needs.EMBEDDINGS}),
        place="elfs_ray.methods.zcore:ZCore",
    ),
    Entry(
        name="kcenter",
        summary="the sample farthest from all taken ones, again and again",
        source="Sener and Savarese, ICLR 2018",
        needs=frozenset({Needs.EMBEDDINGS}),
        place="elfs_ray.methods.kcenter:KCenter",
    ),
    Entry(
        name="typiclust",
        summary="the samples with the nearest neighbours, one cluster after the other; for small budgets",
        source="Hacohen et al., ICML 2022, arXiv 2202.02794",
        needs=frozenset({Needs.EMBEDDINGS, Needs.NEIGHBORS}),
        place="elfs_ray.methods.typiclust:TypiClust",
    ),
    Entry(
        name="prototypicality",
        summary="farthest from (or nearest to) the centroid of its k-means cluster",
        source="Sorscher et al., NeurIPS 2022",
        needs=frozenset({Needs.EMBEDDINGS}),
        place="elfs_ray.methods.prototypicality:Prototypicality",
    ),
    Entry(
        name="moderate",
        summary="nearest to the median distance from the centre of its pseudo-class",
        source="Xia et al., ICLR 2023",
        needs=frozenset({Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}),
        place="elfs_ray.methods.moderate:Moderate",
    ),
    Entry(
        name="badge",
        summary="large and diverse gradients of a probe's last layer, drawn by k-means++",
        source="Ash et al., ICLR 2020",
        needs=frozenset({Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}),
        place="elfs_ray.methods.badge:Badge",
    ),
    Entry(
        name="puma",
        summary="nearest to the decision boundary of a probe (DeepFool)",
        source="Maroto and Frossard, 2024, arXiv 2405.06298",
        needs=frozenset({Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}),
        place="elfs_ray.methods.puma:Puma",
    ),
    Entry(
        name="dlc",
        summary="a range of learning complexity, measured without training",
        source="Jiang et al., ICLR 2025, arXiv 2402.05356",
        needs=frozenset({Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}),
        place="elfs_ray.methods.dlc:Dlc",
    ),
    Entry(
        name="auto",
        summary="the method and beta that do best on held-out pseudo-labels",
        source="-",
        needs=frozenset({Needs.EMBEDDINGS, Needs.PSEUDO_LABELS}),
        place="elfs_ray.methods.auto:Auto",
    ),
)


def about(name: str) -> tuple[str, str, str, frozenset[Needs]]:
    """Name, summary, source and needs of a method that is here, for its class."""
    entry = next(each for each in BUILT_IN if each.name == name)
    return entry.name, entry.summary, entry.source, entry.needs


def method_names() -> list[str]:
    """The names of all methods in order; no method is imported."""
    return sorted({entry.name for entry in BUILT_IN} | _added().keys())


def available_methods() -> dict[str, Entry]:
    """Every method by name; a package's method under the entry point group `elfs_ray.methods` adds or replaces.

    Those of other packages are imported: what they say of themselves stands in their classes.
    """
    methods = {entry.name: entry for entry in BUILT_IN}
    for name, point in _added().items():
        method: type[SelectionMethod] = point.load()
        methods[name] = Entry(name, method.summary, method.source, method.needs, point.value)
    return methods


def get_method(name: str, **options: Any) -> "SelectionMethod":
    """Build a method by name with its options.

    Raises:
        UsageError: an unknown name or option; the message gives the closest one.
    """
    names = method_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
        raise UsageError(f"unknown method {name!r}; {hint}")
    return _class_of(name).with_options(options)


def _class_of(name: str) -> "type[SelectionMethod]":
    found: type[SelectionMethod]
    if point := _added().get(name):
        found = point.load()
    else:
        module, _, own = next(entry.place for entry in BUILT_IN if entry.name == name).partition(":")
        found = getattr(import_module(module), own)
    return found


def _added() -> dict[str, EntryPoint]:
    """The methods of other packages."""
    return _registered(tuple(sys.path))


@cache
def _registered(_search_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """What packages on a search path name, looked up once: the files of all of them are read for it."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
