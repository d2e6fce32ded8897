"""The distribution of an answer as a picture: bars over its values, drawn on the server, and the table they are drawn
from for who can't see them.

Whole numbers of a narrow range have a bar each. Wider ranges are cut into some twenty bins of a round width, from the
declared bounds or else from the least and the greatest value; a bin holds its lower end, the last one both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from elspeth_dagster.landscape.planned import PlannedField
from elspeth_dagster.landscape.tallying import Distribution

MOST_BARS = 24
WIDTH, HEIGHT, FOOT, GAP = 480, 150, 22, 2
ROUND = (1, 2, 2.5, 5, 10)


class Bar(NamedTuple):
    """How many answers have this value, or one within these ends."""

    label: str
    answers: int


class Drawn(NamedTuple):
    """A bar with its place in the picture."""

    bar: Bar
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Numbers:
    """What numbers come to; the spread is their standard deviation, None of a single one."""

    count: int
    mean: float
    spread: float | None
    least: float
    quarter: float
    median: float
    three_quarters: float
    most: float


@dataclass(frozen=True)
class Picture:
    """A distribution, drawn. `median_x` is where the median lies; `numbers` is None of what isn't numeric."""

    question: str
    field: PlannedField
    bars: tuple[Drawn, ...]
    numbers: Numbers | None
    median_x: float | None
    lacking: int
    count: int

    @property
    def ends(self) -> tuple[str, str]:
        """What the first and the last bar are of."""
        return (self.bars[0].bar.label, self.bars[-1].bar.label) if self.bars else ("", "")


def picture(found: Distribution) -> Picture:
    """A distribution as a picture."""
    if not found.field.is_numeric:
        bars = _of_values(found)
        return Picture(found.question, found.field, _drawn(bars), None, None, found.lacking, found.counts.total())
    numbers = _numbers(found.numbers)
    cut = _cut(found.field, found.numbers) if numbers else None
    bars = _bins(found.numbers, cut) if cut else []
    median = _x(cut, numbers.median) if cut and numbers else None
    return Picture(found.question, found.field, _drawn(bars), numbers, median, found.lacking, len(found.numbers))


def _of_values(found: Distribution) -> list[Bar]:
    declared = ("false", "true") if found.field.type == "boolean" else found.field.values
    known = dict.fromkeys([*declared, *found.counts])
    return [Bar(value, found.counts[value]) for value in known]


def _numbers(values: Sequence[float]) -> Numbers | None:
    if not values:
        return None
    several = values if len(values) > 1 else [*values, *values]
    lower, median, upper = statistics.quantiles(several, n=4, method="inclusive")
    mean = statistics.fmean(values)
    spread = math.sqrt(statistics.fmean((value - mean) ** 2 for value in values)) if len(values) > 1 else None
    return Numbers(len(values), mean, spread, min(values), lower, median, upper, max(values))


class Cut(NamedTuple):
    """How a range is cut: from where, how wide each bin, how many; `is_whole`: a bin is one whole number."""

    start: float
    width: float
    bins: int
    is_whole: bool


def _cut(field: PlannedField, values: Sequence[float]) -> Cut:
    bounds = [bound for bound in (field.minimum, field.maximum) if bound is not None]
    least, most = min([*bounds, *values]), max([*bounds, *values])
    whole = field.type == "integer"
    if whole and most - least < MOST_BARS:
        return Cut(least, 1, int(most - least) + 1, is_whole=True)
    width = _round_width((most - least) / 20 or 1)
    width = max(1, math.ceil(width)) if whole else width
    start = math.floor(least / width) * width
    return Cut(start, width, max(1, math.ceil((most - start) / width)), is_whole=False)


def _round_width(width: float) -> float:
    """The next round number: 1, 2, 2.5, 5 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in ROUND if factor * power >= width * (1 - 1e-9))


def _bins(values: Sequence[float], cut: Cut) -> list[Bar]:
    counts = [0] * cut.bins
    for value in values:
        counts[min(int((value - cut.start) / cut.width), cut.bins - 1)] += 1
    return [Bar(_label(cut, place), count) for place, count in enumerate(counts)]


def _label(cut: Cut, place: int) -> str:
    lower = cut.start + place * cut.width
    if cut.is_whole:
        return f"{lower:g}"
    return f"{lower:.6g} to {lower + cut.width:.6g}"


def _drawn(bars: Sequence[Bar]) -> tuple[Drawn, ...]:
    highest = max((bar.answers for bar in bars), default=0) or 1
    width = WIDTH / max(len(bars), 1)
    heights = [round((HEIGHT - FOOT) * bar.answers / highest, 2) for bar in bars]
    return tuple(
        Drawn(bar, round(place * width + GAP / 2, 2), HEIGHT - FOOT - height, round(width - GAP, 2), height)
        for place, (bar, height) in enumerate(zip(bars, heights, strict=True))
    )


def _x(cut: Cut, value: float) -> float:
    shift = 0.5 if cut.is_whole else 0
    return round(WIDTH * min(max(((value - cut.start) / cut.width + shift) / cut.bins, 0), 1), 2)
