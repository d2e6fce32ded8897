"""A credential is on record as a fingerprint, and as nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.llm.secrets import PUBLIC_KEY, SHORTEST_SEARCHED, Redactor, fingerprint

KEY = 'sk-proj-Abc/12+34=/5&6"7 é'


def test_a_fingerprint_is_an_hmac_that_anyone_with_secret_and_key_can_recompute() -> None:
    expected = hmac.new(b"installation", KEY.encode(), hashlib.sha256).hexdigest()
    assert fingerprint(KEY, b"installation") == f"hmac-sha256:{expected}"


def test_fingerprints_differ_by_secret_and_by_key() -> None:
    assert len({fingerprint("a"), fingerprint("b"), fingerprint("a", b"k"), fingerprint("b", b"k")}) == 4


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        json.dumps(KEY),
        json.dumps(KEY, ensure_ascii=False),
        json.dumps(KEY).replace("/", "\\/"),
        f"https://host/?key={quote(KEY, safe='')}",
        f"https://host/?key={quote_plus(KEY)}",
    ],
)
def test_a_secret_is_found_in_every_spelling_that_a_reply_may_have(spelling: str) -> None:
    clean, redacted = Redactor([KEY]).text(f"You sent {spelling}, twice: {spelling}.")
    assert redacted
    assert clean.count(fingerprint(KEY)) == 2
    assert "Abc" not in clean


def test_what_holds_no_secret_stays_the_very_same_bytes() -> None:
    data = b"nothing here"
    clean, redacted = Redactor([KEY]).bytes(data, cut=True)
    assert clean is data
    assert not redacted


def test_a_secret_inside_a_longer_one_does_not_break_it_up() -> None:
    clean, _ = Redactor(["abcdefgh", "abcdefgh-ijklmnop"]).text("abcdefgh-ijklmnop abcdefgh")
    assert clean == f"{fingerprint('abcdefgh-ijklmnop')} {fingerprint('abcdefgh')}"


@pytest.mark.parametrize("kept", range(SHORTEST_SEARCHED, len("sk-0123456789abcdef") + 1))
def test_a_secret_that_a_cut_body_ends_within_is_replaced_too(kept: int) -> None:
    secret = "sk-0123456789abcdef"
    clean, redacted = Redactor([secret]).bytes(b"your key " + secret[:kept].encode(), cut=True)
    assert redacted
    assert clean == b"your key " + fingerprint(secret).encode()


def test_the_beginning_of_a_secret_in_a_whole_body_is_no_secret() -> None:
    assert Redactor(["sk-0123456789abcdef"]).bytes(b"keys look like sk-01234567") == (
        b"keys look like sk-01234567",
        False,
    )


@pytest.mark.parametrize("word", ["", "x", "none", "EMPTY", "1234567"])
def test_a_key_too_short_to_be_one_does_not_garble_replies(word: str) -> None:
    text = f"The word {word} is no secret."
    assert Redactor([word]).text(text) == (text, False)


@given(st.text(min_size=SHORTEST_SEARCHED), st.binary(), st.binary())
def test_no_secret_survives_in_any_surroundings(secret: str, before: bytes, after: bytes) -> None:
    clean, redacted = Redactor([secret]).bytes(before + secret.encode() + after)
    assert redacted
    assert secret.encode() not in clean


@given(st.text())
def test_text_without_a_secret_comes_back_as_it_was(text: str) -> None:
    assert Redactor([f"{text}-and-more-than-that"]).text(text) == (text, False)


def test_the_default_key_is_public_and_fixed() -> None:
    assert fingerprint("sk-test", PUBLIC_KEY) == fingerprint("sk-test")
    assert fingerprint("sk-test") == "hmac-sha256:" + hmac.digest(PUBLIC_KEY, b"sk-test", "sha256").hex()
