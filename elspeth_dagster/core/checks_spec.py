"""What is checked about the results after each run, as it is declared."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from elspeth_dagster.core.spec_model import SpecModel

Severity = Literal["warn", "error"]


class GravitySpec(SpecModel):
    """How grave a failed check is, and whether it blocks."""

    severity: Severity = Field(default="warn", description="What a failed check is shown as: warn or error.")
    blocking: bool = Field(
        default=False, description="Whether a failed check keeps assets downstream from being made in the same run."
    )

    @model_validator(mode="after")
    def _can_block(self) -> Self:
        if self.blocking and self.severity == "warn":
            raise ValueError("a warning blocks nothing: give `severity: error`, or `blocking: false`")
        return self


class CheckSpec(GravitySpec):
    """How a check of the record is taken that must never fail."""

    severity: Severity = Field(default="error", description="What a failed check is shown as: warn or error.")
    blocking: bool = Field(
        default=True,
        description="Whether assets downstream wait for the check, and are not made in the same run when it fails.",
    )


class FailureRateSpec(GravitySpec):
    """When too many rows have no result."""

    max: float = Field(
        default=0.05, ge=0, le=1, allow_inf_nan=False, description="The greatest share of rows without all answers."
    )


class DriftSpec(GravitySpec):
    """When numeric answers are distributed otherwise than in the partitions before."""

    window: int = Field(
        default=7, ge=1, le=100, description="With how many earlier partitions a partition is compared; it needs all."
    )
    threshold: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="The p-value of the Kolmogorov-Smirnov test, adjusted for the number of columns, below which a "
        "column may have drifted.",
    )
    distance: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="The least distance of the two distributions, 0 to 1, that counts: with many rows a difference can "
        "be certain and too small to matter.",
    )


class VerifiedSpec(GravitySpec):
    """How it is taken when what a run left on record is not whole, not as it was sealed, or not sealed."""

    severity: Severity = Field(
        default="error",
        description="What a failed check is shown as: warn or error; that no anchor is reached always warns.",
    )


class ChecksSpec(SpecModel):
    """The checks of the results: what each asks, how grave it is, whether it blocks."""

    accounted: CheckSpec = Field(
        default=CheckSpec(),
        description="Every record is a row or a rejection, every row has one outcome, every call its reply.",
    )
    linked: CheckSpec = Field(
        default=CheckSpec(), description="Every call belongs to its state, its row and its question."
    )
    within_bounds: CheckSpec = Field(
        default=CheckSpec(), description="Every answer in the table is within its declared type and bounds."
    )
    failure_rate: FailureRateSpec | None = Field(
        default=FailureRateSpec(), description="Few rows have no result; null: no such check."
    )
    drift: DriftSpec | None = Field(
        default=DriftSpec(),
        description="Numeric answers are distributed as in the partitions before; null: no such check.",
    )
    verified: VerifiedSpec = Field(
        default=VerifiedSpec(),
        description="What the run left on record is whole and as it was sealed: hashes, references, signatures, log.",
    )
