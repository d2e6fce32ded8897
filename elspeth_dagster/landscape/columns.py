"""How a fact is stored: four column types that hold the same on SQLite and PostgreSQL.

Text    words, names, JSON texts
Number  64-bit integers (there is no REAL in the record: numbers that must hash alike are integers or text)
Instant a UTC instant, stored as integer microseconds since 1970
Hash    a SHA-256, stored as its 32 bytes, `sha256:<hex>` in Python
Word    a member of a closed vocabulary, with a CHECK that refuses any other
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.canonical import PREFIX

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Text = sa.Text


class Instant(sa.types.TypeDecorator[datetime]):
    """A UTC instant to the microsecond. Refuses a datetime without a zone."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Integer() if dialect.name == "sqlite" else sa.BigInteger())

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
        digest = bytes.fromhex(value.removeprefix(PREFIX))
        if not value.startswith(PREFIX) or len(digest) != 32:
            raise ValueError(f"{value!r} is not a sha256 name")
        return digest

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else PREFIX + value.hex()


class Word(sa.types.TypeDecorator[StrEnum]):
    """A member of a closed vocabulary."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, vocabulary: type[StrEnum]) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def process_bind_param(self, value: StrEnum | str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else self.vocabulary(value).value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:
        return None if value is None else self.vocabulary(value)


def word(name: str, vocabulary: type[StrEnum], *, nullable: bool = False) -> tuple[sa.Column[Any], sa.CheckConstraint]:
    """A column of a vocabulary's words, and the CHECK that holds it to them."""
    allowed = ", ".join(f"'{member.value}'" for member in vocabulary)
    return (
        sa.Column(name, Word(vocabulary), nullable=nullable),
        sa.CheckConstraint(f"{name} IN ({allowed})", name=f"{name}_is_known"),
    )
