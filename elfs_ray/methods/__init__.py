"""Selection methods: by name in `catalogue`, one file each. What computes is imported with the first use of it."""

from importlib import import_module
from typing import TYPE_CHECKING

from elfs_ray.methods.catalogue import Needs, available_methods, get_method, method_names

if TYPE_CHECKING:
    from elfs_ray.methods.base import Selection, SelectionInputs, SelectionMethod
    from elfs_ray.methods.coreset import Balance, balances, check_labeled, select_coreset

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
    "method_names",
    "select_coreset",
]


def __getattr__(name: str) -> object:
    # With numpy, jaxtyping and what checks their shapes: half a second that listing methods does without.
    if name not in __all__:
        raise AttributeError(f"module 'elfs_ray.methods' has no attribute {name!r}")
    contract = name in ("Selection", "SelectionInputs", "SelectionMethod")
    return getattr(import_module(f"elfs_ray.methods.{'base' if contract else 'coreset'}"), name)
