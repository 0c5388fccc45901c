"""JSON objects as rows: one after another, on a line each or not, or all in one array. Pure: text in."""

import json
import re
from typing import Any

import pyarrow as pa

from elfs_ray.data.text_lines import TextError

_SPACE = re.compile(r"[ \t\r\n]*")


def parse_objects(text: str) -> list[dict[str, Any]]:
    """Every object of the text.

    Raises:
        TextError: the text is damaged or cut off, holds other values than objects, or one object has a name twice.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found: list[Any] = []
    at = _space_after(text, 0)
    try:
        while at < len(text):
            value, end = decoder.raw_decode(text, at)
            if not found and isinstance(value, list):
                found, at = value, _space_after(text, end)
                if at < len(text):
                    raise TextError(
                        f"line {_line(text, at):,} goes on after the array; write one array, or one object a line"
                    )
                break
            if not isinstance(value, dict):
                raise TextError(f"line {_line(text, at):,} holds no object; write one object with names on each line")
            found.append(value)
            at = _space_after(text, end)
    except json.JSONDecodeError as error:
        raise TextError(
            f"line {error.lineno:,} is no JSON ({error.msg}); write one whole object on each line"
        ) from None
    except RecursionError:
        raise TextError("it is nested too deeply; write one flat object on each line") from None
    except ValueError as error:  # such as a number of more digits than Python takes
        raise error if isinstance(error, TextError) else TextError(f"it is no JSON ({error})") from None
    if not found:
        raise TextError("Empty JSON file; write one object on each line")
    wrong = next((number for number, value in enumerate(found, 1) if not isinstance(value, dict)), None)
    if wrong is not None:
        raise TextError(f"element {wrong:,} of the array is no object; write one object with names for each row")
    return found


def column_of(name: str, values: list[Any]) -> pa.Array:
    """The values under a name.

    Raises:
        TextError: they are of several kinds, or of none that a column can hold.
    """
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError):
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise TextError(f"{name!r} holds values that no column can ({', '.join(kinds)}); write them as text") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TextError(f"an object has the name {twice!r} twice; keep one")
    return made


def _space_after(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
