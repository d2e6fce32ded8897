"""How a fact is stored: column types that keep, and refuse, the same on SQLite and PostgreSQL.

Text    what people and services wrote; a character that no text column keeps on both becomes U+FFFD
Name    ids, keys, addresses: whatever names a thing; with such a character in it it is refused
Number  64-bit integers (there is no REAL in the record: numbers that must hash alike are integers or text)
Instant a UTC instant, stored as integer microseconds since 1970
Hash    a SHA-256, stored as its 32 bytes, `sha256:<hex>` in Python
Word    a member of a closed vocabulary, with a CHECK that refuses any other
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import index
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.canonical import PREFIX

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# PostgreSQL's text has no NUL, UTF-8 no half of a surrogate pair; SQLite would cut or garble them.
NOT_KEPT = re.compile("[\0\ud800-\udfff]")
SHA256_NAME = re.compile(PREFIX + "[0-9a-f]{64}")


class Text(sa.types.TypeDecorator[str]):
    """What people and services wrote. NUL and halves of surrogate pairs become U+FFFD."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else NOT_KEPT.sub(REPLACEMENT, value)


class Name(sa.types.TypeDecorator[str]):
    """An id, key or address. Refuses NUL and halves of surrogate pairs."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is not None and NOT_KEPT.search(value):
            raise ValueError("a name holds a NUL character or half of a surrogate pair")
        return value


class Number(sa.types.TypeDecorator[int]):
    """A 64-bit integer. Refuses anything that isn't an int, which PostgreSQL would round and SQLite refuse."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Integer() if dialect.name == "sqlite" else sa.BigInteger())

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else int(index(value))


class Instant(sa.types.TypeDecorator[datetime]):
    """A UTC instant to the microsecond. Refuses a datetime without a zone."""

    impl = Number
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


class Hash(sa.types.TypeDecorator[str]):
    """A SHA-256 by its written name `sha256:<hex>`. Refuses anything else."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> bytes | None:
        if value is None:
            return None
        if not SHA256_NAME.fullmatch(value):
            raise ValueError("a hash is not written as sha256: and 64 hex digits")
        return bytes.fromhex(value.removeprefix(PREFIX))

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else PREFIX + value.hex()


class Word(sa.types.TypeDecorator[StrEnum]):
    """A member of a closed vocabulary. Refuses any other word."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, vocabulary: type[StrEnum]) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def process_bind_param(self, value: StrEnum | str | None, dialect: sa.Dialect) -> str | None:
        if value is None:
            return None
        try:
            return self.vocabulary(value).value
        except ValueError:
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
