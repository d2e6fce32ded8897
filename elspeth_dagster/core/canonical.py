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


def ordered_json(value: Json) -> bytes:
    """JSON in which the order of keys means something (columns, answer fields, a request's schema): it is kept.

    Raises ValueError for NaN and infinities.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def sha256(data: bytes) -> str:
    """`sha256:<hex>` of some bytes."""
    return PREFIX + hashlib.sha256(data).hexdigest()
