"""Secrets on the record: a credential is named by its fingerprint, and found wherever it comes back.

A fingerprint is an HMAC-SHA256 (RFC 2104): whoever has the credential and the key can tell that it is the one that
was used; nobody can get it back. The key is the deployment's ELSPETH_FINGERPRINT_KEY. Without one, a public
constant stands in: then anyone can try guesses against a fingerprint. API keys are too long to be guessed,
a short password is not.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

PUBLIC_KEY = b"elspeth_dagster fingerprint of a credential, v1"
PREFIX = "hmac-sha256:"

# A shorter "secret" (`x`, `none`, `EMPTY` for a local server) is no secret, and would be found in innocent text.
SHORTEST_SEARCHED = 8


def fingerprint(secret: str, key: bytes = PUBLIC_KEY) -> str:
    """`hmac-sha256:<hex>` of a secret; the same for the same secret and key."""
    return PREFIX + hmac.new(key, secret.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class Redactor:
    """Replaces every occurrence of some secrets by their fingerprints.

    Finds a secret as it is, escaped in JSON and encoded in a URL; one of fewer than 8 characters is not looked for.
    """

    def __init__(self, secrets: Iterable[str], key: bytes = PUBLIC_KEY) -> None:
        found: dict[bytes, bytes] = {}
        for secret in secrets:
            if len(secret) >= SHORTEST_SEARCHED:
                found |= dict.fromkeys(_spellings(secret), fingerprint(secret, key).encode())
        # The longest first: a secret inside another one must not break it up.
        self._found = sorted(found.items(), key=lambda pair: -len(pair[0]))

    def bytes(self, data: bytes, *, cut: bool = False) -> tuple[bytes, bool]:
        """`data` without the secrets, and whether one was in it.

        `cut` says that the data may end in the middle of a secret: its beginning is replaced too.
        """
        clean = data
        for secret, name in self._found:
            if secret in clean:
                clean = clean.replace(secret, name)
            if cut:
                clean = _without_beginning(clean, secret, name)
        return clean, clean is not data

    def text(self, text: str) -> tuple[str, bool]:
        """`text` without the secrets, and whether one was in it."""
        clean, redacted = self.bytes(text.encode("utf-8", "surrogateescape"))
        return (clean.decode("utf-8", "surrogateescape"), True) if redacted else (text, False)


def _without_beginning(data: bytes, secret: bytes, name: bytes) -> bytes:
    """`data` without the beginning of a secret at its end."""
    for length in range(min(len(secret), len(data)), SHORTEST_SEARCHED - 1, -1):
        if data.endswith(secret[:length]):
            return data[:-length] + name
    return data


def _spellings(secret: str) -> set[bytes]:
    """A secret as it may stand in a reply: plain, in JSON (`\\/`, `\\u0026`), in a URL."""
    in_json = [json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]]
    in_json += [spelling.replace("/", "\\/") for spelling in in_json]
    texts = {secret, *in_json, quote(secret, safe=""), quote_plus(secret)}
    return {text.encode("utf-8", "surrogateescape") for text in texts}
