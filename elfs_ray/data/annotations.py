"""Labels as annotation tools give them back: Label Studio, CVAT, COCO. One label for each image."""

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from elfs_ray.errors import UsageError, one_line

Answer = tuple[str, str]
"""Sample id, or the name of the picture, and label."""
LABEL_CONTROL = "label"
"""Name of the control of the labelling interface that Label Studio is given."""
# What reading a file of another form, or a damaged one, leads to.
_WRONG_FORM = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


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
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UsageError(f"annotations {path} cannot be read: {error.strerror}; check the path") from None
    try:
        answers = list(_from_xml(data) if data.lstrip()[:1] == b"<" else _from_json(json.loads(data)))
    except (*_WRONG_FORM, expat.ExpatError) as error:
        raise UsageError(
            f"annotations {path} are of no known form ({type(error).__name__}: {one_line(error)}); "
            "pass a Label Studio export (JSON), CVAT for images 1.1 (XML) or COCO (JSON)"
        ) from None
    labels: dict[str, str] = {}
    disputed: dict[str, str] = {}
    for name, label in answers:
        sample_id = id_of(name)
        if sample_id is None:
            raise UsageError(f"annotations {path} name {name!r}, which is no image of this coreset; pass the right run")
        if labels.setdefault(sample_id, label) != label:
            disputed.setdefault(sample_id, label)
    if disputed:
        sample_id, label = next(iter(disputed.items()))
        raise UsageError(
            f"annotations {path} give two labels to {len(disputed)} of {len(labels)} images, the first "
            f"{sample_id!r}: {labels[sample_id]!r} and {label!r}; keep one (in Label Studio, mark it as ground truth)"
        )
    if not labels:
        raise UsageError(f"annotations {path} hold no label; finish some images first")
    return labels


def _from_json(content: Any) -> Iterator[Answer]:
    """Label Studio exports a list of tasks, COCO an object."""
    if isinstance(content, list):
        for task in content:
            yield from _from_task(task)
        return
    names = {image["id"]: image.get("sample_id") or image["file_name"] for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    for annotation in content["annotations"]:
        yield _text(names[annotation["image_id"]]), _text(categories[annotation["category_id"]])


def _from_task(task: dict[str, Any]) -> Iterator[Answer]:
    """The choices of a task of Label Studio: of the annotation marked as ground truth, or of all that were submitted.

    Where the interface asks for several things, those of the control `label`, which is that of our own.
    """
    name = _text(task["data"].get("sample_id") or task["data"]["image"])
    submitted = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
    for annotation in [one for one in submitted if one.get("ground_truth")] or submitted:
        asked = [result for result in annotation["result"] if result["type"] == "choices"]
        for result in [one for one in asked if one.get("from_name") == LABEL_CONTROL] or asked:
            for choice in result["value"]["choices"]:
                yield name, _text(choice)


def _text(value: Any) -> str:
    """A name or a label, which tools also write as a number.

    Raises:
        TypeError: it is something else, such as nothing at all.
        ValueError: it is no text that a file can hold.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise TypeError(f"{value!r} is no name")
    text = str(value)
    text.encode()
    return text


def _from_xml(data: bytes) -> Iterator[Answer]:
    """Tags of CVAT's images. Entities are refused: a few of them can fill any memory."""
    found: list[Answer] = []
    images: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "image":
            images.append(attributes["name"])
        elif name == "tag":
            found.append((images[-1], _text(attributes["label"])))

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    yield from found
