"""Coresets for annotation tools: Label Studio, CVAT, and whatever reads COCO."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from elfs_ray.data.annotations import EXPORT_KEY, LABEL_CONTROL
from elfs_ray.errors import UsageError
from elfs_ray.exports.records import Exported, export_key
from elfs_ray.exports.rows import Coreset, Sample

MODEL = "elfs_ray pseudo-labels"
_NOT_IN_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_label_studio(coreset: Coreset, folder: Path) -> list[Exported]:
    """`tasks.json`, a task for each image, and `labels.xml`, a labelling interface of one choice."""
    exported = coreset.exported(folder)
    key = export_key("label-studio", coreset.name, exported)
    tasks = []
    for sample, one in zip(coreset.samples, exported, strict=True):
        data = {"image": one.place, "sample_id": sample.sample_id, "rank": sample.rank, "score": sample.score}
        task: dict[str, Any] = {"data": {**data, EXPORT_KEY: key}, "meta": {"coreset": coreset.name}}
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
    return exported


def write_cvat(coreset: Coreset, folder: Path) -> list[Exported]:
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
    exported = coreset.exported(folder)
    _check_cvat_names(exported)
    named = sorted(zip(coreset.samples, exported, strict=True), key=lambda pair: pair[1].name)
    for number, (sample, one) in enumerate(named):
        size = {"width": str(sample.width), "height": str(sample.height)}
        image = ET.SubElement(root, "image", {"id": str(number), "name": one.name, **size})
        if sample.cluster is not None:
            ET.SubElement(image, "tag", label=sample.cluster, source="auto")
    _write_xml(root, folder / "annotations.xml")
    (folder / "images.txt").write_text("".join(f"{one.place}\n" for one in exported), encoding="utf-8")
    return [replace(one, id=number) for number, (_, one) in enumerate(named)]


def _check_cvat_names(exported: Iterable[Exported]) -> None:
    """Refuse names that do not come back as they are, or that are of two samples."""
    ids = dict[str, str]()
    for one in exported:
        sample_id, name, place = one.sample_id, one.name, one.place
        if _NOT_IN_XML.search(name):
            raise UsageError(f"XML cannot hold all characters of {name!r}; rename the image, or use another format")
        if place is not None and place.splitlines() != [place]:
            raise UsageError(f"no list of files can hold the line break in {place!r}; rename it, or use another format")
        if ids.setdefault(name, sample_id) != sample_id:
            raise UsageError(
                f"samples {ids[name]!r} and {sample_id!r} are both called {name!r}, and CVAT knows images by name "
                "alone; use another format"
            )


def write_coco(coreset: Coreset, folder: Path) -> list[Exported]:
    """`annotations.json`: images, categories, and a box around the whole image for each pseudo-label."""
    categories = {cluster: number for number, cluster in enumerate(coreset.clusters, start=1)}
    exported = [replace(one, id=number) for number, one in enumerate(coreset.exported(folder), start=1)]
    key = export_key("coco", coreset.name, exported)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for sample, one in zip(coreset.samples, exported, strict=True):
        image = {"id": one.id, "file_name": one.place, "width": sample.width, "height": sample.height}
        images.append({**image, "sample_id": sample.sample_id, "rank": sample.rank, EXPORT_KEY: key})
        if sample.cluster is not None:
            annotations.append(_whole_image(len(annotations) + 1, one.id, categories[sample.cluster], sample))
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
    return exported


def _whole_image(number: int, image: int | None, category: int, sample: Sample) -> dict[str, Any]:
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
