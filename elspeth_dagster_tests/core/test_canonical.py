"""Bytes that hash alike, whichever encoder writes them."""

import hmac
import json
import sys
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.core.canonical import canonical_json, keyed_sha256, ordered_json, texts_json

TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('\0\x1f\x7f\u2028"\\/\b\f\n\r\t'))
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = TEXTS | st.booleans() | st.none() | NUMBERS


@given(st.dictionaries(TEXTS, VALUES | st.lists(VALUES)))
def test_canonical_json_is_that_of_the_rfc_for_plain_objects_too(value: dict[str, Any]) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": 2**53}, {"a": "\ud800"}, {"\ud800": 1}])
def test_what_has_no_canonical_form_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content"]), TEXTS)))
def test_texts_are_encoded_as_any_other_json_that_keeps_its_order(value: list[dict[str, str]]) -> None:
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert texts_json(value) == ordered_json(value) == written


def test_half_a_surrogate_pair_has_no_bytes() -> None:
    with pytest.raises(ValueError):
        texts_json([{"content": "\ud800"}])


@given(st.integers(1, sys.maxsize), st.binary(max_size=64), st.binary(max_size=5000))
def test_a_keyed_name_is_the_hmac_of_the_rfc(scope_id: int, key: bytes, data: bytes) -> None:
    expected = f"hmac-sha256:{scope_id}:{hmac.digest(key, data, 'sha256').hex()}"
    assert keyed_sha256(scope_id, key, data) == expected
    assert keyed_sha256(scope_id, key, data) == expected, "the key's own hashes are used again, unspoilt"
