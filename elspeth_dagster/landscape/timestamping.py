"""Timestamps (RFC 3161): a service that others trust states at which time it was shown a checkpoint.

The service is sent the SHA-256 of the note, and nothing else. The token that comes back is the receipt, in base64. It
can't be made by whoever has our signing key, and dated back by nobody but the service: a record that is rewritten later
has none for its checkpoints, or later ones. Tokens are held to notes, and to the service's certificate, by openssl.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import subprocess
import tempfile
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.landscape.findings import Finding, Report
from elspeth_dagster.landscape.schema import anchor_receipts, checkpoints

TSA = "tsa:"
SHA256 = bytes.fromhex("300d06096086480165030402010500")  # AlgorithmIdentifier {2.16.840.1.101.3.4.2.1, NULL}
GRANTED = (b"\x02\x01\x00", b"\x02\x01\x01")  # PKIStatus granted, grantedWithMods
PATIENCE = 30  # seconds
LONGEST = 100_000  # bytes of a reply
STATED = re.compile(r"^Time stamp: (.+)$", re.MULTILINE)


class NotStampedError(Exception):
    """The service gave no token."""


def stamp(url: str, note: bytes) -> str:
    """What the service at a URL replies about a note, in base64. Raises NotStampedError, OSError for the network."""
    digest, nonce = hashlib.sha256(note).digest(), b"\x01" + secrets.token_bytes(7)
    head = {"Content-Type": "application/timestamp-query"}
    asked = urllib.request.Request(url, request(digest, nonce), head)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as came:
        reply: bytes = came.read(LONGEST)
    if not _is_granted(reply) or digest not in reply or nonce not in reply:
        raise NotStampedError("the service replied without a timestamp of it")
    return b64encode(reply).decode()


def request(digest: bytes, nonce: bytes) -> bytes:
    """The TimeStampReq about a SHA-256, that asks for the service's certificate too (RFC 3161, 2.4.1)."""
    imprint = _der(0x30, SHA256 + _der(0x04, digest))
    return _der(0x30, _der(0x02, b"\x01") + imprint + _der(0x02, nonce) + _der(0x01, b"\xff"))


def _der(tag: int, content: bytes) -> bytes:
    """A value in DER, shorter than 128 bytes."""
    return bytes([tag, len(content)]) + content


def _is_granted(reply: bytes) -> bool:
    """Whether a TimeStampResp begins with a status that says so."""
    status = _content(_content(reply))
    return status.startswith(GRANTED)


def _content(value: bytes) -> bytes:
    """What is in a DER sequence, and after it; nothing where it is none."""
    if len(value) < 2 or value[0] != 0x30:
        return b""
    return value[2 + (value[1] & 0x7F if value[1] & 0x80 else 0) :]


def check_timestamps(connection: sa.Connection, certificates: Path | None, report: Report) -> None:
    """Hold every token on record to its checkpoint, by the certificates (PEM) that the services are trusted by.

    Raises SettingsError where there is no openssl, or no file with certificates.
    """
    tokens = list(_tokens(connection))
    if tokens and certificates is None:
        report.remarks.append(f"{len(tokens)} timestamps were not checked: give --tsa-certificates")
    elif tokens and certificates is not None:
        newest = None
        for size, anchor, reply, note in tokens:
            if (stated := _stated(reply, note, certificates)) is None:
                what = f"its timestamp is none of the checkpoint of {size} entries by a service that is trusted"
                report.add(Finding("anchor", what, None, "anchor_receipts", {"log_size": size, "anchor": anchor}))
            else:
                newest = f"{anchor} stated at {stated} that the log had {size} entries"
        report.remarks += [newest] if newest else []


def _tokens(connection: sa.Connection) -> Iterator[tuple[int, str, bytes, bytes]]:
    of_services = anchor_receipts.c.anchor.startswith(TSA), ~anchor_receipts.c.anchor.endswith(" (failed)")
    found = (
        sa.select(anchor_receipts.c.log_size, anchor_receipts.c.anchor, anchor_receipts.c.receipt, checkpoints.c.note)
        .join(checkpoints, checkpoints.c.log_size == anchor_receipts.c.log_size)
        .where(*of_services)
        .order_by(anchor_receipts.c.log_size)
    )
    for size, anchor, receipt, note in connection.execute(found):
        yield size, anchor, _decoded(receipt), note.encode()


def _decoded(receipt: str) -> bytes:
    try:
        return b64decode(receipt, validate=True)
    except ValueError:
        return b""


def _stated(reply: bytes, note: bytes, certificates: Path) -> str | None:
    """The time that a token states of a note; None where it is not about it, or by nobody who is trusted."""
    if not certificates.is_file():
        raise SettingsError(f"there are no certificates in {certificates}")
    with tempfile.TemporaryDirectory() as folder:
        token, data = Path(folder) / "token", Path(folder) / "note"
        token.write_bytes(reply)
        data.write_bytes(note)
        verified = _openssl("-verify", "-data", data, "-in", token, "-CAfile", certificates)
        told = _openssl("-reply", "-in", token, "-text").stdout.decode(errors="replace")
    stated = STATED.search(told)
    return stated[1].strip() if verified.returncode == 0 and stated else None


def _openssl(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["openssl", "ts", *words], capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        raise SettingsError("timestamps are checked by openssl: install it") from None
