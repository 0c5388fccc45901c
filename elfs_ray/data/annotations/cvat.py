"""CVAT for images 1.1: the tags of each image."""

from typing import Any
from xml.parsers import expat

from elfs_ray.data.annotations.base import LABEL_CONTROL, Annotations, Answer, Picture, chosen

_SHAPES = frozenset(("box", "polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton"))


class _Image:
    def __init__(self, name: str) -> None:
        self.name = name
        self.tags: list[Any] = []
        self.has_shapes = False


def read_cvat(where: str, data: bytes) -> Annotations:
    """One question: the tags. Entities are refused: a few of them can fill any memory."""
    images: list[_Image] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "image":
            images.append(_Image(attributes["name"]))
        elif name == "tag":
            images[-1].tags.append(attributes["label"])
        elif name == "track":
            raise ValueError("it holds tracks of a video")
        elif name in _SHAPES and images:
            images[-1].has_shapes = True

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    return Annotations(where, "cvat", tuple(map(_picture, images)))


def _picture(image: _Image) -> Picture:
    labels = chosen(image.tags)
    return Picture(image.name, (Answer({LABEL_CONTROL: labels} if labels else {}, other=image.has_shapes),))
