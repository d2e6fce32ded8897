"""Signed notes: the example that is published, what is written is read, what is forged or malformed is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.core.checkpoints import LogCheckpoint, RunSeal
from elspeth_dagster.core.errors import NoteError
from elspeth_dagster.core.notes import Note, Signer, Verifier, new_signer_key, unsigned

# https://pkg.go.dev/golang.org/x/mod/sumdb/note
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
NOTE = f"{TEXT}\n— PeterNeumann {SIGNATURE}\n"
ROOT = bytes(range(32))
SEALS = st.builds(
    RunSeal,
    st.just("elspeth-dagster/01J"),
    st.uuids().map(str),
    st.integers(0, 2**62),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(["completed", "failed"]),
    st.dictionaries(st.sampled_from(["runs", "calls"]), st.integers(0, 2**53 - 1)),
    st.none() | st.tuples(st.uuids().map(str), st.binary(min_size=32, max_size=32)),
)


def test_the_published_example_is_verified_and_made_again() -> None:
    key = Verifier.read(VKEY)
    assert Note.read(NOTE).signed_by([key]) == [key]
    assert Note.read(NOTE).text == TEXT
    assert Signer.read(SKEY).signed(TEXT) == NOTE
    assert Signer.read(SKEY).verifier.vkey == key.vkey == VKEY


def test_a_new_key_signs_what_its_public_half_verifies() -> None:
    signer = Signer.read(new_signer_key("ours"))
    key = Verifier.read(signer.verifier.vkey)
    assert Note.read(signer.signed(TEXT)).signed_by([key, Verifier.read(VKEY)]) == [key]


def test_a_signature_of_another_key_counts_for_nothing() -> None:
    assert Note.read(NOTE).signed_by([Signer.read(new_signer_key("PeterNeumann")).verifier]) == []


@given(st.integers(0, len(TEXT.encode()) * 8 - 1))
def test_a_text_with_another_bit_is_refused(bit: int) -> None:
    flipped = bytearray(TEXT.encode())
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        note = NOTE.replace(TEXT, flipped.decode())
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteError):
        Note.read(note).signed_by([Verifier.read(VKEY)])


@pytest.mark.parametrize(
    "note",
    ["", "\n", "\n\n", "text\n", f"{TEXT}\nPeterNeumann {SIGNATURE}\n", f"{TEXT}\n— PeterNeumann {SIGNATURE}",
     f"{TEXT}\n— PeterNeumann x0\n", f"{TEXT}\n— PeterNeumann\n", f"{TEXT}\n— Peter+Neumann {SIGNATURE}\n",
     f"\t{NOTE}", f"{NOTE}\0", f"{TEXT}\n—  {SIGNATURE}\n", f"{TEXT}\n— PeterNeumann {SIGNATURE}\n— \n"],
)  # fmt: skip
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        Note.read(note)


def test_a_note_without_a_signature_is_read_and_signed_by_nobody() -> None:
    note = Note.read(unsigned(TEXT))
    assert (note.text, note.signatures) == (TEXT, ())
    assert note.signed_by([Verifier.read(VKEY)]) == []


@pytest.mark.parametrize(
    "key", ["", "x", "a+b", VKEY.replace("c74f", "c74e"), VKEY.replace("+AR", "+AA"), VKEY[:-4], VKEY + "AAAA",
            VKEY.replace("Peter", "Peter "), VKEY.replace("PeterNeumann", "")]
)  # fmt: skip
def test_a_malformed_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(NoteError):
        Verifier.read(key)


@pytest.mark.parametrize("key", [VKEY, SKEY[:-4], SKEY.replace("c74f", "c74e"), SKEY.replace("+AY", "+BY")])
def test_a_malformed_signer_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(NoteError) as refused:
        Signer.read(key)
    assert SKEY[-40:-8] not in str(refused.value) + repr(refused.value)
    assert SKEY[-40:-8] not in repr(Signer.read(SKEY))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\x00"])
def test_a_name_that_no_key_may_have_is_refused(name: str) -> None:
    with pytest.raises(NoteError):
        new_signer_key(name)


@given(SEALS)
def test_a_seal_says_what_it_was_told(seal: RunSeal) -> None:
    assert RunSeal.read(seal.text()) == seal


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_says_what_it_was_told(size: int, root: bytes) -> None:
    checkpoint = LogCheckpoint("elspeth-dagster/01J", size, root)
    assert LogCheckpoint.read(checkpoint.text()) == checkpoint


def test_the_texts_are_those_of_the_format() -> None:
    seal = RunSeal("elspeth-dagster/01J", "r1", 3, ROOT, "completed", {"runs": 1, "calls": 2}, ("r0", ROOT))
    root = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert seal.text() == (
        f'elspeth-dagster/01J/run/r1\n3\n{root}\nstatus completed\ncounts {{"calls":2,"runs":1}}\nparent r0 {root}\n'
    )
    assert seal._replace(parent=None).text().endswith("\nparent -\n")
    assert LogCheckpoint("elspeth-dagster/01J", 7, ROOT).text() == f"elspeth-dagster/01J/log\n7\n{root}\n"


@pytest.mark.parametrize("text", ["", "a/log\n1\n", "a/log\n01\n{root}\n", "a/log\n-1\n{root}\n", "a/logs\n1\n{root}\n",
                                  "a/log\n1\n{root}\nmore\n", "a/log\n1\nAA==\n"])  # fmt: skip
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        LogCheckpoint.read(text.replace("{root}", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
