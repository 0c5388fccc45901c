"""CSV, TSV and JSON lines: as many rows as the file has, or a line that says why not."""

import csv
import json
import random

import pyarrow.fs as pafs
import pytest

from elfs_ray.data.sources import open_source
from elfs_ray.data.text_lines import Scan, scan
from elfs_ray.data.text_tables import read_text_table, text_table_schema
from elfs_ray.errors import UsageError


@pytest.fixture
def read(tmp_path):
    """Write a file and read it; returns its columns as lists."""

    def read(text, ending="csv", columns=None):
        path = tmp_path / f"table.{ending}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        local = pafs.LocalFileSystem()
        info = local.get_file_info(str(path))
        table = read_text_table("the table", local, info, columns)
        assert columns is not None or text_table_schema("the table", local, info).names == table.column_names
        return table.to_pydict()

    return read


def test_captions_with_lone_quotation_marks(tmp_path):
    """As published lists of captions are: tab-separated, nothing in quotes, and some captions begin with a mark."""
    captions = [f"caption {number}" for number in range(60)]
    captions[3], captions[10], captions[40] = '"Sale" sign', '"Unfinished quote of a caption', '" 12 inch'
    rows = "".join(f"img/{number:02d}.jpg\t{caption}\n" for number, caption in enumerate(captions))
    (tmp_path / "captions.tsv").write_text(f"path\tcaption\n{rows}")
    source = open_source(str(tmp_path / "captions.tsv"))
    assert source.count == 60
    ids, found = source.read_column("caption")
    assert ids.to_pylist() == [f"img/{number:02d}.jpg" for number in range(60)]
    assert found.to_pylist() == captions


RIGHT = {
    # ending, text: columns
    "line feeds": ("csv", "a,b\n1,2\n3,4\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "Windows": ("csv", "a,b\r\n1,2\r\n3,4\r\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "Windows, quoted": ("csv", 'a,b\r\n1,"2\n5"\r\n"3",4\r\n', {"a": ["1", "3"], "b": ["2\n5", "4"]}),
    "an old Mac": ("csv", "a,b\r1,2\r3,4", {"a": ["1", "3"], "b": ["2", "4"]}),
    "an old Mac, quoted": ("csv", 'a,b\r1,"2,5"\r3,4\r', {"a": ["1", "3"], "b": ["2,5", "4"]}),
    "a BOM": ("csv", "\ufeffa,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
    "a BOM before quotes": ("csv", '\ufeff"a",b\n1,2\n', {"a": ["1"], "b": ["2"]}),
    "no line feed at the end": ("csv", "a,b\n1,2", {"a": ["1"], "b": ["2"]}),
    "blank lines": ("csv", "\n\r\na,b\n\n1,2\n\r\n\n", {"a": ["1"], "b": ["2"]}),
    "blank lines, quoted": ("csv", '\na,b\n\n1,"2\n\n3"\n\n', {"a": ["1"], "b": ["2\n\n3"]}),
    "no rows": ("csv", "a,b\n", {"a": [], "b": []}),
    "as written": ("csv", "a,b\n007,NA\n1e5,nan\n, x \n", {"a": ["007", "1e5", ""], "b": ["NA", "nan", " x "]}),
    "other ends of lines": (
        "csv", "a,b\n1,x\u2028y\n2,x\x85\x0b\x0c\n",
        {"a": ["1", "2"], "b": ["x\u2028y", "x\x85\x0b\x0c"]},
    ),
    "commas in quotes": ("csv", 'a,b\n"Smith, John",cat\n', {"a": ["Smith, John"], "b": ["cat"]}),
    "quotes written twice": (
        "csv", 'a,b\n1,"say ""hi"", you"\n""""," "\n',
        {"a": ["1", '"'], "b": ['say "hi", you', " "]},
    ),
    "several lines, which name no file": (
        "csv",
        'path,b\n1.jpg,"x\ny, z"\n2.jpg,"x\nsay ""y"",\nor z, or"\n',
        {"path": ["1.jpg", "2.jpg"], "b": ["x\ny, z", 'x\nsay "y",\nor z, or']},
    ),
    "several lines": ("csv", 'a,b\n1,"x\ny"\n2,z\n', {"a": ["1", "2"], "b": ["x\ny", "z"]}),
    "a carriage return in quotes": ("csv", 'a,b\n1,"x\ry"\n', {"a": ["1"], "b": ["x\ry"]}),
    "inches": ("csv", 'a,b\n1,5" disk\n2,"5" disk"\n', {"a": ["1", "2"], "b": ['5" disk', '"5" disk"']}),
    "one lone mark": ("csv", 'a,b\n1,"x\n2,y\n', {"a": ["1", "2"], "b": ['"x', "y"]}),
    "lone marks beside right ones": (
        "csv", 'a,b\n1,"x\n2,"y, z"\n3,w"\n',
        {"a": ["1", "2", "3"], "b": ['"x', "y, z", 'w"']},
    ),
    "TSV: lone marks that fit": ("tsv", 'a\tb\n1\t"x\n2\ty"\n', {"a": ["1", "2"], "b": ['"x', 'y"']}),
    "TSV: tabs in quotes": ("tsv", 'a\tb\n1\t"x\ty"\n2\t"z\n', {"a": ["1", "2"], "b": ["x\ty", '"z']}),
    "TSV: in quotes of their own": (
        "tsv", 'a\tb\n"1"\t"x ""y"""\n""\t"a" b "c"\n',
        {"a": ["1", ""], "b": ['x "y"', '"a" b "c"']},
    ),
    "TSV: several lines": ("tsv", 'a\tb\n1\t"x\nfoo"\n2\tq\n', {"a": ["1", "2"], "b": ["x\nfoo", "q"]}),
    "TSV: empty fields": ("tsv", "a\tb\n\t\n\tx\n", {"a": ["", ""], "b": ["", "x"]}),
    "a long value": ("csv", 'a,b\n1,"' + "x, " * 100_000 + '"\n', {"a": ["1"], "b": ["x, " * 100_000]}),
    "a long line": ("csv", "a,b\n1," + "x" * 3_000_000 + "\n", {"a": ["1"], "b": ["x" * 3_000_000]}),
    "objects": ("jsonl", '{"a": "1"}\n\n{"a": "2024-01-01", "b": 3}\n', {"a": ["1", "2024-01-01"], "b": [None, 3]}),
    "times alone": ("jsonl", '{"a": "2024-01-01"}\n', {"a": ["2024-01-01"]}),
    "an object on several lines": ("jsonl", '{"a":\n1}\n{"a": 2}\n', {"a": [1, 2]}),
    "two objects on a line": ("jsonl", '{"a": 1}\n{"a": 2} {"a": 3}\n', {"a": [1, 2, 3]}),
    "objects with a BOM": ("jsonl", '\ufeff{"a": 1}\n', {"a": [1]}),
    "an array": ("json", '[\n {"a": 1},\n {"b": "x"}\n]\n', {"a": [1, None], "b": [None, "x"]}),
    "a long object": ("jsonl", json.dumps({"a": "x" * 3_000_000}), {"a": ["x" * 3_000_000]}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_read(read, name):
    ending, text, columns = RIGHT[name]
    assert read(text, ending) == columns
    last = list(columns)[-1]
    assert read(text, ending, [last]) == {last: columns[last]}


WRONG = {
    # ending, text: what the line says
    "nothing": ("csv", "", "Empty CSV file; write a line"),
    "blank lines alone": ("csv", "\n\r\n", "Empty CSV file; write a line"),
    "too few fields": ("csv", "a,b\n1,2\n\n3\n", "line 4 has 1 field, and the header 2; give each row"),
    "too many fields": ("tsv", "a\tb\n1\t2\t3\n", "line 2 has 3 fields, and the header 2; give each row"),
    "too few, quoted": ("csv", 'a,b,c\n"1,2",3\n', "line 2 has 2 fields, and the header 3"),
    "Latin-1": ("csv", "a,b\n1,2\n3,é\n".encode("latin-1"), "line 3 is not UTF-8 text; save the file as UTF-8"),
    "UTF-16": ("csv", "a,b\n1,2\n".encode("utf-16"), "line 1 holds a NUL byte, as UTF-8 text never does; save"),
    "a NUL": ("csv", "a,b\n1,2\n3,x\0y\n", "line 3 holds a NUL byte, as UTF-8 text never does"),
    "a NUL in JSON": ("jsonl", '{"a": 1}\n\0\n', "line 2 holds a NUL byte"),
    "a lone carriage return": ("csv", "a,b\n1,2\r3,4\n", "line 2 holds a carriage return in its midst"),
    "one beside quotes": ("csv", 'a,b\n1,"2"\n3,x\ry\n', "line 3 holds a carriage return in its midst"),
    "cut off in quotes": ("csv", 'a,b\n1,"x\ny\n', "a quotation mark on line 2 opens a value that never ends"),
    "text behind quotes": ("csv", 'a,b\n1,"x" y, z\n', "on line 2 more text follows a closing quotation mark"),
    "either way": ("csv", 'a,b\n1,"x\n2,y\n3,z"\n', "lines 2 to 4 are one row if the .* and 3 rows if not; save"),
    "either way in one column": ("tsv", 'a\n"x\ny"\n', "lines 2 to 3 are one row if .* and 2 rows if not; save"),
    "most like rows": ("csv", 'path,b\n1.jpg,"\n2.png,y\n3.jpg,y, z\n4.jpg,"\n', "lines 2 to 5 are .* and 4 rows"),
    "nearly all like rows": (
        "csv", 'a,b\n0,"two\nlines"\n1,"x\n2,y\n3,y\n4,y, or\n5,z"\n', "lines 4 to 8 are one row if .* and 5 rows if"
    ),
    "a header that does not close": ("csv", 'a,"b\n1,2\n', r"a quotation mark in the header \(line 1\) does not close"),
    "one name twice": ("csv", "a,a\n1,2\n", "has 2 columns called 'a'"),
    "JSON that is cut off": ("jsonl", '{"a": 1}\n{"a": ', r"line 2 is no JSON \(Expecting value\); write one whole"),
    "JSON of a number": ("jsonl", '{"a": 1}\n2\n', "line 2 holds no object; write one object"),
    "an array of numbers": ("json", "[1]", "element 1 of the array is no object"),
    "more than an array": ("json", '[{"a": 1}]\n{"a": 2}', "line 2 goes on after the array; write one"),
    "one name twice in JSON": ("jsonl", '{"a": 1, "a": 2}\n', "an object has the name 'a' twice; keep one"),
    "numbers and text": ("jsonl", '{"a": 1}\n{"a": "x"}\n', r"'a' holds values that no column can \(int, str\)"),
    "half a character": ("jsonl", '{"a": "\\ud800"}\n', "'a' holds values that no column can"),
    "no JSON": ("jsonl", "", "Empty JSON file; write one object on each line"),
    "a number of many digits": ("jsonl", '{"a": "x"}\n{"a": %s}' % ("9" * 5000), "it is no JSON"),
    "deep JSON": ("jsonl", '{"a": "x"}\n' + '{"a": ' * 100_000, "it is nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(read, name):
    ending, text, message = WRONG[name]
    with pytest.raises(UsageError, match=f"^the table (cannot be read: )?{message}") as refused:
        read(text, ending)
    assert "\n" not in str(refused.value)


def test_fast_and_careful_reading_agree(read):
    """A quotation mark in a last row changes how all rows are read, and not what they are."""
    draw = random.Random(0)
    rows = [[draw.choice(["", "x", "ü", " y ", "00", "a-b"]) for _ in range(3)] for _ in range(500)]
    for delimiter, ending in ((",", "csv"), ("\t", "tsv")):
        text = "".join(f"{delimiter.join(row)}\n" for row in [["a", "b", "c"], *rows])
        fast, careful = read(text, ending), read(f'{text}"q"{delimiter}{delimiter}\n', ending)
        assert fast == {name: [row[at] for row in rows] for at, name in enumerate("abc")}
        assert careful == {name: [*fast[name], "q" if name == "a" else ""] for name in "abc"}


def test_the_limit_of_the_standard_library_is_not_ours(read):
    limit = csv.field_size_limit()
    assert read('a,b\n1,"' + "x" * 2 * limit + '"\n')["b"] == ["x" * 2 * limit]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_blocks_may_end_anywhere(size):
    def scanned(text):
        data = text.encode()
        return scan(data[at : at + size] for at in range(0, len(data), size))

    assert scanned("\ufeffü,b\r\n\r\n1,2\n\n3,4") == Scan(3, "\n", False)
    assert scanned('a,b\r1,"2"\r\r3,4\r') == Scan(3, "\r", True)
    assert scanned("") == Scan(0, "\n", False)
    assert scanned("a,b\r\n1,2\r") == Scan(2, "\n", False)  # cut off within an end of line
