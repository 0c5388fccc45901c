"""Label Studio: the full JSON export, a list of tasks."""

from typing import Any

from elfs_ray.data.annotations.base import Annotations, Answer, Picture, chosen, optional

CHOICES = "choices"


def read_label_studio(where: str, tasks: list[Any]) -> Annotations:
    """The choices of each annotation, by control."""
    return Annotations(where, "label-studio", tuple(map(_picture, tasks, range(1, len(tasks) + 1))))


def _picture(task: dict[str, Any], number: int) -> Picture:
    data, answers = task["data"], map(_answer, task.get("annotations") or ())
    return Picture.of_row(data, data.get("image"), f"task {number}", *answers)


def _answer(annotation: dict[str, Any]) -> Answer:
    choices, other = dict[str, list[Any]](), False
    for result in annotation["result"] or ():
        if result["type"] == CHOICES:
            choices.setdefault(optional(result.get("from_name")) or "", []).extend(result["value"][CHOICES])
        else:
            other = True
    given = {question: found for question, labels in choices.items() if (found := chosen(labels))}
    return Answer(
        given,
        skipped=bool(annotation.get("was_cancelled")),
        other=other or bool(given),
        ground_truth=bool(annotation.get("ground_truth")),
    )
