"""When runs are asked for, and how old results may become, as it is declared."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from elspeth_dagster.core.spec_model import SpecModel

Condition = Literal["eager", "missing", "on_cron"]
OnChanged = Literal["ignore", "ask"]


class FreshnessSpec(SpecModel):
    """How old the results may become before Dagster says so."""

    fail_hours: float = Field(
        gt=0, le=100_000, allow_inf_nan=False, description="Results older than this are overdue.", examples=[36]
    )
    warn_hours: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Results older than this are nearly so.", examples=[26]
    )

    @model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn_hours is not None and self.warn_hours >= self.fail_hours:
            raise ValueError("`warn_hours` is less than `fail_hours`")
        return self


class AutomationSpec(SpecModel):
    """When Dagster itself asks for the assets, once its automation sensor is turned on."""

    condition: Condition = Field(
        description="eager: when the source, a template, the criteria or the lookup change, or a new partition is "
        "there. missing: when a new partition is there. on_cron: after a tick of `cron`.",
    )
    cron: str | None = Field(default=None, description="With on_cron: a cron expression (UTC).", examples=["0 6 * * *"])

    @model_validator(mode="after")
    def _cron_has_an_expression(self) -> Self:
        if (self.condition == "on_cron") != (self.cron is not None):
            raise ValueError("`cron` goes with condition on_cron, and on_cron needs it")
        return self


class SensorSpec(SpecModel):
    """Which runs the arrival of files starts: one for each file of `source.path`, or for many of `source.inbox`.

    A file is taken when it is complete, never while it is being written.
    """

    settled_seconds: int = Field(
        default=10,
        ge=1,
        description="A file is complete when its size and time of change have stayed the same for so long.",
    )
    marker: str | None = Field(
        default=None,
        min_length=1,
        description="Instead: a file is complete when one of its name with this ending is beside it.",
        examples=[".done"],
    )
    changed: OnChanged = Field(
        default="ignore",
        description="With `source.path`, a file that changes after its run was requested. ignore: it is left to you. "
        "ask: its partition is run again.",
    )
    files: int | None = Field(
        default=None,
        ge=1,
        description="With `source.inbox`: so many complete files make a partition and a run.",
        examples=[100],
    )
    max_age_seconds: int | None = Field(
        default=None,
        ge=1,
        description="With `source.inbox`, which needs it: when a complete file has waited for so long, those that are "
        "there make a partition, however few.",
        examples=[900],
    )
    every_seconds: int = Field(default=30, ge=1, description="How often the sensor looks, at the most.")

    @model_validator(mode="after")
    def _one_sign_of_completeness(self) -> Self:
        if self.marker is not None and "settled_seconds" in self.model_fields_set:
            raise ValueError("give `settled_seconds` or `marker`: a file with its marker is complete at once")
        if self.marker is not None and "/" in self.marker:
            raise ValueError("`marker` is the ending of a file's name, it can't hold '/'")
        return self
