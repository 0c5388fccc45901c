"""Delimited text (CSV, TSV) as lines and rows: how many there are, and the fields of each. Pure: blocks of bytes in.

Programs disagree about quotation marks. Some write none, so that a value may begin with one that never closes; others
enclose values that hold delimiters, and then also newlines (RFC 4180). A reader that trusts the wrong one of the two
merges all rows between two lone marks. So there are two readings here, and each says when a file cannot be its kind:
`plain_rows` takes every line for a row, `quoted_rows` follows RFC 4180 strictly.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

QUOTE = '"'
_FILE_ENDING = re.compile(r"\.\w{1,5}$")


class TextError(ValueError):
    """Text that cannot be read; says where and why, without the name of the file."""


class AmbiguousError(TextError):
    """Text that is right in two readings, with another number of rows in each."""


class Scan(NamedTuple):
    """What a file of text holds, counted apart from any reader of its rows.

    Attributes:
        lines: those that are not empty.
        newline: what ends a line: a line feed (with a carriage return before it or not), or that of old Macs.
        quoted: whether there is any quotation mark.
    """

    lines: int
    newline: str
    quoted: bool


def scan(blocks: Iterable[bytes]) -> Scan:
    """Count the lines of UTF-8 text.

    Raises:
        TextError: it is no UTF-8, holds a NUL, or a carriage return inside a line where nothing is quoted.
    """
    lines, ended, quoted, inside, piece = 0, 0, False, 0, b""
    for piece in _pieces(blocks):
        _check_text(piece, ended)
        body = piece.removesuffix(b"\r")
        returns = body.count(b"\r") - body.count(b"\r\n")
        if returns and not inside:
            inside = ended + 1 + _first_lone_return(body)
        quoted = quoted or b'"' in piece
        lines += sum(1 for line in piece.split(b"\n") if line not in (b"", b"\r"))
        ended += piece.count(b"\n")
    if ended == 0 and b"\r" in piece:
        return Scan(sum(1 for line in piece.split(b"\r") if line), "\r", quoted)
    if inside and not quoted:
        raise _carriage_return(inside)
    return Scan(lines, "\n", quoted)


def _check_text(piece: bytes, lines_before: int) -> None:
    at, told = piece.find(b"\0"), "holds a NUL byte, as UTF-8 text never does"
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        if at < 0:
            at, told = error.start, "is not UTF-8 text"
    if at >= 0:
        line = lines_before + 1 + piece.count(b"\n", 0, at)
        raise TextError(f"line {line:,} {told}; save the file as UTF-8")


def _first_lone_return(body: bytes) -> int:
    """Line feeds before the first carriage return that no line feed follows."""
    for number, line in enumerate(body.split(b"\n")):
        if b"\r" in line.removesuffix(b"\r"):
            return number
    return 0


def read_lines(blocks: Iterable[bytes], newline: str) -> Iterator[str]:
    """The lines without their line feeds; a carriage return before one stays, as it may be part of a quoted value."""
    for piece in _pieces(blocks):
        text = piece.decode()
        lines = text.split(newline)
        yield from lines if lines[-1] else lines[:-1]


def _pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks cut anew, after line feeds, so that each piece but the last holds whole lines; without a BOM."""
    held: list[bytes] = []
    first = True
    for block in blocks:
        end = block.rfind(b"\n") + 1
        held.append(block[:end] if end else block)
        if end:
            piece = b"".join(held)
            yield piece.removeprefix(codecs.BOM_UTF8) if first else piece
            held, first = [block[end:]], False
    last = b"".join(held)
    if last:
        yield last.removeprefix(codecs.BOM_UTF8) if first else last


def header(blocks: Iterable[bytes], delimiter: str) -> list[str]:
    """The names in the first line that is not empty; takes no more blocks than it needs.

    Raises:
        TextError: there is none, it is no UTF-8, or a quotation mark in it does not close.
    """
    held, found = b"", [b""]
    for block in blocks:
        held += block
        found = re.split(rb"[\r\n]", held.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n"), maxsplit=1)
        if len(found) > 1:
            break
    if not found[0]:
        raise TextError("Empty CSV file; write a line with the names of the columns, and a line for each row")
    _check_text(found[0], 0)
    line = found[0].decode()
    fields = _fields_in_line(line, delimiter)
    if fields is None:
        raise TextError("a quotation mark in the header (line 1) does not close; take it out")
    return fields


def is_blank(line: str) -> bool:
    """Whether a line is no row."""
    return line in ("", "\r")


class Row(NamedTuple):
    """The fields of a row, and how many lines that are not empty it takes."""

    fields: list[str]
    lines: int


def plain_rows(lines: Iterable[str], delimiter: str, width: int, *, quotes_first: bool) -> Iterator[Row]:
    """Every line a row. A field is out of quotes only where it begins and ends with them; else they are literal.

    Args:
        lines: with the header.
        delimiter: between fields.
        width: number of fields of each row.
        quotes_first: whether quotes that close may hold delimiters even where the line has `width` fields without.

    Raises:
        TextError: a line has another number of fields.
    """
    numbered = _after_header(lines)
    for number, raw in numbered:
        line = raw.removesuffix("\r")
        if not line:
            continue
        if "\r" in line:
            raise _carriage_return(number)
        fields = line.split(delimiter)
        if QUOTE in line:
            closed = _fields_in_line(line, delimiter)
            as_it_stands = len(fields) == width and not (quotes_first and closed)
            fields = [_unquoted(field) for field in fields] if as_it_stands or closed is None else closed
        if len(fields) != width:
            raise _wrong_width(number, len(fields), width)
        yield Row(fields, 1)


def quoted_rows(lines: Iterable[str], delimiter: str, width: int, newline: str) -> Iterator[Row]:
    """Rows as RFC 4180 has them: quoted fields may hold delimiters, newlines, and quotation marks written twice.

    Raises:
        TextError: a quotation mark does not close, or not before a delimiter; a row has another number of fields.
        AmbiguousError: at the end, where all is well but for lines within quotes that look like rows of their own.
    """
    numbered = _after_header(lines)
    doubt: tuple[int, int] | None = None
    for number, line in numbered:
        if is_blank(line):
            continue
        if QUOTE not in line:
            fields, taken = line.removesuffix("\r").split(delimiter), [line]
            if "\r" in line.removesuffix("\r"):
                raise _carriage_return(number)
        else:
            fields, taken = _record(number, line, numbered, delimiter, newline)
        if len(fields) != width:
            raise _wrong_width(number, len(fields), width)
        if len(taken) > 1 and doubt is None and _look_like_rows(taken, delimiter, width):
            doubt = number, number + len(taken) - 1
        yield Row(fields, sum(1 for one in taken if not is_blank(one)))
    if doubt:
        raise AmbiguousError(
            f"lines {doubt[0]:,} to {doubt[1]:,} are one row if the quotation marks at both ends belong together, and "
            f"{doubt[1] - doubt[0] + 1:,} rows if not; save the table as Parquet or JSON lines, which leave no doubt"
        )


def _look_like_rows(taken: list[str], delimiter: str, width: int) -> bool:
    """Whether most lines of a row have as many fields as a row, and name a file where the row itself does."""
    fitting = [line for line in taken if line.count(delimiter) == width - 1]
    if _names_a_file(taken[0], delimiter):
        fitting = [line for line in fitting if _names_a_file(line, delimiter)]
    return 2 * len(fitting) > len(taken)


def _names_a_file(line: str, delimiter: str) -> bool:
    return _FILE_ENDING.search(line.partition(delimiter)[0].rstrip('"\r')) is not None


def _after_header(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines after the first that is not empty, with their numbers from 1."""
    numbered = enumerate(lines, 1)
    for _, line in numbered:
        if not is_blank(line):
            break
    return numbered


def _fields_in_line(line: str, delimiter: str) -> list[str] | None:
    """The fields of a row that is one line; None where quotation marks do not close in it as RFC 4180 has them."""
    try:
        return _record(1, line, iter(()), delimiter, "")[0]
    except TextError:
        return None


def _record(
    number: int, line: str, following: Iterator[tuple[int, str]], delimiter: str, newline: str
) -> tuple[list[str], list[str]]:
    """The fields of the row that begins on a line, and its lines. No limit to the length of a field, as `csv` has."""
    fields, taken, at = list[str](), [line], 0
    while True:
        if line.startswith(QUOTE, at):
            value, at = _value_in_quotes(number, at + 1, taken, following, newline)
            fields.append(value)
            line = taken[-1]
            if at + line.endswith("\r") >= len(line):
                return fields, taken
            if not line.startswith(delimiter, at):
                raise TextError(
                    f"on line {number + len(taken) - 1:,} more text follows a closing quotation mark; "
                    "write quotation marks within quotes twice"
                )
            at += 1
        else:
            end = line.find(delimiter, at)
            field = line[at:end] if end >= 0 else line[at:].removesuffix("\r")
            if "\r" in field:
                raise _carriage_return(number + len(taken) - 1)
            fields.append(field)
            if end < 0:
                return fields, taken
            at = end + 1


def _value_in_quotes(
    number: int, at: int, taken: list[str], following: Iterator[tuple[int, str]], newline: str
) -> tuple[str, int]:
    """The value that begins at a place in the last line of `taken`, which takes more, and the place behind its end."""
    line, parts = taken[-1], list[str]()
    while True:
        end = line.find(QUOTE, at)
        if end < 0:
            parts.append(line[at:] + newline)
            _, more = next(following, (0, None))
            if more is None:
                raise TextError(f"a quotation mark on line {number:,} opens a value that never ends")
            line, at = more, 0
            taken.append(line)
        elif line.startswith(QUOTE, end + 1):
            parts.append(line[at : end + 1])
            at = end + 2
        else:
            return "".join([*parts, line[at:end]]), end + 1


def _carriage_return(number: int) -> TextError:
    return TextError(f"line {number:,} holds a carriage return in its midst; take it out, or put the value in quotes")


def _unquoted(field: str) -> str:
    """A field out of its quotes, if it has a pair of its own."""
    inner = field[1:-1]
    if len(field) < 2 or field[0] != QUOTE or field[-1] != QUOTE or QUOTE in inner.replace(QUOTE * 2, ""):
        return field
    return inner.replace(QUOTE * 2, QUOTE)


def _wrong_width(number: int, seen: int, width: int) -> TextError:
    fields = f"{seen:,} field{'' if seen == 1 else 's'}"
    return TextError(f"line {number:,} has {fields}, and the header {width:,}; give each row a field for each column")
