"""How far a step has come, in a line now and then: how much is done, what it took, and how long the rest will take.

A line comes when another tenth of the questions is settled, at most every five seconds, and every thirty seconds in any
case. So there are few lines however many rows there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from elspeth_dagster.counting import Counts
from elspeth_dagster.pacing import Paced

EVERY_SECONDS = 30.0
LEAST_SECONDS = 5.0
TENTHS = 10
NANO = 1e9


class Progress:
    """The progress of one step that has so many questions to settle."""

    def __init__(
        self,
        to_settle: int,
        questions_a_row: int,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._to_settle = to_settle
        self._questions_a_row = questions_a_row
        self._say = say
        self._clock = clock
        self._began = self._told_at = clock()
        self._told_tenth = 0

    def tell(self, counts: Counts, pace: Paced | None = None) -> None:
        """Say a line, if it is time for one."""
        now, tenth = self._clock(), TENTHS * counts.questions // max(1, self._to_settle)
        since = now - self._told_at
        if since >= EVERY_SECONDS or (since >= LEAST_SECONDS and tenth > self._told_tenth):
            self._told_at, self._told_tenth = now, tenth
            self._say(f"{self._done(counts)}: {progress_line(counts, pace)}{self._left(counts, now)}")

    def _done(self, counts: Counts) -> str:
        rows, of_rows = counts.questions // self._questions_a_row, self._to_settle // self._questions_a_row
        share = counts.questions / max(1, self._to_settle)
        return f"{rows} of {of_rows} rows done ({share:.0%})"

    def _left(self, counts: Counts, now: float) -> str:
        """When it will be done, by the pace of what was asked; what came from the record took no time."""
        asked = counts.questions - counts.reused
        if asked <= 0:
            return ""
        seconds = (now - self._began) * max(0, self._to_settle - counts.questions) / asked
        return f", about {in_words(seconds)} left"


def in_words(seconds: float) -> str:
    """A duration as a person says it: 40 s, 12 min, 3 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def progress_line(counts: Counts, pace: Paced | None = None) -> str:
    """One line of what has been done and spent so far, and of how many at a time where the provider refused some."""
    cost = f"${counts.cost_nanousd / NANO:.4f}" + (f" + {counts.unpriced_calls} unpriced" * bool(counts.unpriced_calls))
    return (
        f"{counts.questions} questions settled ({counts.refused} refused, {counts.reused} from the record), "
        f"{counts.calls} calls "
        f"({counts.retries} retries, {counts.repairs} repairs), "
        f"{counts.prompt_tokens} + {counts.completion_tokens} tokens, {cost}{_slowed(pace)}"
    )


def _slowed(pace: Paced | None) -> str:
    if pace is None or not (pace.level.cuts or pace.waited_seconds >= 1):
        return ""
    held = f", held back for {pace.waited_seconds:.0f} s" if pace.waited_seconds >= 1 else ""
    return f", {pace.level.current} requests at a time (cut: {pace.level.cuts}{held})"
