"""Signing keys: a file that nobody else can read, and never anything else.

The file holds one line, `PRIVATE+KEY+<name>+<id>+<base64>`. It is named by ELSPETH_SIGNING_KEY; the key itself is in no
configuration, log, error or record.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from elspeth_dagster.core.errors import NoteError, SettingsError
from elspeth_dagster.core.notes import Signer, new_signer_key

OTHERS = stat.S_IRWXG | stat.S_IRWXO
LONGEST = 4096


def make_key(path: Path, name: str) -> Signer:
    """A new key in a new file, mode 0600. Raises SettingsError where there is one, or none can be made."""
    key = new_signer_key(name)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} is there already; a key is never overwritten. Name another file.") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be made: {error.strerror}") from None
    with os.fdopen(file, "w") as opened:
        os.fchmod(file, 0o600)
        opened.write(f"{key}\n")
        opened.flush()
        os.fsync(file)
    return Signer.read(key)


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
        return Signer.read(data.decode().strip())
    except (NoteError, UnicodeDecodeError):
        raise SettingsError(f"the signing key {path} is no key as `elspeth-dagster keys generate` makes them") from None
