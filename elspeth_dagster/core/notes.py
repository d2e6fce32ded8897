"""Signed notes: a few lines of text with Ed25519 signatures below (https://c2sp.org/signed-note).

    elspeth-dagster/01J…/log
    1042
    6uqNtq…=

    — our-key Az3grl…=

The signature is over the text with its last newline. A key is known by its name and its id, the first four bytes of
SHA-256(name || newline || 0x01 || public key). A verifier key, which may be handed to anybody, is written
`<name>+<id>+<base64>`; a signer key, which is kept secret, `PRIVATE+KEY+<name>+<id>+<base64>`.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from elspeth_dagster.core.errors import NoteError

ED25519 = b"\1"
KEY_BYTES, ID_BYTES, SIGNATURE_BYTES = 32, 4, 64
PRIVATE = "PRIVATE+KEY+"
SIGNED_BY = "— "  # an em dash and a space
LONGEST = 1_000_000  # characters of a note


class Verifier(NamedTuple):
    """A public key under a name."""

    name: str
    public_key: bytes

    @classmethod
    def read(cls, vkey: str) -> Verifier:
        """The key that is written as a verifier key. Raises NoteError when it isn't one."""
        name, key_id, key = _parts(vkey, "a verifier key is written <name>+<id>+<base64>")
        verifier = cls(name, key)
        if verifier.key_id.hex() != key_id:
            raise NoteError(f"the verifier key of {name} doesn't have the id that it is written with")
        return verifier

    @property
    def key_id(self) -> bytes:
        """What tells keys of one name apart, 4 bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public_key).digest()[:ID_BYTES]

    @property
    def vkey(self) -> str:
        """The key as it is handed out."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(ED25519 + self.public_key).decode()}"

    def verifies(self, signature: bytes, text: str) -> bool:
        """Whether this key made the signature of the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """Whatever signs bytes under a name: a key that was read, or something that keeps it to itself."""

    verifier: Verifier
    sign: Callable[[bytes], bytes] = field(repr=False)

    @classmethod
    def read(cls, skey: str) -> Signer:
        """The key that is written as a signer key. Raises NoteError when it isn't one, and never shows it."""
        what = f"a signer key is written {PRIVATE}<name>+<id>+<base64>"
        if not skey.startswith(PRIVATE):
            raise NoteError(what)
        name, key_id, seed = _parts(skey.removeprefix(PRIVATE), what)
        signer = cls._of(name, Ed25519PrivateKey.from_private_bytes(seed))
        if signer.verifier.key_id.hex() != key_id:
            raise NoteError(f"the signer key of {name} doesn't have the id that it is written with")
        return signer

    @classmethod
    def _of(cls, name: str, key: Ed25519PrivateKey) -> Signer:
        return cls(Verifier(name, key.public_key().public_bytes_raw()), key.sign)

    def signed(self, text: str) -> str:
        """The note of a text that ends in a newline."""
        signature = b64encode(self.verifier.key_id + self.sign(text.encode())).decode()
        return f"{unsigned(text)}{SIGNED_BY}{self.verifier.name} {signature}\n"


def new_signer_key(name: str) -> str:
    """A new key as it is kept secret. Raises NoteError for a name that no key may have."""
    key = Ed25519PrivateKey.generate()
    verifier = Verifier(checked_name(name), key.public_key().public_bytes_raw())
    return f"{PRIVATE}{name}+{verifier.key_id.hex()}+{b64encode(ED25519 + key.private_bytes_raw()).decode()}"


def checked_name(name: str) -> str:
    """A key's name: not empty, without spaces or a plus, printable. Raises NoteError for another."""
    if not name or "+" in name or not name.isprintable() or any(character.isspace() for character in name):
        raise NoteError("a key's name holds printable characters without spaces and plus signs, at least one")
    return name


def _parts(key: str, otherwise: str) -> tuple[str, str, bytes]:
    name, _, rest = key.partition("+")
    key_id, _, encoded = rest.partition("+")
    data = _decoded(encoded)
    if data is None or data[:1] != ED25519 or len(data) != 1 + KEY_BYTES:
        raise NoteError(f"{otherwise}, for Ed25519")
    return checked_name(name), key_id, data[1:]


def _decoded(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


class Signature(NamedTuple):
    """A line below a note: who says to have signed, and the signature."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A note that was read; nothing is known yet of its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def read(cls, note: str) -> Note:
        """The note that is written so. Raises NoteError when it is none."""
        text, below = _halves(note)
        return cls(text, tuple(_signature(line) for line in below))

    def signed_by(self, keys: Iterable[Verifier]) -> list[Verifier]:
        """Those of the keys whose signature it has.

        Raises NoteError when a signature that says to be of one of them isn't: such a note is forged or damaged.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found = []
        for name, key_id, signature in self.signatures:
            if (key := known.get((name, key_id))) is None:
                continue
            if not key.verifies(signature, self.text):
                raise NoteError(f"the signature of {name} doesn't fit the note: it is forged or damaged")
            found.append(key)
        return found


def unsigned(text: str) -> str:
    """A text that ends in a newline, as a note with no signature."""
    if not text.endswith("\n") or "\n\n" in text:
        raise NoteError("the text of a note ends in a newline, and has no empty line")
    return f"{text}\n"


def _halves(note: str) -> tuple[str, list[str]]:
    if len(note) > LONGEST or any(character < " " and character != "\n" for character in note):
        raise NoteError("a note is short, and has no control characters")
    text, gap, below = note.rpartition("\n\n")
    if not gap or not text or (below and not below.endswith("\n")):
        raise NoteError("a note is a text, an empty line, and a line for each signature")
    return f"{text}\n", below.split("\n")[:-1]


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(SIGNED_BY).partition(" ")
    data = _decoded(encoded)
    if not line.startswith(SIGNED_BY) or data is None or len(data) <= ID_BYTES:
        raise NoteError("a signature's line is an em dash, the key's name and base64")
    return Signature(checked_name(name), data[:ID_BYTES], data[ID_BYTES:])
