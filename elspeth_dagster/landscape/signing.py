"""Signing keys: a file that nobody else can read, with the key, or with a command that signs by one it keeps.

The file is named by ELSPETH_SIGNING_KEY. It holds one line, `PRIVATE+KEY+<name>+<id>+<base64>`, or two:

    tenders.example+6c01e479+ARm9…                       the verifier key
    command:/usr/local/bin/sign-with-kms alias/audit     gets the bytes on its standard input, and prints the signature

The key itself is in no configuration, log, error or record.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from elspeth_dagster.core.errors import NoteError, SettingsError
from elspeth_dagster.core.notes import SIGNATURE_BYTES, Signer, Verifier, checked_name, new_signer_key

OTHERS = stat.S_IRWXG | stat.S_IRWXO
LONGEST = 4096
COMMAND = "command:"
PATIENCE = 30  # seconds for a command


def make_key(path: Path, name: str) -> Signer:
    """A new key in a new file, mode 0600. Raises SettingsError where there is one, or none can be made."""
    key = new_signer_key(name)
    _write(path, key)
    return Signer.read(key)


def make_commanded(path: Path, name: str, public_key: Path, words: Sequence[str]) -> Signer:
    """A signer that is a command, in a new file, mode 0600; it has signed once to try it.

    Raises SettingsError where the public key, PEM or DER, is none for Ed25519, or the command signs by another one.
    """
    signer = _commanded(Verifier(checked_name(name), _public_key(public_key)), words)
    signer.sign(b"to try the key\n")
    _write(path, f"{signer.verifier.vkey}\n{COMMAND}{shlex.join(words)}")
    return signer


def _public_key(path: Path) -> bytes:
    try:
        data = path.read_bytes()[:LONGEST]
        key = load_pem_public_key(data) if data.startswith(b"-----") else load_der_public_key(data)
    except OSError as error:
        raise SettingsError(f"the public key {path} can't be read: {error.strerror}") from None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{path} is no public key for Ed25519, in PEM or DER")
    return key.public_bytes_raw()


def _write(path: Path, content: str) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} is there already; a key is never overwritten. Name another file.") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be made: {error.strerror}") from None
    with os.fdopen(file, "w") as opened:
        os.fchmod(file, 0o600)
        opened.write(f"{content}\n")
        opened.flush()
        os.fsync(file)


def load_signer(path: str | None) -> Signer | None:
    """The signer whose key is in this file; None without a file.

    Raises SettingsError, which never shows what is in it, when it can't be read, holds no key, or others can read it.
    """
    return read_signer(path) if path else None


def read_signer(path: str) -> Signer:
    """The signer whose key is in this file. Raises SettingsError as `load_signer` does."""
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(LONGEST)
    except OSError as error:
        raise SettingsError(f"the signing key {path} can't be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or mode & OTHERS:
        raise SettingsError(f"the signing key {path} is open to others than its owner: `chmod 600` it")
    try:
        return _signer(data.decode().strip())
    except (NoteError, ValueError):
        raise SettingsError(f"the signing key {path} is no file as `elspeth-dagster keys` makes them") from None


def _signer(content: str) -> Signer:
    vkey, _, command = content.partition("\n")
    if not command.startswith(COMMAND):
        return Signer.read(content)
    return _commanded(Verifier.read(vkey), shlex.split(command.removeprefix(COMMAND)))


def _commanded(verifier: Verifier, words: Sequence[str]) -> Signer:
    return Signer(verifier, _signing(verifier, words))


def _signing(verifier: Verifier, words: Sequence[str]) -> Callable[[bytes], bytes]:
    """Signs by a command, and sees that the signature is one by the key. What the command says isn't repeated."""
    named = f"the command that signs, {words[0] if words else 'none'},"

    def sign(data: bytes) -> bytes:
        try:
            done = subprocess.run(words, input=data, capture_output=True, timeout=PATIENCE, check=False)
        except (OSError, IndexError, ValueError):
            raise SettingsError(f"{named} can't be run") from None
        except subprocess.TimeoutExpired:
            raise SettingsError(f"{named} took more than {PATIENCE} seconds") from None
        signature = _signature(done.stdout)
        if done.returncode or not verifier.verifies(signature, data.decode()):
            what = f"ended with {done.returncode}" if done.returncode else f"made no signature by {verifier.vkey}"
            raise SettingsError(f"{named} {what}")
        return signature

    return sign


def _signature(printed: bytes) -> bytes:
    """64 bytes as they are, or in base64."""
    if len(printed) == SIGNATURE_BYTES:
        return printed
    try:
        return b64decode(printed.strip(), validate=True)
    except ValueError:
        return b""
