"""Labels as annotation tools give them back: Label Studio, CVAT, COCO. One label for each image."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from elfs_ray.errors import UsageError, one_line

Answer = tuple[str, str]
"""Sample id, or the name of the picture, and label."""


def read_annotations(path: str | Path, id_of: Callable[[str], str | None]) -> dict[str, str]:
    """Labels by sample id, from a file of a tool.

    Args:
        path: a JSON export of Label Studio, annotations.xml of CVAT for images 1.1, or a COCO JSON file.
        id_of: sample id by what the tool calls the picture; None for a picture that is not known.

    Returns:
        sample id -> label, for the images that have one.

    Raises:
        UsageError: an unreadable or unknown file, an image that is not of this coreset, or two labels for one.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"annotations {path} cannot be read: {error.strerror}") from None
    try:
        answers = list(_from_xml(data) if data.lstrip()[:1] == b"<" else _from_json(json.loads(data)))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, expat.ExpatError) as error:
        raise UsageError(
            f"annotations {path} are of no known form ({type(error).__name__}: {one_line(error)}); "
            "pass a Label Studio export (JSON), CVAT for images 1.1 (XML) or COCO (JSON)"
        ) from None
    labels: dict[str, str] = {}
    for name, label in answers:
        sample_id = id_of(name)
        if sample_id is None:
            raise UsageError(f"annotations {path} name {name!r}, which is no image of this coreset; pass the right run")
        if labels.setdefault(sample_id, label) != label:
            raise UsageError(
                f"annotations {path} give {sample_id!r} two labels, {labels[sample_id]!r} and {label!r}; keep one"
            )
    if not labels:
        raise UsageError(f"annotations {path} hold no label; finish some images first")
    return labels


def _from_json(content: Any) -> Iterator[Answer]:
    """Label Studio exports a list of tasks, COCO an object."""
    if isinstance(content, list):
        for task in content:
            name = task["data"].get("sample_id") or task["data"]["image"]
            for annotation in task.get("annotations", []):
                if annotation.get("was_cancelled"):
                    continue
                for result in annotation["result"]:
                    if result["type"] == "choices":
                        yield str(name), str(result["value"]["choices"][0])
        return
    names = {image["id"]: image.get("sample_id") or image["file_name"] for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    for annotation in content["annotations"]:
        yield str(names[annotation["image_id"]]), str(categories[annotation["category_id"]])


def _from_xml(data: bytes) -> Iterator[Answer]:
    """Tags of CVAT's images. Entities are refused: a few of them can fill any memory."""
    found: list[Answer] = []
    images: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "image":
            images.append(attributes["name"])
        elif name == "tag":
            found.append((images[-1], attributes["label"]))

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    yield from found
