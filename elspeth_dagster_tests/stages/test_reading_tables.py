from __future__ import annotations

import io
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.stages.reading import Record, Rejection, read_frame, read_records
from elspeth_dagster_tests.stages.reading_by_hand import ALL_TYPES, read, source, told

PARQUET = source("parquet", ALL_TYPES)
FRAME = PARQUET.model_copy(update={"path": None, "format": None, "asset": "upstream"})
MOMENT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
SOUND = {"id": "a", "n": 1, "x": 0.5, "b": True, "d": date(2026, 1, 31), "t": MOMENT}
AS_JSON = {**SOUND, "d": "2026-01-31", "t": "2026-01-31T09:30:00Z"}


def parquet(columns: dict[str, object], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def frame_of(**changes: object) -> pd.DataFrame:
    """Two rows of which the first has other values than the sound second."""
    return pd.DataFrame([{**SOUND, "id": "first", **changes}, SOUND], dtype=object)


def framed(frame: pd.DataFrame) -> list[Record | Rejection]:
    return list(read_frame(frame, "asset upstream", FRAME))


def test_a_parquet_record_has_values_and_neither_line_nor_bytes():
    assert read(parquet({name: [value] for name, value in SOUND.items()}), PARQUET) == [
        Record(0, None, "a", AS_JSON, None)
    ]


def test_parquet_is_read_in_order_over_row_groups_from_a_stream_that_cannot_seek():
    class Pipe(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.rest = io.BytesIO(data)

        def read(self, size=-1, /):
            return self.rest.read(size)

    spec = source("parquet", {"id": "int"})
    data = parquet({"id": pa.array(range(5000))}, row_group_size=700)
    assert [record.values["id"] for record in read_records(Pipe(data), "p", spec)] == list(range(5000))


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("id", pa.array([None, "a"]), "blank_key"),
        ("id", pa.array(["a", "a"]), "repeated_key"),
        ("id", pa.array([b"x", b"a"], pa.binary()), "type"),
        ("n", pa.array([1.0, None]), "type"),
        ("n", pa.array([True, None]), "type"),
        ("n", pa.array([2**53, 1]), "out_of_range"),
        ("n", pa.array([[1], None]), "type"),
        ("x", pa.array([float("nan"), 1.0]), "not_finite"),
        ("x", pa.array([float("inf"), 1.0]), "not_finite"),
        ("b", pa.array([1, None]), "type"),
        ("d", pa.array([datetime(2026, 1, 31), None]), "type"),
        ("t", pa.array([10**18, 0], pa.timestamp("us")), "out_of_range"),
        ("t", pa.array([1, 1000], pa.timestamp("ns")), "type"),
    ],
)
def test_a_bad_parquet_value_rejects_its_record_only(column, values, reason):
    columns = {name: [value, value] for name, value in SOUND.items()} | {"id": ["first", "a"], column: values}
    results = read(parquet(columns), PARQUET)
    bad = results.pop(1 if reason == "repeated_key" else 0)
    assert told(bad) == (None, reason, column)
    assert bad.raw.startswith(b'{"id": ')
    if column != "id":
        assert [record.key for record in results] == ["a"]


def test_parquet_text_that_is_not_utf8_rejects_its_record_only():
    buffers = pa.array([b"ok", b"caf\xe9", b"too"], pa.binary()).buffers()
    broken = pa.StringArray.from_buffers(3, buffers[1], buffers[2])
    results = read(parquet({"id": broken}), source("parquet", {"id": "str"}))
    assert [told(result) for result in results] == [(None, "ok"), (None, "encoding", "id"), (None, "too")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "data.parquet: is empty"),
        (b"id,n\n1,2\n", "data.parquet: can't be read as Parquet"),
        (parquet({"id": ["a"]})[:-20], "data.parquet: can't be read as Parquet"),
        (
            parquet({"id": ["a"], "y": [1]}),
            "data.parquet: column 'y' is not declared; declared column 'n' is missing",
        ),
    ],
)
def test_what_is_no_fitting_parquet_refuses_the_source(data, words):
    with pytest.raises(SourceError) as caught:
        read(data, PARQUET)
    assert words in str(caught.value)


def test_a_time_zone_that_nobody_knows_refuses_the_source():
    moments = pa.array([0], pa.timestamp("us", tz="Nowhere/Town"))
    with pytest.raises(SourceError, match="Nowhere/Town"):
        read(parquet({"t": moments}), source("parquet", {"t": "datetime"}))


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_damaged_parquet_file_raises_nothing_but_a_source_error(data):
    damaged = bytearray(parquet({name: [value] * 3 for name, value in SOUND.items()}))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(damaged), PARQUET)
    except SourceError as error:
        assert str(error).startswith("data.parquet")


def test_a_frame_is_read_in_its_order_whatever_its_index_and_column_order():
    frame = pd.DataFrame([SOUND, {**SOUND, "id": "b"}], index=[7, 7])[["t", "d", "b", "x", "n", "id"]]
    assert framed(frame) == [
        Record(0, None, "a", AS_JSON, None),
        Record(1, None, "b", {**AS_JSON, "id": "b"}, None),
    ]
    assert list(framed(frame)[0].values) == list(ALL_TYPES)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, np.datetime64("NaT")])
@pytest.mark.parametrize("column", ["n", "x", "b", "d", "t"])
def test_everything_that_pandas_calls_missing_is_null(column, missing):
    first, _ = framed(frame_of(**{column: missing}))
    assert first.values == {**AS_JSON, "id": "first", column: None}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("n", 7.0, 7),
        ("n", np.int64(7), 7),
        ("n", np.uint8(7), 7),
        ("x", np.float32(0.5), 0.5),
        ("x", Decimal("0.5"), 0.5),
        ("b", np.bool_(False), False),
        ("d", pd.Timestamp("2026-01-31"), "2026-01-31"),
        ("t", pd.Timestamp("2026-01-31 10:30", tz="Europe/Berlin"), "2026-01-31T09:30:00Z"),
        ("t", pd.Timestamp("2026-01-31 09:30:00.000001"), "2026-01-31T09:30:00.000001Z"),
    ],
)
def test_what_pandas_widened_is_narrowed_again(column, value, expected):
    first, _ = framed(frame_of(**{column: value}))
    assert repr(first.values[column]) == repr(expected)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("id", float("nan"), "blank_key"),
        ("id", 5, "type"),
        ("id", "a\0", "nul"),
        ("id", "\ud800", "encoding"),
        ("n", 1.5, "type"),
        ("n", 1e300, "out_of_range"),
        pytest.param("n", 10**5000, "out_of_range", id="ten to the 5000"),
        ("n", True, "type"),
        ("n", np.datetime64("2026-01-31", "ns"), "type"),
        ("n", np.timedelta64(5, "ns"), "type"),
        ("n", np.array([1, 2]), "type"),
        ("n", {("tuple",): 1}, "type"),
        ("x", float("inf"), "not_finite"),
        ("x", Decimal("Infinity"), "not_finite"),
        ("d", pd.Timestamp("2026-01-31 10:00"), "type"),
        ("t", pd.Timestamp("2026-01-31 10:00:00.000000001"), "type"),
    ],
)
def test_a_bad_frame_value_rejects_its_record_only(column, value, reason):
    rejection, neighbour = framed(frame_of(**{column: value}))
    assert told(rejection) == (None, reason, column)
    assert b'"b": true' in rejection.raw and rejection.raw.isascii()
    assert neighbour.values == AS_JSON


def test_a_repeated_key_of_a_frame_names_the_record_of_the_first():
    _, again = framed(pd.DataFrame([SOUND, SOUND]))
    assert told(again) == (None, "repeated_key", "id")
    assert "in record 0" in again.message


def test_a_column_of_ints_with_gaps_is_read_as_ints_and_nulls():
    frame = pd.DataFrame({"id": ["a", "b"], "n": [1, None]})
    spec = FRAME.model_copy(update={"columns": {"id": "str", "n": "int"}})
    assert [record.values["n"] for record in read_frame(frame, "f", spec)] == [1, None]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["id", "id"], "column 'id' is there 2 times"),
        (["id", 7], "column a number is not declared"),
        (["id"], "declared column 'n' is missing"),
    ],
)
def test_a_frame_of_other_columns_refuses_the_source(columns, words):
    frame = pd.DataFrame([["a"] * len(columns)], columns=columns)
    with pytest.raises(SourceError) as caught:
        framed(frame)
    assert str(caught.value).startswith("asset upstream: ")
    assert words in str(caught.value)


def test_a_frame_without_rows_is_an_empty_source():
    assert framed(pd.DataFrame(columns=list(ALL_TYPES))) == []


def test_a_source_without_a_file_has_no_format_to_read_by():
    with pytest.raises(SourceError, match="no format"):
        read_records(io.BytesIO(b""), "x", FRAME)
