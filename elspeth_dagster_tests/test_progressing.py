"""What a step says while it works: few lines, each with all that a person wants to know."""

from __future__ import annotations

import pytest

from elspeth_dagster.counting import Counts
from elspeth_dagster.progressing import Progress, in_words


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(questions: int, seconds: int) -> list[str]:
    """What is said of a step that settles its questions evenly in so many seconds, looked at every second."""
    said: list[str] = []
    clock = Clock()
    progress = Progress(questions, 4, said.append, clock)
    for second in range(1, seconds + 1):
        clock.now = float(second)
        progress.tell(Counts(questions=questions * second // seconds, calls=questions * second // seconds))
    return said


@pytest.mark.parametrize(("seconds", "most"), [(3, 0), (60, 11), (3600, 131)])
def test_lines_come_by_time_and_tenths_never_by_rows(seconds: int, most: int) -> None:
    few, many = lines_of(400, seconds), lines_of(4_000_000, seconds)
    assert abs(len(few) - len(many)) <= 1 and len(many) <= most


def test_a_line_tells_rows_calls_money_and_when_it_will_be_done() -> None:
    said: list[str] = []
    clock = Clock()
    progress = Progress(400, 4, said.append, clock)
    clock.now = 30.0
    counts = Counts(questions=120, refused=3, reused=20, calls=104, retries=3, repairs=1, cost_nanousd=1_230_000_000)
    progress.tell(counts)
    assert said == [
        "30 of 100 rows done (30%): 120 questions settled (3 refused, 20 from the record), 104 calls (3 retries, "
        "1 repairs), 0 + 0 tokens, $1.2300, about 84 s left"
    ]


def test_nobody_knows_how_long_it_takes_as_long_as_all_came_from_the_record() -> None:
    said: list[str] = []
    clock = Clock()
    progress = Progress(400, 4, said.append, clock)
    clock.now = 30.0
    progress.tell(Counts(questions=40, reused=40))
    assert "left" not in said[0]


@pytest.mark.parametrize(("seconds", "words"), [(9, "9 s"), (99.4, "99 s"), (600, "10 min"), (11_100, "3 h 5 min")])
def test_a_duration_is_said_as_a_person_says_it(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
