"""Requests and tokens a minute: a bucket that fills evenly and holds a second's worth.

    level   what may be taken now; below zero, what has been promised ahead
    rate    a minute's worth in 62 seconds: so a full bucket, a minute's filling and a request that is a second late
            come to no more than the limit, in whatever 60 seconds the provider counts

A request takes what it needs when the bucket has it, or is full: one that needs more than the bucket holds goes alone,
and those after it wait for what it took. How long the filling took is measured by others; a negative time is none, and
a long one fills the bucket and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MINUTE_SECONDS = 62.0
AHEAD_SECONDS = 1.0  # how far ahead is promised
COMPLETION_TOKENS = 500
TOKENS_A_BYTE = 0.25
REMEMBERED = 20
DEBT_MINUTES = 10
MOST_TOKENS_A_BYTE, MOST_COMPLETION_TOKENS = 4, 1_000_000


class Bucket:
    """What is left of one limit. At most ten minutes' worth is owed, also after the limit was lowered."""

    def __init__(self, per_minute: int, level: float | None = None) -> None:
        self.rate = per_minute / MINUTE_SECONDS
        self.capacity = max(1.0, self.rate)
        self._least = -float(DEBT_MINUTES * per_minute)
        self.level = self.capacity if level is None else self._bounded(level)

    def fill(self, seconds: float) -> None:
        """So much time has passed."""
        self.give_back(max(0.0, seconds) * self.rate)

    def give_back(self, amount: float) -> None:
        """Less was needed; if negative, more."""
        self.level = self._bounded(self.level + amount)

    def seconds_until(self, need: float) -> float:
        """How long until so much may be taken."""
        return max(0.0, (min(need, self.capacity) - self.level) / self.rate)

    def take(self, need: float) -> None:
        """Take it, or promise it."""
        self.level = self._bounded(self.level - need)

    def _bounded(self, level: float) -> float:
        return min(max(level, self._least), self.capacity)


class Promised(NamedTuple):
    """In how many seconds each of the first requests may go, and in how many it is worth asking for the next."""

    waits: list[float]
    come_again: float


def promise(buckets: Sequence[Bucket], wanted: Sequence[Sequence[float]]) -> Promised:
    """Serve requests in order, each with what it needs of each bucket, as far ahead as is promised."""
    waits: list[float] = []
    for needs in wanted:
        pairs = list(zip(buckets, needs, strict=True))
        wait = max(bucket.seconds_until(need) for bucket, need in pairs)
        if wait > AHEAD_SECONDS:
            return Promised(waits, wait - AHEAD_SECONDS)
        for bucket, need in pairs:
            bucket.take(need)
        waits.append(wait)
    return Promised(waits, 0.0)


def is_credible(body_bytes: int, prompt_tokens: int, completion_tokens: int) -> bool:
    """Whether a reply to a request of so many bytes can have needed this."""
    return prompt_tokens <= MOST_TOKENS_A_BYTE * body_bytes and completion_tokens <= MOST_COMPLETION_TOKENS


class Estimate:
    """How many tokens a request will need, learnt from what replies reported."""

    def __init__(self) -> None:
        self._a_byte = TOKENS_A_BYTE
        self._completion: float | None = None
        self._learnt = 0

    def tokens(self, body_bytes: int, max_tokens: int | None) -> int:
        """Of prompt and completion together."""
        completion = self._completion if self._completion is not None else max_tokens or COMPLETION_TOKENS
        return round(body_bytes * self._a_byte + completion)

    def learn(self, body_bytes: int, prompt_tokens: int, completion_tokens: int) -> None:
        """A reply to a request of so many bytes reported this; the last twenty count most."""
        self._learnt += 1
        weight = 1 / min(self._learnt, REMEMBERED)
        self._a_byte += weight * (prompt_tokens / max(body_bytes, 1) - self._a_byte)
        before = self._completion or 0.0
        self._completion = before + weight * (completion_tokens - before)
