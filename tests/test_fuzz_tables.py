"""Tables of text, written by every usual writer and damaged: the rows that were written, or a line that says why not.

How many rows there are is counted here by other means than the readers' (the oracle): by the lines, by the standard
library's `csv`, by the braces of JSON. As in `test_fuzz.py`, ELFS_RAY_FUZZ is the number of examples for each test.
"""

import contextlib
import csv
import io
import json

import pandas as pd
import pyarrow.fs as pafs
from hypothesis import assume, example, given
from hypothesis import strategies as st

from elfs_ray.data.text_tables import read_text_table, text_table_schema
from elfs_ray.errors import UsageError
from test_fuzz import damaged, fuzz, pytestmark  # noqa: F401 - the time limit

NAMES = ["path", "caption", "note"]
DELIMITERS = {"csv": ",", "tsv": "\t"}
QUOTING = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]
NEWLINES = ["\n", "\r\n"]
PLAIN = ["a", "b", " ", "7", "é", "e\u0301", "日", ";", "'", "\\", "\u2028", "\x85", "\x0b", "\x1c", "\ufeff"]
SPECIAL = ['"', '""', ",", "\t", "\n", "\r\n"]


def texts(pieces):
    return st.lists(st.sampled_from(pieces), max_size=5).map("".join)


def tables(pieces):
    rows = st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(texts(pieces), min_size=width, max_size=width), max_size=8)
    )
    return rows.filter(len)


def read(tmp_path, ending, data):
    """Rows as lists of values; None where the file is refused."""
    table = read_table(tmp_path, ending, data)
    return None if table is None else [list(row) for row in zip(*table.to_pydict().values(), strict=True)]


def read_table(tmp_path, ending, data):
    path = tmp_path / f"table.{ending}"
    path.write_bytes(data)
    local = pafs.LocalFileSystem()
    info = local.get_file_info(str(path))
    with contextlib.suppress(UsageError):
        table = read_text_table("table", local, info)
        assert text_table_schema("table", local, info).names == table.column_names
        return table
    return None


def written(rows, delimiter, quoting, newline, by):
    """A table by the standard library or by pandas, which quote what needs it."""
    file = io.StringIO(newline="")
    if by == "pandas":
        frame = pd.DataFrame(rows, columns=NAMES[: len(rows[0])])
        frame.to_csv(file, sep=delimiter, quoting=quoting, lineterminator=newline, index=False)
    else:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=newline)
        writer.writerows([NAMES[: len(rows[0])], *rows])
    return file.getvalue()


def doubtful(rows, delimiter):
    """Whether all lines within some value may look like rows: each needs the delimiters of a row."""
    many = (row for row in rows if "\n" in "".join(row))
    return any(len(row) == 1 or delimiter in "".join(row) for row in many)


@fuzz
@given(
    st.sampled_from(list(DELIMITERS)),
    tables([*PLAIN, *SPECIAL]),
    st.sampled_from(QUOTING),
    st.sampled_from(NEWLINES),
    st.sampled_from(["csv", "pandas"]),
    st.sampled_from(["", "\ufeff"]),
    st.booleans(),
)
@example("csv", [["a", '"'], ["b", "c\nd"]], csv.QUOTE_MINIMAL, "\n", "csv", "", True)
def test_tables_in_quotes(tmp_path, ending, rows, quoting, newline, by, mark, ended):
    delimiter = DELIMITERS[ending]
    if newline == "\n":  # Python 3.11 leaves a carriage return out of quotes then
        rows = [[value.replace("\r", "") for value in row] for row in rows]
    assume(ending == "csv" or not doubtful(rows, delimiter))  # where each line of a TSV may be a row, it is one
    text = mark + written(rows, delimiter, quoting, newline, by)
    found = read(tmp_path, ending, (text if ended else text.removesuffix(newline)).encode())
    if found is None:
        assert doubtful(rows, delimiter)
    else:
        assert found == rows


@fuzz
@given(
    st.sampled_from(list(DELIMITERS)),
    tables([*PLAIN, '"', '""', '"a', 'b"', ", ", ",", "\t"]),
    st.sampled_from([*NEWLINES, "\r"]),
    st.booleans(),
)
@example("tsv", [["a", '"x'], ["b", "y"], ["c", '" z'], ["d", '"w"']], "\n", True)
@example("csv", [["a", '"x'], ["b", "y"], ["c", 'z"']], "\n", True)
def test_tables_without_quotes(tmp_path, ending, rows, newline, ended):
    """Nothing is quoted: quotation marks are part of the values, also where they seem to belong together."""
    delimiter = DELIMITERS[ending]
    rows = [[value.replace(delimiter, "").lstrip("\ufeff") for value in row] for row in rows]
    assume(all(any(row) or len(row) > 1 for row in rows))  # a blank line is no row
    lines = [delimiter.join(line) for line in [NAMES[: len(rows[0])], *rows]]
    found = read(tmp_path, ending, (newline.join(lines) + (newline if ended else "")).encode())
    if found is None:
        assert '"' in "".join(lines)
        # A TSV of more columns than one leaves no doubt, as does one lone mark.
        assert "".join(lines).count('"') > 1
        assert ending == "csv" or len(rows[0]) == 1
        return
    assert len(found) == len(rows)
    for seen, row in zip(found, rows, strict=True):
        assert all(one in (two, out_of_quotes(two)) for one, two in zip(seen, row, strict=True))


def out_of_quotes(value):
    """As the standard library reads a value that is in quotes."""
    [[read]] = csv.reader([value], delimiter="\0") if value else [[""]]
    return read


ORIGINALS = {
    ending: [
        written([[f"{n}.jpg", 'a "b"', "x\ny"] for n in range(4)], delimiter, csv.QUOTE_MINIMAL, "\n", "csv").encode(),
        written([[f"{n}.jpg", f"{n}, {n}\t"] for n in range(6)], delimiter, csv.QUOTE_ALL, "\r\n", "csv").encode(),
        "".join(f"{n}.jpg{delimiter}{n} inch\n" for n in range(9)).encode(),
        "\n".join([f"path{delimiter}caption", *(f'{n}.jpg{delimiter}{"x" * n} 5"' for n in range(7))]).encode(),
    ]
    for ending, delimiter in DELIMITERS.items()
}


def strict_rows(text, delimiter):
    """How many rows the standard library sees; None where they are not all as wide as the header."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error:
        return None
    return len(rows) - 1 if len({len(row) for row in rows}) == 1 else None


@fuzz
@given(st.data())
def test_damaged_tables(tmp_path, data):
    ending = data.draw(st.sampled_from(list(DELIMITERS)))
    text = data.draw(damaged(ORIGINALS[ending]))
    found = read(tmp_path, ending, text)
    if found is None or not found:
        return
    decoded = text.decode("utf-8-sig")  # it was read, so it is UTF-8
    lines = sum(1 for line in decoded.replace("\r\n", "\n").split("\n" if "\n" in decoded else "\r") if line) - 1
    strict = strict_rows(decoded, DELIMITERS[ending])
    assert len(found) in {lines, strict}
    if len(found) < lines:
        assert len(found) == strict


RECORDS = st.lists(
    st.fixed_dictionaries(
        {"id": texts([*PLAIN, *SPECIAL, "{", "}", "[", '\\"'])}, optional={"n": st.integers(-9, 9), "s": texts(PLAIN)}
    ),
    min_size=1,
    max_size=8,
)


@fuzz
@given(RECORDS, st.booleans(), st.sampled_from([None, 1]), st.sampled_from(["\n", "\n\n", " ", "\r\n"]), st.booleans())
def test_objects(tmp_path, records, ascii_only, indent, between, as_array):
    made = [json.dumps(record, ensure_ascii=ascii_only, indent=indent) for record in records]
    text = f"[{','.join(made)}]" if as_array else between.join(made)
    table = read_table(tmp_path, "jsonl", text.encode())
    names = {name for record in records for name in record}
    assert table.to_pylist() == [{name: record.get(name) for name in table.column_names} for record in records]
    assert set(table.column_names) == names


OBJECTS = [
    b'{"id": "a", "label": "x"}\n{"id": "b", "label": "{y}"}\n{"id": "c", "label": null}\n',
    '{"id": "\\u00fc", "label": "\\""}\n{"id": "ü",\n "label": "}"}\n{"id": "d", "label": "z"}'.encode(),
    b'[{"id": "a"}, {"id": "b"},\n{"id": "c"}]\n',
]


def outermost_objects(text):
    """Braces outside of texts that open an object, in no other object."""
    count, depth, inside, escaped = 0, 0, False, False
    for char in text:
        if inside:
            escaped, inside = (not escaped and char == "\\"), escaped or char != '"'
        elif char == '"':
            inside = True
        elif char in "{}":
            count += char == "{" and depth == 0
            depth += 1 if char == "{" else -1
    return count


@fuzz
@given(damaged(OBJECTS))
def test_damaged_objects(tmp_path, data):
    table = read_table(tmp_path, "jsonl", data)
    if table is not None and table.column_names:
        assert table.num_rows == outermost_objects(data.decode("utf-8-sig"))
