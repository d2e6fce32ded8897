from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.stages import splitting
from elspeth_dagster.stages.reading import Record, Rejection, read_records
from elspeth_dagster_tests.stages.reading_by_hand import read, source, told

COLUMNS = {"id": "str", "n": "int", "x": "float"}
LINES = source("jsonl", COLUMNS)
LIST = source("json", COLUMNS)

BAD = [
    (b'{"id": "b", "n": 1, "x": 1', "syntax", None),
    (b'{"id": "b", "n": 1, "x": 1} extra', "syntax", None),
    (b'{"id": "b", "n": 1, "x": .5}', "syntax", None),
    (b'{"id": "tab\there", "n": 1, "x": 1}', "syntax", None),
    (b"b,1,1", "syntax", None),
]

BAD_VALID = [
    (b"[1]", "not_an_object", None),
    (b'"text"', "not_an_object", None),
    (b"null", "not_an_object", None),
    (b"NaN", "not_an_object", None),
    (b'{"id": "b", "n": 1, "n": 1, "x": 1}', "duplicate_field", "n"),
    (b'{"id": "b", "n": 1, "x": 1, "y": 1}', "unknown_field", None),
    (b'{"id": "b", "n": 1, "x": 1, "\\ud800": 1}', "unknown_field", None),
    (b'{"id": "b", "n": 1}', "missing_field", "x"),
    (b'{"id": "b", "n": 1.0, "x": 1}', "type", "n"),
    (b'{"id": "b", "n": true, "x": 1}', "type", "n"),
    (b'{"id": "b", "n": "1", "x": 1}', "type", "n"),
    (b'{"id": "b", "n": [1], "x": 1}', "type", "n"),
    (b'{"id": "b", "n": {"n": 1, "n": 2}, "x": 1}', "type", "n"),
    (b'{"id": 1, "n": 1, "x": 1}', "type", "id"),
    (b'{"id": "b", "n": 9007199254740992, "x": 1}', "out_of_range", "n"),
    (b'{"id": "b", "n": -' + b"9" * 5000 + b', "x": 1}', "out_of_range", "n"),
    (b'{"id": "b", "n": 1, "x": 1e999}', "out_of_range", "x"),
    (b'{"id": "b", "n": 1, "x": NaN}', "not_finite", "x"),
    (b'{"id": "b", "n": 1, "x": -Infinity}', "not_finite", "x"),
    (b'{"id": "b\\u0000", "n": 1, "x": 1}', "nul", "id"),
    (b'{"id": "b\\ud800", "n": 1, "x": 1}', "encoding", "id"),
    (b'{"id": "caf\xe9", "n": 1, "x": 1}', "encoding", None),
    (b'{"id": "b", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b', "x": 1}', "too_deep", None),
    (b'{"id": "b", "n": ' + b'{"]\\"": ' * 50_000 + b"1" + b"}" * 50_000 + b', "x": 1}', "too_deep", None),
    (b'{"id": " ", "n": 1, "x": 1}', "blank_key", "id"),
    (b'{"id": null, "n": 1, "x": 1}', "blank_key", "id"),
    (b'{"id": "a", "n": 2, "x": 2}', "repeated_key", "id"),
]

A, C = b'{"id": "a", "n": 1, "x": 1}', b'{"x": 3e0, "n": null, "id": "c"}'


@pytest.mark.parametrize(("bad", "reason", "column"), [*BAD, *BAD_VALID, (b'{"id": "b\0"}', "nul", None)])
def test_a_bad_line_is_a_rejection_with_its_bytes_between_sound_neighbours(bad, reason, column):
    before, rejection, after = read(A + b"\n\n" + bad + b"\n" + C, LINES)
    assert told(before) == (1, "a", 1, 1.0)
    assert (after.index, *told(after)) == (2, 4, "c", None, 3.0)
    assert isinstance(rejection, Rejection)
    assert told(rejection) == (3, reason, column)
    assert (rejection.index, rejection.raw) == (1, bad)
    assert rejection.message.endswith(".") and rejection.message.isprintable() and len(rejection.message) < 250


@pytest.mark.parametrize(("bad", "reason", "column"), BAD_VALID)
def test_a_bad_element_of_a_list_is_a_rejection_with_its_bytes_between_sound_neighbours(bad, reason, column):
    before, rejection, after = read(b"[\n" + A + b",\n\n " + bad + b" ,\n" + C + b"]\n", LIST)
    assert told(before) == (2, "a", 1, 1.0)
    assert (after.index, *told(after)) == (2, 5, "c", None, 3.0)
    assert told(rejection) == (4, reason, column)
    assert (rejection.index, rejection.raw) == (1, bad)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "data.json: is empty"),
        (b"  \n", "data.json: is not a JSON list"),
        (b'{"rows": []}', "data.json: is not a JSON list"),
        (A + b"\n" + C, "`format: jsonl`"),
        (b"[" + A + b",\n" + C[:-1], "data.json, line 2, column"),
        (b"[" + A + b"\n" + C + b"]", "data.json, line 1, column 29: is not JSON (Expecting ',' or ']')"),
        (b"[" + A + b",]", "data.json, line 1, column 30: is not JSON (Expecting value)"),
        (b"[" + A, "Expecting ',' or ']'"),
        (b"[", "Expecting value"),
        (b"[]\n[]", "data.json, line 2, column 1: is not JSON (Nothing may follow the list)"),
        (b"[" * 100_000, "never closed"),
        ("[]".encode("utf-16"), "Convert it to UTF-8"),
    ],
)
def test_what_is_not_one_json_list_refuses_the_source(data, words):
    with pytest.raises(SourceError) as caught:
        read(data, LIST)
    assert words in str(caught.value)


@pytest.mark.parametrize("data", [b"[]", b" [ ] \n", b"\xef\xbb\xbf[]"])
def test_an_empty_list_is_an_empty_source(data):
    assert read(data, LIST) == []


def test_an_empty_jsonl_file_refuses_the_source_and_one_empty_line_does_not():
    with pytest.raises(SourceError, match=r"data\.jsonl: is empty"):
        read(b"", LINES)
    assert read(b"\n", LINES) == []


def test_jsonl_lines_end_at_line_feeds_only():
    assert read(b'\xef\xbb\xbf{"id":\r"a","n":1,"x":1}\r\n', LINES) == [
        Record(0, 1, "a", {"id": "a", "n": 1, "x": 1.0}, b'{"id":\r"a","n":1,"x":1}')
    ]


def test_a_line_larger_than_a_record_may_be_is_rejected_with_its_beginning(monkeypatch):
    monkeypatch.setattr(splitting, "MAX_RECORD_BYTES", 40)
    big, sound = read(b'{"id": "' + b"x" * 30 + b"\r" * 2 + b"y" * 60 + b'"}\n' + A, LINES)
    assert told(big) == (1, "too_large", None)
    assert big.raw == b'{"id": "' + b"x" * 30 + b"\r\ry"
    assert told(sound) == (2, "a", 1, 1.0)


def test_jsonl_is_streamed():
    stream = io.BytesIO(b"".join(b'{"id": "%d", "n": 1, "x": 1}\n' % n for n in range(200_000)))
    records = read_records(stream, "data.jsonl", LINES)
    assert next(records).key == "0"
    assert stream.tell() < 100_000
    assert sum(1 for _ in records) == 199_999


SOUP = st.lists(
    st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"1e9", b"NaN", b'"id"', b"\\", b"\xff"])
    | st.binary(max_size=5)
).map(b"".join)


@given(SOUP)
@settings(max_examples=300)
def test_every_line_of_any_bytes_is_in_exactly_one_record_or_rejection(soup):
    results = read(A + b"\n" + soup, LINES)
    lines = [line.removesuffix(b"\r") for line in soup.split(b"\n") if line.strip(b" \t\r")]
    assert [result.raw for result in results[1:]] == lines


@given(SOUP)
@settings(max_examples=300)
def test_any_bytes_in_a_list_raise_nothing_but_a_source_error(soup):
    try:
        results = read(b"[" + A + b"," + soup + b"]", LIST)
    except SourceError:
        return
    assert all(result.raw in soup for result in results[1:])


VALUES = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    }
)
ROWS = st.dictionaries(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(str.strip),
    VALUES,
    min_size=1,
)


@given(ROWS, st.booleans())
def test_whatever_was_written_as_json_is_read_back_exactly(rows, ascii_only):
    objects = [{"id": key, **values} for key, values in rows.items()]
    as_lines = "\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in objects).encode()
    as_list = json.dumps(objects, ensure_ascii=ascii_only, indent=1).encode()
    assert [record.values for record in read(as_lines, LINES)] == objects
    assert [record.values for record in read(as_list, LIST)] == objects


@given(ROWS, ROWS, SOUP.map(lambda soup: soup.replace(b"\n", b"")).filter(lambda soup: soup.strip(b" \t\r")))
def test_one_corrupt_line_never_changes_its_neighbours(before, after, garbage):
    rows = [{"id": "before " + key, **row} for key, row in before.items()]
    rows += [{"id": "after " + key, **row} for key, row in after.items()]
    lines = [json.dumps(row).encode() for row in rows]
    lines.insert(len(before), garbage)
    results = read(b"\n".join(lines), LINES)
    del results[len(before)]
    assert [record.values for record in results] == rows
