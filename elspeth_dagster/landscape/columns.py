"""How a fact is stored: column types that keep, and refuse, the same on SQLite and PostgreSQL.

Text    what people and services wrote; a character that no text column keeps on both becomes U+FFFD
Name    ids, keys, addresses: whatever names a thing; with such a character in it it is refused
Number  64-bit integers (there is no REAL in the record: numbers that must hash alike are integers or text)
Instant a UTC instant, stored as integer microseconds since 1970
Hash    a SHA-256, stored as its 32 bytes, `sha256:<hex>` in Python
Ref     the name of some bytes: a Hash, or `hmac-sha256:<scope>:<hex>`, stored as the scope's 5 bytes and the HMAC's 32
Word    a member of a closed vocabulary, with a CHECK that refuses any other
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from operator import index
from typing import Any, TypeVar

import sqlalchemy as sa

from elspeth_dagster.core.canonical import KEYED, PREFIX

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# PostgreSQL's text has no NUL, UTF-8 no half of a surrogate pair; SQLite would cut or garble them.
NOT_KEPT = re.compile("[\0\ud800-\udfff]")
SHA256_NAME = re.compile(PREFIX + "[0-9a-f]{64}")
KEYED_NAME = re.compile(KEYED + "([1-9][0-9]{0,12}):([0-9a-f]{64})")
SCOPE_BYTES, HASH_BYTES = 5, 32
LARGEST_SCOPE = 2 ** (8 * SCOPE_BYTES) - 1


T = TypeVar("T")


class Kept(sa.types.TypeDecorator[T]):
    """A type that says by itself, without a dialect, how a value is stored: `stored` of anything but None."""

    impl: Any = sa.Text
    cache_ok = True

    def stored(self, value: Any) -> Any:
        """The value as both databases get it. Raises ValueError or TypeError for one that they may not have."""
        raise NotImplementedError

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else self.stored(value)


class Text(Kept[str]):
    """What people and services wrote. NUL and halves of surrogate pairs become U+FFFD."""

    cache_ok = True

    def stored(self, value: str) -> str:
        if value.isascii() and "\0" not in value:  # as most are, and faster told than by searching
            return value
        return NOT_KEPT.sub(REPLACEMENT, value)


class Name(Kept[str]):
    """An id, key or address. Refuses NUL and halves of surrogate pairs."""

    cache_ok = True

    def stored(self, value: str) -> str:
        if value.isascii() and "\0" not in value:
            return value
        if NOT_KEPT.search(value):
            raise ValueError("a name holds a NUL character or half of a surrogate pair")
        return value


class Number(Kept[int]):
    """A 64-bit integer. Refuses anything that isn't an int, which PostgreSQL would round and SQLite refuse."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Integer() if dialect.name == "sqlite" else sa.BigInteger())

    def stored(self, value: int) -> int:
        return value if type(value) is int else int(index(value))


class Instant(Kept[datetime]):
    """A UTC instant to the microsecond. Refuses a datetime without a zone."""

    impl = Number
    cache_ok = True

    def stored(self, value: datetime) -> int:
        return (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


class Hash(Kept[str]):
    """A SHA-256 by its written name `sha256:<hex>`. Refuses anything else."""

    impl = sa.LargeBinary
    cache_ok = True

    def stored(self, value: str) -> bytes:
        if not SHA256_NAME.fullmatch(value):
            raise ValueError("a hash is not written as sha256: and 64 hex digits")
        return bytes.fromhex(value.removeprefix(PREFIX))

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else PREFIX + value.hex()


class Ref(Kept[str]):
    """The name of a payload. The scope comes first, so that an index keeps together what was asked together."""

    impl = sa.LargeBinary
    cache_ok = True

    def stored(self, value: str) -> bytes:
        return stored_ref(value)

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else written_ref(value)


@lru_cache(maxsize=4096)  # a name is stored with its payload and with whatever refers to it, about the same time
def stored_ref(written: str) -> bytes:
    """A payload's name as it is stored. Raises ValueError for what is none."""
    if (keyed := KEYED_NAME.fullmatch(written)) and int(keyed[1]) <= LARGEST_SCOPE:
        return int(keyed[1]).to_bytes(SCOPE_BYTES) + bytes.fromhex(keyed[2])
    if not SHA256_NAME.fullmatch(written):
        raise ValueError("a payload's name is neither sha256:<hex> nor hmac-sha256:<scope>:<hex>")
    return bytes.fromhex(written.removeprefix(PREFIX))


def written_ref(stored: bytes) -> str:
    """A payload's name as it is written, from how it is stored."""
    scope, name = stored[:-HASH_BYTES], stored[-HASH_BYTES:].hex()
    return f"{KEYED}{int.from_bytes(scope)}:{name}" if scope else PREFIX + name


class Word(Kept[StrEnum]):
    """A member of a closed vocabulary. Refuses any other word."""

    cache_ok = True

    def __init__(self, vocabulary: type[StrEnum]) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self._words = {word: word.value for word in vocabulary}

    def stored(self, value: StrEnum | str) -> str:
        try:
            return self._words[value]  # type: ignore[index]  # a StrEnum is found by its text too
        except KeyError:
            raise ValueError(f"not a word of {self.vocabulary.__name__}") from None

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:
        return None if value is None else self.vocabulary(value)


def word(
    name: str, vocabulary: type[StrEnum], *, nullable: bool = False, default: StrEnum | None = None
) -> tuple[sa.Column[Any], sa.CheckConstraint]:
    """A column of a vocabulary's words, and the CHECK that holds it to them.

    `default` is for what was written before the column was there.
    """
    allowed = ", ".join(f"'{member.value}'" for member in vocabulary)
    return (
        sa.Column(name, Word(vocabulary), nullable=nullable, server_default=default and default.value),
        sa.CheckConstraint(f"{name} IN ({allowed})", name=f"{name}_is_known"),
    )
