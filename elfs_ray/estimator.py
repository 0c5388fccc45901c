"""The selection as an estimator of scikit-learn: options in the constructor, rows chosen by `fit`."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from elfs_ray.api import pick
from elfs_ray.errors import UsageError


class CoresetSelector(BaseEstimator):  # type: ignore[misc] # scikit-learn has no annotations
    """Chooses rows of a matrix of embeddings, as `elfs_ray.pick` does.

    It selects samples, where transformers of scikit-learn give one row for each: within a `Pipeline` it has no place.

    Args:
        n_samples: rows to choose: a count, or the fraction to keep.
        method: a name that `elfs-ray methods` lists.
        num_classes: number of classes that you expect, for methods that work with pseudo-labels.
        random_state: seed of every random choice.
        options: further arguments of `elfs_ray.pick` by name, such as `{"beta": 0.1, "neighbors": {"k": 20}}`.

    Attributes:
        indices_: positions of the chosen rows, best first, int64 [n].
        n_features_in_: width of the rows.
    """

    def __init__(
        self,
        n_samples: float = 0.1,
        *,
        method: str = "zcore",
        num_classes: int | None = None,
        random_state: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.n_samples = n_samples
        self.method = method
        self.num_classes = num_classes
        self.random_state = random_state
        self.options = options

    def fit(self, X: Any, y: Any = None) -> "CoresetSelector":  # noqa: ARG002 - scikit-learn's signature
        """Choose rows of X, [rows, dim]; y is not looked at.

        Raises:
            UsageError: as `elfs_ray.pick`; scikit-learn's own errors for what is no matrix of numbers.
        """
        matrix = validate_data(self, X, dtype=(np.float64, np.float32, np.float16), ensure_min_samples=2)
        self._rows = len(matrix)
        self.indices_ = pick(
            matrix,
            self.n_samples,
            method=self.method,
            num_classes=self.num_classes,
            seed=self.random_state,
            **{"progress": False, **(self.options or {})},
        )
        return self

    def get_support(self, *, indices: bool = False) -> np.ndarray:
        """Which rows were chosen: a mask, bool [rows]; with `indices` their positions in ascending order."""
        check_is_fitted(self, "indices_")
        ascending = np.sort(self.indices_)
        if indices:
            return ascending
        mask = np.zeros(self._rows, dtype=bool)
        mask[ascending] = True
        return mask

    def select(self, X: Any) -> Any:
        """The chosen rows, best first, of the X that was fitted or of anything with as many rows, such as labels.

        Raises:
            UsageError: another number of rows.
        """
        check_is_fitted(self, "indices_")
        if len(X) != self._rows:
            raise UsageError(f"X has {len(X)} rows, and the selector was fitted on {self._rows}; pass the same ones")
        if hasattr(X, "iloc"):
            return X.iloc[self.indices_]
        return np.asarray(X)[self.indices_] if isinstance(X, (list, tuple)) else X[self.indices_]
