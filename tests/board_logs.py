"""What a search leaves for TensorBoard, read with the format's own definitions."""

from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def logged(folder: Path, name: str) -> list[float]:
    """What a trial reported under a name, in order; its folder holds one file."""
    [file] = folder.glob("events.out.tfevents.*")
    values = [value for event in _events(file) for value in event.summary.value]
    return [value.simple_value for value in values if value.tag == f"ray/tune/{name}"]


def _events(path: Path) -> Iterator[Event]:
    """The events of a file: length, checksum, record, checksum."""
    data, start = path.read_bytes(), 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += 12 + length + 4
