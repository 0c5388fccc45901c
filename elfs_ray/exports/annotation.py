"""Coresets for annotation tools: Label Studio, CVAT, and whatever reads COCO."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from elfs_ray.data.annotations import LABEL_CONTROL
from elfs_ray.errors import UsageError
from elfs_ray.exports.rows import Coreset, Sample

MODEL = "elfs_ray pseudo-labels"
_NOT_IN_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_label_studio(coreset: Coreset, folder: Path) -> None:
    """`tasks.json`, a task for each image, and `labels.xml`, a labelling interface of one choice."""
    tasks = []
    for sample, place in coreset.places(folder):
        task: dict[str, Any] = {
            "data": {"image": place, "sample_id": sample.sample_id, "rank": sample.rank, "score": sample.score},
            "meta": {"coreset": coreset.name},
        }
        if sample.cluster is not None:
            choice = {
                "from_name": LABEL_CONTROL,
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [sample.cluster]},
            }
            task["predictions"] = [{"model_version": MODEL, "result": [choice]}]
        tasks.append(task)
    (folder / "tasks.json").write_text(json.dumps(tasks, indent=1))
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    choices = ET.SubElement(view, "Choices", name=LABEL_CONTROL, toName="image", choice="single")
    for cluster in coreset.clusters or ["rename me"]:
        ET.SubElement(choices, "Choice", value=cluster)
    _write_xml(view, folder / "labels.xml")


def write_cvat(coreset: Coreset, folder: Path) -> None:
    """`annotations.xml` in the format CVAT for images 1.1, pseudo-labels as tags; `images.txt`, what to upload.

    CVAT finds the frame of an image by its name, which is a path below the folder that was uploaded, and takes the
    frame of that number if there is none. Frames are in order of name, so the images are, too.
    """
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    ET.SubElement(task, "name").text = coreset.name
    ET.SubElement(task, "size").text = str(len(coreset.samples))
    labels = ET.SubElement(task, "labels")
    for cluster in coreset.clusters:
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = cluster
        ET.SubElement(label, "type").text = "tag"
    named = list(coreset.names(folder))
    for number, (sample, name) in enumerate(sorted(named, key=lambda one: one[1])):
        if _NOT_IN_XML.search(name):
            raise UsageError(f"XML cannot hold all characters of {name!r}; rename the image, or use another format")
        image = ET.SubElement(
            root, "image", id=str(number), name=name, width=str(sample.width), height=str(sample.height)
        )
        if sample.cluster is not None:
            ET.SubElement(image, "tag", label=sample.cluster, source="auto")
    _write_xml(root, folder / "annotations.xml")
    uploads = "".join(f"{coreset.place(sample, name)}\n" for sample, name in named)
    (folder / "images.txt").write_text(uploads, encoding="utf-8")


def write_coco(coreset: Coreset, folder: Path) -> None:
    """`annotations.json`: images, categories, and a box around the whole image for each pseudo-label."""
    categories = {cluster: number for number, cluster in enumerate(coreset.clusters, start=1)}
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (sample, place) in enumerate(coreset.places(folder), start=1):
        size = {"width": sample.width, "height": sample.height}
        images.append({"id": number, "file_name": place, **size, "sample_id": sample.sample_id, "rank": sample.rank})
        if sample.cluster is not None:
            annotations.append(_whole_image(len(annotations) + 1, number, categories[sample.cluster], sample))
    content = {
        "info": {"description": f"coreset {coreset.name}"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": cluster, "supercategory": "pseudo-label"} for cluster, number in categories.items()
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content, indent=1))


def _whole_image(number: int, image: int, category: int, sample: Sample) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [0, 0, sample.width, sample.height],
        "area": (sample.width or 0) * (sample.height or 0),
        "iscrowd": 0,
    }


def _write_xml(root: ET.Element, path: Path) -> None:
    """Without a declaration: what is UTF-8 needs none, and tools that read the file as text refuse one."""
    ET.indent(root)
    path.write_bytes(ET.tostring(root, encoding="utf-8", xml_declaration=False))
