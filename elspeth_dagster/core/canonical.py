"""Bytes that hash alike: canonical JSON (RFC 8785), and names for bytes that follow from them.

A hash is written `sha256:` and 64 hex digits, everywhere a person or another program sees it. What may be about a
person has a name that nobody can guess who doesn't know its scope's key: `hmac-sha256:`, the scope's number, a colon
and 64 hex digits (RFC 2104).
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import orjson
import rfc8785

Json = Any

PREFIX = "sha256:"
KEYED = "hmac-sha256:"
BLOCK = 64  # bytes that SHA-256 takes at a time
INNER_PAD, OUTER_PAD = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


_ORDERED = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_LARGEST = 2**53 - 1


def canonical_json(value: Json) -> bytes:
    """The one byte form of a JSON value (RFC 8785).

    Raises ValueError for what has none: NaN, infinities, integers beyond ±2^53, lone surrogates.
    """
    if type(value) is dict and all(map(_is_plain, value, value.values())):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # half of a surrogate pair: refused below
            pass
    return rfc8785.dumps(value)


def _is_plain(key: str, value: Json) -> bool:
    """Whether any encoder writes a member of an object as the RFC has it: most answers are nothing else."""
    kind = type(value)
    return (
        type(key) is str
        and key.isascii()
        and (kind is str or kind is bool or value is None or (kind is int and -_LARGEST <= value <= _LARGEST))
    )


def ordered_json(value: Json) -> bytes:
    """JSON in which the order of keys means something (columns, answer fields, a request's schema): it is kept.

    Raises ValueError for NaN and infinities.
    """
    return _ORDERED.encode(value).encode()


def texts_json(value: list[dict[str, str]]) -> bytes:
    """`ordered_json` of texts, faster."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # half of a surrogate pair, which has no bytes: a ValueError
        return ordered_json(value)


def sha256(data: bytes) -> str:
    """`sha256:<hex>` of some bytes."""
    return PREFIX + hashlib.sha256(data).hexdigest()


def keyed_sha256(scope_id: int, key: bytes, data: bytes) -> str:
    """`hmac-sha256:<scope>:<hex>` of some bytes: their HMAC-SHA256 under a key of at most a block (RFC 2104).

    By two plain hashes: `hmac.digest` lets other threads run each time, and waits for them.
    """
    inner_begun, outer_begun = _begun(key)
    inner, outer = inner_begun.copy(), outer_begun.copy()
    inner.update(data)
    outer.update(inner.digest())
    return f"{KEYED}{scope_id}:{outer.hexdigest()}"


@lru_cache(maxsize=1024)
def _begun(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """The two hashes under a key, for as far as they are the same whatever the data."""
    block = key.ljust(BLOCK, b"\0")
    return hashlib.sha256(block.translate(INNER_PAD)), hashlib.sha256(block.translate(OUTER_PAD))
