"""How the source of an assessment is cut into partitions, as it is declared."""

from __future__ import annotations

import re
from datetime import date
from typing import Self

from pydantic import Field, field_validator, model_validator

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.spec_model import Name, SpecModel

ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
PARTITION = "partition"
BETWEEN_DIMENSIONS = "|"


def _is_on_the_calendar(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


class DimensionSpec(SpecModel):
    """One way of cutting a source: by day, by a fixed list of keys, or by keys that are added while you work."""

    daily: str | None = Field(
        default=None, description="One partition a day, from this first day on.", examples=["2026-01-01"]
    )
    until: str | None = Field(
        default=None,
        description="With `daily`: the last day; default: there is a new one every day.",
        examples=["2026-06-30"],
    )
    static: list[str] | None = Field(
        default=None, min_length=1, description="A fixed list of partition keys.", examples=[["north", "south"]]
    )
    dynamic: str | None = Field(
        default=None,
        min_length=1,
        description="The name of a dynamic partitions definition; keys are added while you work.",
        examples=["tenders"],
    )

    @field_validator("daily", "until")
    @classmethod
    def _is_a_date(cls, value: str | None) -> str | None:
        if value is not None and not (ISO_DATE.fullmatch(value) and _is_on_the_calendar(value)):
            raise ValueError(f"{value!r} is no date like 2026-01-31")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in type(self).model_fields if name != "until"]
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(f'`{kind}`' for kind in kinds)}")
        if self.until is not None and (self.daily is None or self.until < self.daily):
            raise ValueError("`until` is the last day of `daily`, and not before its first")
        return self


class PartitionsSpec(DimensionSpec):
    """How the source is cut into partitions; leave `partitions` out for an assessment without."""

    multi: dict[Name, DimensionSpec] | None = Field(
        default=None,
        description="Two dimensions by name: every key of the one with every key of the other is a partition. "
        "`source.path` has their values as `{date}` and `{region}`.",
        examples=[{"date": {"daily": "2026-01-01"}, "region": {"static": ["north", "south"]}}],
    )

    @field_validator("multi")
    @classmethod
    def _two_dimensions(cls, value: dict[str, DimensionSpec] | None) -> dict[str, DimensionSpec] | None:
        if value is None:
            return None
        if len(value) != 2:
            raise ValueError(f"Dagster cuts by two dimensions at once, not by {len(value)}")
        if PARTITION in value:
            raise ValueError("`partition` stands for the whole key; give the dimension another name")
        if all(dimension.daily is not None for dimension in value.values()):
            raise ValueError("at most one dimension is `daily`: Dagster knows one time of a partition")
        return value

    def values_of(self, key: str) -> dict[str, str]:
        """What stands in `source.path` for a partition: its key, and its value of each dimension.

        Raises SourceError for a key that doesn't have these dimensions.
        """
        names = sorted(self.multi or ())
        values = key.split(BETWEEN_DIMENSIONS) if names else []
        if len(values) != len(names):
            raise SourceError(f"partition key {key!r} is not of the form {BETWEEN_DIMENSIONS.join(names)!r}.")
        return {PARTITION: key, **dict(zip(names, values, strict=True))}
