"""The sample assessment and its slices hold what the demo shows."""

from __future__ import annotations

import pytest

from elspeth_dagster.stages.finding import RejectionReason
from elspeth_dagster.stages.prompting import messages
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reading import Record, Rejection
from elspeth_dagster_tests.llm_local.sample import SLICES, sample_assessment, sample_records

ASSESSMENT = sample_assessment()
QUESTIONS = questions(ASSESSMENT)
CHARACTERS_PER_PROMPT_TOKEN = 4


def rows(partition: str) -> list[Record]:
    return [record for record in sample_records(partition) if isinstance(record, Record)]


def prompt(record: Record, number: int) -> str:
    asked = messages(QUESTIONS[number], record.values, ASSESSMENT.lookup)
    return "\n".join(message["content"] for message in asked)


def test_two_case_studies_by_two_criteria_make_four_questions() -> None:
    assert [question.key for question in QUESTIONS] == [
        "cs1_diagnosis",
        "cs1_safety",
        "cs2_diagnosis",
        "cs2_safety",
    ]


def test_the_first_slice_shows_one_rejection_and_one_failure() -> None:
    records = sample_records("2026-01-05")
    rejections = [record for record in records if isinstance(record, Rejection)]
    blank = {
        row.key: question.missing_inputs(row.values)
        for row in rows("2026-01-05")
        for question in QUESTIONS
        if question.missing_inputs(row.values)
    }
    assert [rejection.reason for rejection in rejections] == [RejectionReason.RAGGED]
    assert blank == {"S-1005": ["cs2_plan"]}


@pytest.mark.parametrize("partition", SLICES[1:])
def test_the_other_slices_have_only_rows_that_can_be_asked_about(partition: str) -> None:
    assert all(isinstance(record, Record) for record in sample_records(partition))
    assert not any(question.missing_inputs(row.values) for row in rows(partition) for question in QUESTIONS)


def test_a_key_names_one_row_of_all_slices() -> None:
    keys = [row.key for partition in SLICES for row in rows(partition)]
    assert len(keys) == len(set(keys)) == 14


def test_no_prompt_names_the_student() -> None:
    for partition in SLICES:
        for row in rows(partition):
            assert not any(str(row.values["student"]) in prompt(row, number) for number in range(4))


def test_prompts_are_short_enough_for_a_small_model() -> None:
    longest = max(len(prompt(row, number)) for partition in SLICES for row in rows(partition) for number in range(4))
    assert longest < 350 * CHARACTERS_PER_PROMPT_TOKEN


def test_a_prompt_reads_as_its_template_says() -> None:
    text = prompt(rows("2026-01-05")[2], 1)
    assert "Patient: 19-year-old apprentice, stung by a bee ten minutes ago. Hives, swollen lips" in text
    assert "adrenaline 500 µg into the thigh" in text
    assert "\nCriterion: The plan is safe and complete.\n- Urgent steps come first.\n- Doses" in text
    assert "\n0: harm is likely, or urgent care is delayed\n50: " in text
