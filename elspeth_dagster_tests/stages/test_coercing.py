from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.stages.coercing import MAX_INT, coerce_text, coerce_value
from elspeth_dagster.stages.finding import Refused

TEXTS = [
    ("str", "", ""),
    ("str", "  as it is ", "  as it is "),
    ("int", "", None),
    ("int", " \t", None),
    ("int", "+7", 7),
    ("int", "-007", -7),
    ("int", " 42 ", 42),
    ("int", str(MAX_INT), MAX_INT),
    ("float", "1", 1.0),
    ("float", ".5", 0.5),
    ("float", "5.", 5.0),
    ("float", "-1.5E-3", -0.0015),
    ("float", "", None),
    ("bool", "TRUE", True),
    ("bool", "Yes", True),
    ("bool", "1", True),
    ("bool", "no", False),
    ("bool", "0", False),
    ("bool", "False", False),
    ("bool", "", None),
    ("date", "2024-02-29", "2024-02-29"),
    ("date", "", None),
    ("datetime", "2026-01-31", "2026-01-31T00:00:00Z"),
    ("datetime", "2026-01-31 09:30", "2026-01-31T09:30:00Z"),
    ("datetime", "2026-01-31T09:30:00.5", "2026-01-31T09:30:00.500000Z"),
    ("datetime", "2026-01-31T09:30:00+01:00", "2026-01-31T08:30:00Z"),
    ("datetime", "2026-01-31T09:30:00-0530", "2026-01-31T15:00:00Z"),
    ("datetime", "2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z"),
]

BAD_TEXTS = [
    ("int", "1_000", "type"),
    ("int", "1,000", "type"),
    ("int", "1.0", "type"),
    ("int", "1e3", "type"),
    ("int", "0x10", "type"),
    ("int", "- 1", "type"),
    ("int", "٣", "type"),
    ("int", "NA", "type"),
    ("int", str(MAX_INT + 1), "out_of_range"),
    ("int", "-" + str(MAX_INT + 1), "out_of_range"),
    ("int", "9" * 5000, "out_of_range"),
    ("float", "1_0.5", "type"),
    ("float", "1,5", "type"),
    ("float", "0x1p3", "type"),
    ("float", ".", "type"),
    ("float", "e5", "type"),
    ("float", "٣.٥", "type"),
    ("float", "9" * 200_000 + "x", "type"),
    ("float", "nan", "not_finite"),
    ("float", "NaN", "not_finite"),
    ("float", "-Infinity", "not_finite"),
    ("float", "inf", "not_finite"),
    ("float", "1e999", "out_of_range"),
    ("float", "-1e999", "out_of_range"),
    ("bool", "2", "type"),
    ("bool", "y", "type"),
    ("date", "2026-02-30", "type"),
    ("date", "20260131", "type"),
    ("date", "2026-W05-6", "type"),
    ("date", "31.01.2026", "type"),
    ("date", "2026-01-31T00:00:00", "type"),
    ("datetime", "2026-01-31x09:30", "type"),
    ("datetime", "2026-01-31T25:00", "type"),
    ("datetime", "2026-01-31T09:30:00.1234567", "type"),
    ("datetime", "1706693400", "type"),
    ("datetime", "0001-01-01T00:00:00+05:00", "out_of_range"),
    ("datetime", "9999-12-31T23:59:59-05:00", "out_of_range"),
]

VALUES = [
    ("str", "é", "é"),
    ("int", -3, -3),
    ("float", 3, 3.0),
    ("float", Decimal("0.10"), 0.1),
    ("float", 10**300, 1e300),
    ("bool", False, False),
    ("date", date(2026, 1, 31), "2026-01-31"),
    ("date", "2026-01-31", "2026-01-31"),
    ("datetime", datetime(2026, 1, 31, 9, 30), "2026-01-31T09:30:00Z"),
    ("datetime", datetime(2026, 1, 31, 9, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T07:00:00Z"),
    ("datetime", "2026-01-31T09:30:00+01:00", "2026-01-31T08:30:00Z"),
]

BAD_VALUES = [
    ("str", 1, "type"),
    ("str", True, "type"),
    ("str", b"x", "type"),
    ("str", ["x"], "type"),
    ("str", "a\0b", "nul"),
    ("str", "a\ud800", "encoding"),
    ("int", 1.0, "type"),
    ("int", True, "type"),
    ("int", "1", "type"),
    ("int", Decimal(1), "type"),
    ("int", MAX_INT + 1, "out_of_range"),
    ("float", True, "type"),
    ("float", "1.5", "type"),
    ("float", float("nan"), "not_finite"),
    ("float", float("-inf"), "not_finite"),
    ("float", Decimal("NaN"), "not_finite"),
    ("float", 10**400, "out_of_range"),
    ("bool", 1, "type"),
    ("bool", "true", "type"),
    ("date", datetime(2026, 1, 31), "type"),
    ("date", "", "type"),
    ("date", " 2026-01-31", "type"),
    ("date", 20260131, "type"),
    ("datetime", date(2026, 1, 31), "type"),
    ("datetime", "", "type"),
    ("datetime", 1706693400, "type"),
]


@pytest.mark.parametrize(("kind", "text", "value"), TEXTS)
def test_text_is_read_by_the_grammar_of_its_type(kind, text, value):
    assert repr(coerce_text(text, "c", kind)) == repr(value)


@pytest.mark.parametrize(("kind", "value", "expected"), VALUES)
def test_a_typed_value_is_kept(kind, value, expected):
    assert repr(coerce_value(value, "c", kind)) == repr(expected)


@pytest.mark.parametrize("kind", ["str", "int", "float", "bool", "date", "datetime"])
def test_null_is_none_in_every_type(kind):
    assert coerce_value(None, "c", kind) is None


@pytest.mark.parametrize(
    ("coerce", "kind", "value", "reason"),
    [(coerce_text, *case) for case in BAD_TEXTS] + [(coerce_value, *case) for case in BAD_VALUES],
)
def test_what_is_not_of_its_type_is_refused_with_reason_and_column(coerce, kind, value, reason):
    with pytest.raises(Refused) as caught:
        coerce(value, "the column", kind)
    assert (caught.value.reason, caught.value.column) == (reason, "the column")
    assert "'the column'" in caught.value.message


def test_a_message_shows_only_a_short_and_escaped_excerpt():
    with pytest.raises(Refused) as caught:
        coerce_value("secret\n\x1b[31m\u202e\ud800" + "s" * 1000, "n", "date")
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
    caught.value.message.encode()


def test_negative_zero_is_zero():
    assert str(coerce_text("-0.0", "c", "float")) == "0.0"
    assert str(coerce_value(-0.0, "c", "float")) == "0.0"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_comes_back_from_its_text(number):
    assert coerce_text(repr(number), "c", "float") == number


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_is_the_same_instant_in_utc(moment):
    text = moment.isoformat()
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        return
    if moment.utcoffset().seconds % 60 == 0:  # before 1900 zones had seconds, which text with offsets lacks
        assert datetime.fromisoformat(coerce_text(text, "c", "datetime")) == expected
    assert datetime.fromisoformat(coerce_value(moment, "c", "datetime")) == expected


@given(
    st.sampled_from(["str", "int", "float", "bool", "date", "datetime"]),
    st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.dates(), st.datetimes(), st.decimals()),
)
def test_whatever_is_accepted_has_a_canonical_form(kind, value):
    try:
        coerced = coerce_value(value, "c", kind)
    except Refused:
        return
    canonical_json(coerced)
