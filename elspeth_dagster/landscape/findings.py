"""What a verification found: sentences that say what is wrong, with which record, and what that means for results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from elspeth_dagster.core.canonical import Json

KEPT = 1000
Progress = Callable[[str, int], None]
"""Told what is looked at, and how many records of it were."""


@dataclass(frozen=True)
class Touched:
    """A result that a finding puts into doubt: a row's, or only its answer to one question."""

    row: str
    question: str | None = None

    def __str__(self) -> str:
        return self.row if self.question is None else f"{self.row} {self.question}"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    `kind` is one word for machines: edited, deleted, inserted, changed, payload, reference, rule, seal, signature, log,
    anchor, run.
    """

    kind: str
    message: str
    run_id: str | None = None
    table: str | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    touches: tuple[Touched, ...] = ()
    touches_all: bool = False

    def __str__(self) -> str:
        where = f" in {self.table}" if self.table else ""
        named = ", ".join(f"{name} {value}" for name, value in self.key.items())
        touched = "every result of the run" if self.touches_all else ", ".join(map(str, self.touches))
        means = f". Puts into doubt: {touched}" if touched else ""
        return f"{self.kind}{where}{f' ({named})' if named else ''}: {self.message}{means}"


@dataclass
class Report:
    """What was looked at and what was found. `remarks` are no faults, but what somebody should know."""

    records: int = 0
    payloads: int = 0
    erased: int = 0
    runs: list[str] = field(default_factory=list)
    found: int = 0
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Count findings; only so many are kept."""
        self.found += len(findings)
        self.findings += findings[: max(0, KEPT - len(self.findings))]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.found == 0

    def document(self) -> dict[str, Json]:
        """The report as one JSON value."""
        return {"sound": self.is_sound, **asdict(self)}
