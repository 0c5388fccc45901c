"""Selection methods by name: the ones here, and those that other packages add."""

import difflib
from importlib.metadata import entry_points
from typing import Any

from elfs_ray.errors import UsageError
from elfs_ray.methods.auto import Auto
from elfs_ray.methods.badge import Badge
from elfs_ray.methods.base import Needs, Selection, SelectionInputs, SelectionMethod
from elfs_ray.methods.ccs import Ccs
from elfs_ray.methods.coreset import Balance, balances, check_labeled, select_coreset
from elfs_ray.methods.d2 import D2
from elfs_ray.methods.dlc import Dlc
from elfs_ray.methods.dual import Dual
from elfs_ray.methods.elfs import Elfs
from elfs_ray.methods.hardest import Aum, DynUnc, El2n, Entropy, Forgetting, Tdds
from elfs_ray.methods.kcenter import KCenter
from elfs_ray.methods.mixed import Mixed
from elfs_ray.methods.moderate import Moderate
from elfs_ray.methods.prototypicality import Prototypicality
from elfs_ray.methods.puma import Puma
from elfs_ray.methods.random import Random
from elfs_ray.methods.stratified import Stratified
from elfs_ray.methods.typiclust import TypiClust
from elfs_ray.methods.zcore import ZCore

__all__ = [
    "Balance",
    "Needs",
    "Selection",
    "SelectionInputs",
    "SelectionMethod",
    "available_methods",
    "balances",
    "check_labeled",
    "get_method",
    "select_coreset",
]

ENTRY_POINT_GROUP = "elfs_ray.methods"
BUILT_IN: tuple[type[SelectionMethod], ...] = (
    *(Random, Stratified),
    *(Elfs, Mixed, Ccs, Aum, Forgetting, El2n, Entropy, DynUnc, Tdds, Dual),
    *(D2, ZCore, KCenter, TypiClust, Prototypicality, Moderate),
    *(Badge, Puma, Dlc),
    Auto,
)


def available_methods() -> dict[str, type[SelectionMethod]]:
    """Every method by name; a package's method under the entry point group `elfs_ray.methods` adds or replaces."""
    methods = {method.name: method for method in BUILT_IN}
    methods.update({found.name: found.load() for found in entry_points(group=ENTRY_POINT_GROUP)})
    return methods


def get_method(name: str, **options: Any) -> SelectionMethod:
    """Build a method by name with its options.

    Raises:
        UsageError: an unknown name or option; the message gives the closest one.
    """
    methods = available_methods()
    if name not in methods:
        close = difflib.get_close_matches(name, methods, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(sorted(methods))}"
        raise UsageError(f"unknown method {name!r}; {hint}")
    return methods[name].with_options(options)
