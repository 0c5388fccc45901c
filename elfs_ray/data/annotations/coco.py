"""COCO: the categories of each image's annotations."""

from typing import Any

from elfs_ray.data.annotations.base import LABEL_CONTROL, NO_ANSWER, Annotations, Answer, Picture, chosen, text
from elfs_ray.errors import UsageError


def read_coco(where: str, content: dict[str, Any]) -> Annotations:
    """One question: the categories. What joins the parts of the file are its ids, so each must be of one thing.

    Raises:
        UsageError: two images or categories have one id, or an annotation is of an image that is not there.
    """
    images = _by_id(where, content["images"], "images", "file_name")
    categories = _by_id(where, content["categories"], "categories", "name")
    labels: dict[str, list[Any]] = {number: [] for number in images}
    for annotation in content["annotations"]:
        for key, known in (("image_id", images), ("category_id", categories)):
            if text(annotation[key]) not in known:
                raise UsageError(
                    f"annotations {where} hold one with {key} {annotation[key]!r}, which nothing in the file has; "
                    "export it again"
                )
        labels[text(annotation["image_id"])].append(categories[text(annotation["category_id"])]["name"])
    return Annotations(where, "coco", tuple(_picture(images[number], labels[number]) for number in images))


def _picture(image: dict[str, Any], names: list[Any]) -> Picture:
    labels = chosen(names)
    answer = Answer({LABEL_CONTROL: labels}) if labels else NO_ANSWER
    return Picture.of_row(image, image.get("file_name"), f"image {image['id']!r}", answer)


def _by_id(where: str, parts: list[dict[str, Any]], what: str, name: str) -> dict[str, dict[str, Any]]:
    found = dict[str, dict[str, Any]]()
    for part in parts:
        other = found.setdefault(text(part["id"]), part)
        if other is not part:
            raise UsageError(
                f"annotations {where} hold two {what} with the id {part['id']!r}, {other.get(name)!r} and "
                f"{part.get(name)!r}; give each an id of its own"
            )
    return found
