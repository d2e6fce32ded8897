"""Reviews grow beside answers, at any time, each once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.landscape import reviews
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Answer, Review, Scope
from elspeth_dagster.landscape.reviews import Said, saying
from elspeth_dagster.landscape.words import Verdict
from elspeth_dagster_tests.landscape.sample import NOON, a_run, only, recorded


def review(hours: int = 0, file: str = "first", **changes: Any) -> Said:
    """Ada agrees, but for what is changed."""
    corrected: Mapping[str, Any] = changes.pop("corrected", {})
    answer = only(Answer, a_run("r1"))
    at, key = NOON + timedelta(hours=hours), (answer.state_id, answer.token_id, answer.query_key)
    ada = Review(*key, "Ada", 0, Verdict.AGREE, None, None, sha256(file.encode()), at)
    return saying(ada._replace(**changes), corrected, only(Scope, a_run("r1")))


@pytest.fixture
def ended(landscape: Landscape) -> Landscape:
    """A landscape whose run r1 has ended."""
    landscape.write(*(fact for fact in a_run("r1") if not isinstance(fact, Review)))
    return landscape


def on_record(landscape: Landscape) -> list[tuple[Any, ...]]:
    with landscape.read() as connection:
        found = sorted(recorded(connection, Review), key=lambda one: (one.reviewer, one.number))
    return [(one.reviewer, one.number, one.verdict) for one in found]


def test_a_review_comes_after_the_end_of_its_run(ended: Landscape) -> None:
    assert reviews.put(ended, [review()]) == 1
    assert on_record(ended) == [("Ada", 1, Verdict.AGREE)]


def test_what_the_same_file_brought_adds_nothing_whatever_came_since(ended: Landscape) -> None:
    assert reviews.put(ended, [review()]) == 1
    assert reviews.put(ended, [review(hours=1, file="second", verdict=Verdict.REJECT, reason="wrong")]) == 1
    assert reviews.put(ended, [review(hours=2)]) == 0
    assert on_record(ended) == [("Ada", 1, Verdict.AGREE), ("Ada", 2, Verdict.REJECT)]


def test_the_same_words_of_another_file_add_nothing(ended: Landscape) -> None:
    correction: dict[str, Any] = {"verdict": Verdict.CORRECT, "corrected": {"score": 3}}
    assert reviews.put(ended, [review(**correction)]) == 1
    assert reviews.put(ended, [review(hours=1, file="second", **correction)]) == 0


def test_another_mind_and_another_reviewer_are_further_facts(ended: Landscape) -> None:
    assert reviews.put(ended, [review(), review(reviewer="Bob")]) == 2
    assert reviews.put(ended, [review(hours=1, file="2", verdict=Verdict.CORRECT, corrected={"score": 3})]) == 1
    assert reviews.put(ended, [review(hours=2, file="3")]) == 1
    verdicts = [("Ada", 1, Verdict.AGREE), ("Ada", 2, Verdict.CORRECT), ("Ada", 3, Verdict.AGREE)]
    assert on_record(ended) == [*verdicts, ("Bob", 1, Verdict.AGREE)]


def test_a_commit_whose_answer_was_lost_is_counted_once(ended: Landscape) -> None:
    said = [review()]
    assert reviews.put(ended, said) == reviews.put(ended, said) == 1
    assert on_record(ended) == [("Ada", 1, Verdict.AGREE)]


def test_all_are_recorded_or_none(ended: Landscape) -> None:
    with pytest.raises(AuditError, match=r"(?i)foreign key"):
        reviews.put(ended, [review(), review(token_id="nobody")])
    assert on_record(ended) == []
