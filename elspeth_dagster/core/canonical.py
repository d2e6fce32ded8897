"""Bytes that hash alike: canonical JSON (RFC 8785) and SHA-256 names for bytes.

A hash is written `sha256:` and 64 hex digits, everywhere a person or another program sees it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785

Json = Any

PREFIX = "sha256:"


def canonical_json(value: Json) -> bytes:
    """The one byte form of a JSON value (RFC 8785).

    Raises ValueError for what has none: NaN, infinities, integers beyond ±2^53, lone surrogates.
    """
    return rfc8785.dumps(value)


def compact_json(value: Json) -> bytes:
    """Deterministic JSON of a body that goes over the wire: sorted keys, no spaces, UTF-8.

    Equals `canonical_json` for text, integers, booleans and null under ASCII keys, at a tenth of its cost;
    a float keeps Python's shortest form. Raises ValueError for NaN and infinities.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def ordered_json(value: Json) -> bytes:
    """JSON of a declaration, in which the order of keys means something (columns, answer fields): it is kept."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def sha256(data: bytes) -> str:
    """`sha256:<hex>` of some bytes."""
    return PREFIX + hashlib.sha256(data).hexdigest()
