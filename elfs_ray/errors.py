"""The errors that a user can cause or mend: one line each, naming the thing, the value seen and the remedy."""

import os
from collections.abc import Mapping
from typing import Any

_REASON_LENGTH = 200


class ElfsRayError(Exception):
    """Base of all expected errors. The CLI prints the message on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(ElfsRayError, ValueError):
    """Something that the user must change: input, option, configuration, permissions, a full disk (exit status 2)."""

    exit_code = 2


class RunError(ElfsRayError, RuntimeError):
    """A stage could not finish for a cause that running again may pass: a lost worker, no memory (exit status 1)."""


def wrong_value(option: str, problem: Mapping[str, Any]) -> str:
    """What pydantic says of the value of an option (one of `ValidationError.errors`), as a sentence of ours."""
    message = problem["msg"].removeprefix("Value error, ")
    return f"option {option!r} has the value {problem['input']!r}: {message[0].lower()}{message[1:]}"


def one_line(error: BaseException) -> str:
    """What an exception says, in one short line: the system's own words for an error number, else its text."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:  # that of an unknown host is negative
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:_REASON_LENGTH] or type(error).__name__
