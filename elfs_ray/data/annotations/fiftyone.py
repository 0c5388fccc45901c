"""FiftyOne: `samples.json` of a FiftyOneDataset."""

from typing import Any

from elfs_ray.data.annotations.base import EXPORT_KEY, ID_COLUMN, Annotations, Answer, Picture, chosen

GROUND_TRUTH = "ground_truth"
"""The field that holds labels in FiftyOne's own data sets."""
_NO_LABELS = frozenset(("filepath", ID_COLUMN, EXPORT_KEY, "id", "_id", "_media_type", "_rand"))


def read_fiftyone(where: str, samples: list[Any]) -> Annotations:
    """The questions are the fields with a Classification, Classifications, or text."""
    pictures = tuple(map(_picture, samples, range(1, len(samples) + 1)))
    return Annotations(where, "fiftyone", pictures, GROUND_TRUTH)


def _picture(sample: dict[str, Any], number: int) -> Picture:
    fields = ((name, _labels(value)) for name, value in sample.items() if name not in _NO_LABELS)
    answer = Answer({name: labels for name, labels in fields if labels})
    return Picture.of_row(sample, sample.get("filepath"), f"sample {number}", answer)


def _labels(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return chosen([value])
    if not isinstance(value, dict):
        return ()
    if value.get("_cls") == "Classification":
        return chosen([value.get("label") or ""])
    if value.get("_cls") == "Classifications":
        return chosen([one.get("label") or "" for one in value.get("classifications") or ()])
    return ()
