"""When a provider that only fails is left alone, and when it is given up.

    well ─► so many tries of so many questions failed in a row ─► shut: one probe at a time, later and later
      ▲                                                             │  └─► none answered for so long: hopeless
      └───────────────────────── any answer ────────────────────────┘

Whether the provider or a question is at fault can't be told from one failure. So only questions that began to fail
after the last answer count against the provider: one that failed while others were answered may itself be at fault, and
so may one that an earlier run has failed to get answered.
Until the provider has answered a first time, only few requests are in flight: a wrong key costs a handful.
Where others can be asked instead, one address at which nothing listens is enough.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

FEW = 4
FAILED_TRIES = 10
FAILED_QUESTIONS = 5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


@dataclass
class Health:
    """What one step has seen of a provider. Instants are seconds of one monotonic clock."""

    has_answered: bool = False
    failures: Counter[str] = field(default_factory=Counter)
    failing: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    failing_since: float = 0.0
    probes: int = 0
    next_probe: float = 0.0
    is_gone: bool = False

    @property
    def is_shut(self) -> bool:
        """Whether it only fails."""
        return self.is_gone or (self.failures.total() >= FAILED_TRIES and len(self.failing) >= FAILED_QUESTIONS)

    def answered(self, *, well: bool) -> None:
        """It answered a question; `well`: with a completion, not by refusing the request."""
        self.has_answered |= well
        self.suspects |= self.failing
        self.failing.clear()
        self.failures.clear()
        self.probes = 0
        self.is_gone = False

    def failed(
        self,
        question: str,
        error: str,
        now: float,
        *,
        is_probe: bool,
        retry_after: float = 0.0,
        is_gone: bool = False,
    ) -> None:
        """A try failed by no fault of the request; the provider may have said how long to wait. `is_gone`: shut now."""
        if not self.failures:
            self.failing_since = now
        was_shut = self.is_shut
        self.failures[error] += 1
        self.is_gone |= is_gone
        if question not in self.suspects:
            self.failing.add(question)
        self.probes += is_probe
        if self.is_shut and (is_probe or not was_shut):
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self.probes, 16))
            self.next_probe = now + max(retry_after, pause)

    def lets_pass(self, in_flight: int, probing: int, now: float) -> bool:
        """Whether one more request may be sent while so many are in flight, so many of them since it was shut."""
        if self.is_shut:
            return probing == 0 and now >= self.next_probe
        return self.has_answered or in_flight < FEW

    def is_hopeless(self, now: float, seconds: float) -> bool:
        """Whether it has only failed for so long, a probe included."""
        return self.is_shut and self.probes > 0 and now - self.failing_since >= seconds
