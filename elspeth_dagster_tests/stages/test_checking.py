"""Each mistake that can be known before a run is found, at its key, and nothing else is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elspeth_dagster.core.spec import AssessmentSpec, KeyPath
from elspeth_dagster.stages.checking import check, named_files, problems
from elspeth_dagster.stages.checking_files import FileContent
from elspeth_dagster.stages.merging import merge
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reviewing import review_columns
from elspeth_dagster.stages.tabling import answers_schema, failures_schema, results_schema
from elspeth_dagster_tests.stages.declared import FILES, NOTHING, QUERY, assessment, changed, spec

COLUMNS = {"id": "str", "region": "str", "cs1_text": "str", "cs2_text": "str"}
INBOX: dict[str, Any] = {"inbox": "data/inbox/*.csv", "key": ["id"], "columns": COLUMNS}
TAKEN: dict[str, Any] = {"partitions": {"dynamic": "arrivals"}, "sensor": {"max_age_seconds": 60}}
ONE_RUN: dict[str, Any] = {
    "backfill": "single_run",
    "partitions": {"static": ["north"]},
    "source.path": "data/{partition}.csv",
}
PAIRS: dict[str, Any] = {"multi": {"region": {"static": ["north"]}, "date": {"daily": "2026-01-01"}}}
NO_PRODUCT: dict[str, Any] = {"case_studies": [], "criteria": [], "prompt": {}, "answer": {}, "queries": [QUERY]}


def found(changes: dict[str, Any], files: Mapping[str, FileContent] | None = None) -> list[tuple[KeyPath, str]]:
    declared = spec(changes)
    contents = {**FILES, **(files or {})}
    told = problems(declared, {name: contents.get(name, FileNotFoundError()) for name in named_files(declared)})
    assert all(problem.message.endswith((".", "?")) for problem in told)
    return [(problem.key_path, problem.message) for problem in told]


def check_only(told: list[tuple[KeyPath, str]], key: str, words: str) -> None:
    """There is one problem, at this key, and it says these words."""
    assert [".".join(map(str, key_path)) for key_path, _ in told] == [key], told
    assert words in told[0][1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"queries": [QUERY]},
        NO_PRODUCT,
        {
            "source": {
                "asset": "team/table",
                "key": ["id"],
                "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"},
            }
        },
        {"partitions": {"daily": "2026-01-01"}, "source.path": "data/{partition}.csv"},
        {"partitions": PAIRS, "source.path": "data/{date}/{region}.csv", "source.missing": "skip", "sensor": {}},
        {"partitions": PAIRS, "source.path": "data/{partition}.csv"},
        {"source": INBOX, **TAKEN, "sensor.files": 9, "sensor.marker": ".done"},
        {"aggregate": {"group_by": ["region"], "when": "row.region == 'north' and row['id'] > '7'"}},
        {**NO_PRODUCT, "queries.0.system": "system.j2"},
        {
            **NO_PRODUCT,
            "queries": [QUERY, {**QUERY, "name": "b", "system": "query.j2"}],
            "prompt": {"system": "system.j2"},
        },
        {"llm.options": {"stop": ["\n"], "logit_bias": {"50256": -100}, "user": None, "top_p": 0.5}},
    ],
)
def test_a_good_assessment_has_no_problems(changes: dict[str, Any]) -> None:
    assert found(changes) == []


def test_every_problem_is_told_at_once() -> None:
    told = found({"source.path": "{day}.csv", "criteria.1.name": "clarity", "case_studies.0.inputs.text": "cs1"})
    assert [key_path for key_path, _ in told] == [
        ("criteria", 1, "name"),
        ("source", "path"),
        ("case_studies", 0, "inputs", "text"),
    ]


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({**NO_PRODUCT, "queries": []}, "", "No question is asked"),
        ({"criteria": [], "queries": [QUERY], "prompt.lookup": NOTHING}, "case_studies", "no criteria"),
        ({"criteria": [], "answer": {}, "prompt.lookup": NOTHING}, "case_studies", "no criteria"),
        ({"case_studies": [], "queries": [QUERY], "prompt.lookup": NOTHING}, "criteria", "no case studies"),
        ({"prompt.template": NOTHING, "prompt.lookup": NOTHING}, "prompt.template", "Name a Jinja2 file"),
        ({"answer": {}}, "answer", "at least one answer field"),
        ({**NO_PRODUCT, "queries.0.answer": NOTHING}, "queries.0.answer", "neither has the assessment"),
        ({**NO_PRODUCT, "prompt": {"template": "ask.j2"}}, "prompt.template", "Take it out"),
        ({**NO_PRODUCT, "answer": {"why": {"type": "string"}}}, "answer", "Take it out"),
        (
            {**NO_PRODUCT, "queries.0.system": "query.j2", "prompt": {"system": "system.j2"}},
            "prompt.system",
            "system message of its own",
        ),
    ],
)
def test_questions_that_cant_be_made_and_settings_without_effect_are_refused(
    changes: dict[str, Any], key: str, words: str
) -> None:
    check_only(found(changes), key, words)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"case_studies.1.name": "cs1"}, "case_studies.1.name", "taken by case_studies[0]"),
        ({"criteria.1.name": "clarity"}, "criteria.1.name", "taken by criteria[0]"),
        ({"queries": [QUERY, QUERY]}, "queries.1.name", "taken by queries[0]"),
        ({"queries": [{**QUERY, "name": "cs1_depth"}]}, "queries.0.name", "`cs1_depth`"),
    ],
)
def test_names_and_question_keys_are_taken_once(changes: dict[str, Any], key: str, words: str) -> None:
    check_only(found(changes), key, words)


def test_two_products_can_make_the_same_question_key() -> None:
    told = found(
        {
            "case_studies.0.name": "a_b",
            "criteria.0.name": "c",
            "case_studies.1.name": "a",
            "criteria.1.name": "b_c",
        }
    )
    check_only(told, "case_studies.1.name", "`a_b_c` has the same key as one of case study a_b")


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        (
            {"source.columns.cs1_depth_score": "int"},
            "answer.score",
            "`cs1_depth_score` of question `cs1_depth` is a source",
        ),
        (
            {"source.columns.cs2_clarity_reason": "str"},
            "source.columns.cs2_clarity_reason",
            "why question `cs2_clarity`",
        ),
        (
            {"review": True, "answer.verdict": {"type": "string"}},
            "answer.verdict",
            "what reviewers say. Rename it here.",
        ),
        (
            {"review": True, "source.columns.cs1_depth_score_reviewed": "int"},
            "source.columns.cs1_depth_score_reviewed",
            "With `review`, `results` says in a column `cs1_depth_score_reviewed`",
        ),
        ({"answer.status": {"type": "string"}}, "answer.status", "`answers` has a column `status` of its own"),
        ({"answer.question": {"type": "string"}}, "answer.question", "column `question`"),
        ({"answer.id": {"type": "string"}}, "answer.id", "key column `id`"),
        ({"source.key": ["id", "run_id"], "source.columns.run_id": "str"}, "source.key.1", "column `run_id`"),
        (
            {"queries": [{**QUERY, "answer": {"score": {"type": "number"}}}]},
            "queries.0.answer.score.type",
            "number here",
        ),
        (
            {"queries": [{**QUERY, "name": "cs1", "answer": {"depth_score": {"type": "integer"}}}]},
            "queries.0.answer.depth_score",
            "that of question `cs1_depth`, field `score`",
        ),
    ],
)
def test_columns_that_collide_are_refused(changes: dict[str, Any], key: str, words: str) -> None:
    check_only(found(changes), key, words)


def test_an_enum_and_a_string_share_a_column() -> None:
    assert found({"queries": [{**QUERY, "answer": {"why": {"type": "enum", "values": ["a"]}}}]}) == []


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"case_studies.0.inputs.text": "cs1_txt"}, "case_studies.0.inputs.text", "Did you mean `cs1_text`?"),
        ({"queries": [{**QUERY, "inputs": {"text": "zzz"}}]}, "queries.0.inputs.text", "Declare it there."),
        ({"aggregate": {"group_by": ["regoin"]}}, "aggregate.group_by.0", "Did you mean `region`?"),
        ({"aggregate": {"group_by": ["region", "region"]}}, "aggregate.group_by.1", "named twice"),
        ({"aggregate": {"when": "row.regoin == 'x'"}}, "aggregate.when", "Did you mean `region`?"),
        ({"aggregate": {"when": "rows.region == 'x'"}}, "aggregate.when", "`rows` is not given to `when`"),
        ({"aggregate": {"when": "row.region =="}}, "aggregate.when", "not a Jinja2 expression"),
        ({"aggregate": {"when": ""}}, "aggregate.when", "not a Jinja2 expression"),
        ({"aggregate": {"when": "1 > 2"}}, "aggregate.when", "doesn't look at `row`"),
        (
            {"source.columns.values": "str", "aggregate": {"when": "row.values == 'x'"}},
            "aggregate.when",
            "row['values']",
        ),
    ],
)
def test_columns_that_are_not_declared_are_refused(changes: dict[str, Any], key: str, words: str) -> None:
    told = found(changes)
    check_only(told[:1], key, words)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"source.path": "data/{partition}.csv"}, "source.path", "without `partitions`"),
        ({"partitions": {"daily": "2026-01-01"}}, "source.path", "the same file"),
        ({"partitions": PAIRS, "source.path": "data/{date}.csv"}, "source.path", "Every region would read the same"),
        (
            {"partitions": PAIRS, "source.path": "{date}{region}{site}.csv"},
            "source.path",
            "`{partition}`, `{date}` and ",
        ),
        (
            {
                "partitions": {"multi": {"a": {"static": ["x", "y|z"]}, "b": {"dynamic": "b"}}},
                "source.path": "{a}{b}.csv",
            },
            "partitions.multi.a.static.1",
            "can't name a file",
        ),
        ({"source": INBOX | {"inbox": "data/*/a.csv"}, **TAKEN}, "source.inbox", "in its last part"),
        ({"source": INBOX | {"inbox": "data/{partition}*.csv"}, **TAKEN}, "source.inbox", "Take `{…}` out"),
        ({"source": INBOX | {"inbox": "s3://a:b@c/*.csv"}, **TAKEN}, "source.inbox", "password"),
        ({"source": INBOX, **TAKEN, "partitions": {"static": ["a"]}}, "source.inbox", "`partitions: {dynamic: …}`"),
        ({"source": INBOX, **TAKEN, "sensor": {"files": 9}}, "source.inbox", "`sensor: {max_age_seconds: …}`"),
        ({"source": INBOX, "partitions": {"dynamic": "a"}}, "source.inbox", "Nothing would take the files"),
        (
            {"source": INBOX, **TAKEN, "sensor": {"max_age_seconds": 9, "changed": "ask"}},
            "sensor.changed",
            "is taken once",
        ),
        ({"backfill": "single_run"}, "backfill", "Declare `partitions`, or take it out"),
        ({**ONE_RUN, "source.path": NOTHING, "source.asset": "a/b"}, "backfill", "`source.asset` has none"),
        ({"source": INBOX, **TAKEN, "backfill": "single_run"}, "backfill", "`source.inbox` has none"),
        ({**ONE_RUN, "source.missing": "skip"}, "backfill", "`source.missing: skip`"),
        ({"sensor": {"files": 9}}, "sensor.files", "goes with `source.inbox`"),
        ({"sensor": {"max_age_seconds": 9}}, "sensor.max_age_seconds", "goes with `source.inbox`"),
        ({"source": INBOX | {"inbox": None, "asset": "a/b"}, "sensor": {}}, "sensor", "the source is an asset"),
        ({"source.path": "data/{day}.csv"}, "source.path", "`{day}` stands for nothing"),
        ({"source.path": "sftp://me:secret@host/rows.csv"}, "source.path", "password"),
        ({"source.path": NOTHING, "source.asset": "team//table"}, "source.asset", "blank"),
        ({"source.path": NOTHING, "source.asset": "trial/results"}, "source.asset", "itself"),
        (
            {"partitions": {"static": ["a", "b", "a"]}, "source.path": "{partition}.csv"},
            "partitions.static.2",
            "there twice",
        ),
        (
            {"partitions": {"static": ["a", "../b"]}, "source.path": "{partition}.csv"},
            "partitions.static.1",
            "can't name a file",
        ),
    ],
)
def test_sources_and_partitions_that_dont_fit_are_refused(changes: dict[str, Any], key: str, words: str) -> None:
    check_only(found(changes), key, words)


@pytest.mark.parametrize("key", ["", " ", "a/b", "a\\b", "..", "a::b", "a\nb"])
def test_a_partition_key_that_cant_name_a_file_is_refused(key: str) -> None:
    told = found({"partitions": {"static": [key, "good"]}, "source.path": "{partition}.csv"})
    check_only(told, "partitions.static.0", "can't name a file")


def test_a_password_in_a_path_is_not_repeated() -> None:
    [(_, message)] = found({"source.path": "sftp://me:secret@host/rows.csv"})
    assert "secret" not in message


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"top_p": float("nan")}, "llm.options.top_p", "no number in JSON"),
        ({"logit_bias": {50256: -100}}, "llm.options.logit_bias.50256", "Put it in quotes"),
        ({"metadata": {"tags": [b"x"]}}, "llm.options.metadata.tags.0", "bytes is nothing"),
    ],
)
def test_options_that_cant_be_sent_are_refused(options: dict[str, Any], key: str, words: str) -> None:
    check_only(found({"llm.options": options}), key, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (FileNotFoundError(2, "No such file"), "There is no file ask.j2"),
        (IsADirectoryError(21, "Is a directory"), "ask.j2 is a folder"),
        (PermissionError(13, "Permission denied"), "ask.j2 can't be read (Permission denied)"),
        (b" \n\n", "ask.j2 is empty"),
        (b"one\ntwo \xff", "ask.j2:2 is not UTF-8"),
        (b"one\n{{ row.text", "ask.j2:2 is not Jinja2"),
        (b"one\n{% for x in row %}", "ask.j2:2 is not Jinja2"),
        (b"\n\n{{ row.text | shout }}", "ask.j2:3 is not Jinja2: No filter named 'shout'"),
        (b"{{ row.text }}\n{% include 'x' %}", "ask.j2:2 is not Jinja2: A template can't take in another file"),
    ],
)
def test_a_template_that_cant_be_used_is_refused_with_its_line(content: FileContent, words: str) -> None:
    check_only(found({"prompt.lookup": NOTHING}, {"ask.j2": content}), "prompt.template", words)


USES_ALL = b"{{ row.text }}{{ lookup }}\n"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            b"{{ row.txt }}",
            "ask.j2:2: `row.txt` is not an input of case study cs1, case study cs2. Did you mean `text`?",
        ),
        (b"{{ row['txt'] }}", "`row['txt']` is not an input"),
        (b"{{ student }}", "`student` is not given to question cs1_clarity, question cs1_depth"),
        (b"{{ range(3) }}", "`range` is not given"),
        (b"{{ criterion.kode }}", "`criterion.kode` is not there for"),
        (b"{{ case_study.code }}", "`case_study.code` is not there for"),
        (b"{{ lookup.CLEAR.mraks }}", "`lookup.CLEAR` has no 'mraks'. Did you mean `marks`?"),
        (b"{% for mark in lookup.CLEAR.marks %}{{ mark.scor }}{% endfor %}", "`mark` has no 'scor'"),
        (b"{% set guide = lookup.CLEAR %}{{ guide.x }}", "`guide` has no 'x'"),
        (
            b"{{ criterion.subcriteria[0] }}",
            "`criterion.subcriteria[0]` is not there for question cs1_clarity, question cs2_c",
        ),
        (b"{{ lookup.values }}", "Write `lookup['values']`"),
        (b"{% if row.txt %}x{% endif %}", "`row.txt` is not an input"),
        (b"{% if row.text %}{{ row.txt }}{% endif %}", "`row.txt` is not an input"),
        (b"{{ row.txt | default('') }}", "`row.txt` is not an input"),
        (b"{{ lookup.__class__ }}", "`lookup.__class__` is not there"),
    ],
)
def test_what_a_template_takes_and_no_question_gives_is_refused_with_its_line(template: bytes, words: str) -> None:
    check_only(found({}, {"ask.j2": USES_ALL + template}), "prompt.template", words)


def test_a_criterion_without_an_entry_in_the_lookup_is_found() -> None:
    told = found({}, {"lookup.yaml": b"CLEAR:\n  marks: []\n"})
    check_only(
        told, "prompt.template", "`lookup[criterion.code]` is not there for question cs1_depth, question cs2_depth. "
    )
    assert "`lookup` has no 'DEEP'." in told[0][1]


def test_the_case_study_that_lacks_an_input_is_named() -> None:
    told = found({"case_studies.0.inputs.place": "region"}, {"ask.j2": USES_ALL + b"{{ row.place }}"})
    check_only(told, "prompt.template", "`row.place` is not an input of case study cs2. Declare it")


@pytest.mark.parametrize(
    "template",
    [
        b"{% if row.place is defined %}{{ row.place }}{% endif %}",
        b"{{ row.place | default('nowhere') }}",
        b"{% if case_study.name == 'cs1' %}{{ row.place }}{% endif %}",
        b"{{ row.place if case_study.name == 'cs1' else '' }}",
    ],
)
def test_an_input_of_one_case_study_may_be_taken_under_a_condition(template: bytes) -> None:
    assert found({"case_studies.0.inputs.place": "region"}, {"ask.j2": USES_ALL + template}) == []


@pytest.mark.parametrize(
    "template",
    [
        b"{% for name, text in row.items() %}{{ name }}: {{ text }}{% endfor %}{{ lookup }}",
        b"{{ row | tojson }}{{ lookup }}",
        b"{{ row[row.text] }}{{ lookup }}",
        b"{{ row.text }}{% for row in lookup.CLEAR.marks %}{{ row.score }}{% endfor %}",
        b"{{ row.text.split(';')[3].foo }}{{ lookup[row.text].x }}",
        b"{% macro shown(mark) %}{{ mark.any }}{% endmacro %}{{ shown(row.text) }}{{ lookup }}",
        b"{% if criterion.code in lookup and lookup.CLEAR is defined %}{{ row.text }}{% endif %}",
        b"{# {{ row.comment }} #}{% raw %}{{ row.raw }}{% endraw %}{{ row.text }}{{ lookup }}",
    ],
)
def test_what_only_a_row_can_tell_is_left_to_the_row(template: bytes) -> None:
    assert found({}, {"ask.j2": template}) == []


def test_what_a_loop_lets_through_only_under_a_condition_may_be_missing_elsewhere() -> None:
    lookup = b"CLEAR: {marks: [{note: a}, {score: 1}]}"
    loop = b"{% for mark in lookup.CLEAR.marks if mark.note is defined %}{{ mark.note }}{{ row.text }}{% endfor %}"
    assert found({}, {"ask.j2": loop, "lookup.yaml": lookup}) == []


def test_a_query_is_given_no_case_study() -> None:
    told = found({"queries": [QUERY]}, {"query.j2": b"{{ case_study.name }}: {{ row.text }}"})
    check_only(told, "queries.0.template", "`case_study` is not given to question language. It is given row, lookup.")


def test_the_assessments_system_message_is_checked_for_the_queries_too() -> None:
    told = found({"queries": [QUERY]}, {"system.j2": b"Judge the {{ criterion.name }}."})
    check_only(told, "prompt.system", "`criterion` is not given to question language.")


def test_lookup_is_given_only_where_it_is_declared() -> None:
    told = found({"prompt.lookup": NOTHING}, {"ask.j2": b"{{ row.text }}{{ lookup }}"})
    check_only(told, "prompt.template", "`lookup` is not given to question cs1_clarity")


def test_a_lookup_that_no_template_uses_is_refused() -> None:
    check_only(found({}, {"ask.j2": b"{{ row.text }}"}), "prompt.lookup", "No template uses `lookup`")


def test_an_input_that_no_template_takes_is_refused() -> None:
    told = found({"case_studies.1.inputs.place": "region"})
    check_only(told, "case_studies.1.inputs.place", "None of its templates takes `row.place`")


def test_an_input_may_be_taken_by_the_system_message_alone() -> None:
    assert found({}, {"ask.j2": b"{{ lookup }}", "system.j2": b"{{ row.text }}"}) == []


@pytest.mark.parametrize("said_in", ["ask.j2", "system.j2"])
def test_json_object_needs_the_word_json_in_a_message(said_in: str) -> None:
    said = {said_in: bytes(FILES[said_in]) + b" Answer in json."}  # type: ignore[arg-type]
    assert found({"structured_output": "json_object"}, said) == []
    hidden = {said_in: bytes(FILES[said_in]) + b"{# JSON #}"}  # type: ignore[arg-type]
    check_only(
        found({"structured_output": "json_object"}, hidden), "structured_output", "the word JSON. Say it in ask.j2"
    )


@pytest.mark.parametrize(
    ("lookup", "words"),
    [
        (b"CLEAR: [", "lookup.yaml:1 is not one YAML document"),
        (b"A: 1\n---\nB: 2", "lookup.yaml:2 is not one YAML document"),
        (b"# nothing\n", "lookup.yaml holds no data"),
        (b"A: 1\nB:\n  C: 1\n  C: 2", "lookup.yaml:4: The key `C` is there twice"),
        (b"A:\n  since: 2026-01-01", "lookup.yaml:2: `2026-01-01` is a date to YAML"),
        (b"A: .nan", "lookup.yaml:1: `.nan` is no number in JSON"),
        (b"A: -.inf", "`-.inf` is no number"),
        (b"A: 1.0e+999", "`1.0e+999` is no number"),
        (b"A: no", "YAML reads `no` as false"),
        (b"A: 010", "YAML reads `010` as 8"),
        (b"A: 12:30", "YAML reads `12:30` as 750"),
        (b"1: A", "The key `1` is not text"),
        (b"no: A", "The key `no` is not text"),
        (b"[1, 2]: A", "The key `seq` is not text"),
        (b"A: !!set {x}", "`set` is nothing that JSON can hold"),
        (b"A: !mine x", "`!mine` is nothing that JSON can hold"),
        (b"A: &a [*a]", "It holds itself"),
    ],
)
def test_a_lookup_that_yaml_would_read_as_something_else_is_refused_with_its_line(lookup: bytes, words: str) -> None:
    told = found({}, {"lookup.yaml": lookup, "ask.j2": USES_ALL})
    check_only(told, "prompt.lookup", words)


def test_a_lookup_holds_what_its_author_wrote() -> None:
    lookup = (
        b"\xef\xbb\xbfA: {x: 1, y: -2.5, z: 'no', t: true, n: null, d: '2026-01-01', e: 1e3, l: &l [a, b], m: *l}\r\n"
    )
    good = assessment({}, {"lookup.yaml": lookup, "ask.j2": USES_ALL})
    assert good.lookup == {
        "A": {
            "x": 1,
            "y": -2.5,
            "z": "no",
            "t": True,
            "n": None,
            "d": "2026-01-01",
            "e": "1e3",
            "l": ["a", "b"],
            "m": ["a", "b"],
        }
    }


def test_a_template_has_the_same_text_whatever_ends_its_lines() -> None:
    good = assessment({}, {"ask.j2": b"\xef\xbb\xbfone\r\n" + USES_ALL})
    assert good.templates["ask.j2"] == "one\n" + USES_ALL.decode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "1st"}, "start with a letter"),
        ({"name": "a" * 101}, "at most 100"),
        ({"answer": {"the score": {"type": "integer"}}}, "start with a letter"),
        ({"case_studies.0.inputs": {"the text": "cs1_text"}}, "no name that a template can use"),
        ({"partitions": {"daily": "2026-02-30"}}, "no date like 2026-01-31"),
        ({"partitions": {"daily": "20260101"}}, "no date like 2026-01-31"),
        ({"partitions": {"daily": "2026-01-01", "static": ["a"]}}, "exactly one of"),
        ({"partitions": {"daily": "2026-01-02", "until": "2026-01-01"}}, "not before its first"),
        ({"partitions": {"static": ["a"], "until": "2026-01-01"}}, "last day of `daily`"),
        ({"partitions": {"multi": {"date": {"daily": "2026-01-01"}}}}, "by two dimensions at once, not by 1"),
        ({"partitions": {"multi": {"a b": {"static": ["x"]}, "c": {"dynamic": "c"}}}}, "start with a letter"),
        ({"partitions": {"multi": {"partition": {"static": ["x"]}, "c": {"dynamic": "c"}}}}, "another name"),
        ({"partitions": {"multi": {key: {"daily": "2026-01-01"} for key in "ab"}}}, "at most one dimension is `daily`"),
        ({"partitions": {"multi": {"a": {"multi": {}}, "b": {"static": ["x"]}}}}, "Extra inputs"),
        ({"partitions": {"multi": PAIRS["multi"], "dynamic": "a"}}, "exactly one of"),
        ({"source.inbox": "data/*.csv"}, "give either `path`, `asset` or `inbox`"),
        ({"source": INBOX | {"inbox": "data/*"}}, "give `format`"),
        ({"source": INBOX | {"inbox": None, "asset": "a", "missing": "skip"}}, "an asset has no file"),
        ({"sensor": {"marker": ".done", "settled_seconds": 10}}, "complete at once"),
        ({"sensor": {"marker": "/done"}}, "can't hold '/'"),
        ({"rows_per_step": 0}, "greater than or equal to 1"),
        ({"answer.score.minimum": 0.5}, "whole numbers"),
        ({"answer.score.minimum": float("-inf")}, "greater than or equal to"),
        ({"answer.score.maximum": -1}, "above"),
        ({"answer.why.minimum": 1}, "for integer and number"),
        ({"answer.score.values": ["1"]}, "goes with type enum"),
        ({"llm.options": {"temperature": 1}}, "set by the assessment itself"),
        ({"source.key": ["nr"]}, "not declared in `columns`"),
        ({"source.path": "rows.xlsx"}, "give `format`"),
        ({"bugdet": {"max_calls": 1}}, "Extra inputs"),
    ],
)
def test_what_a_single_part_can_tell_is_refused_by_its_model(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match="validation error") as refused:
        AssessmentSpec.model_validate(changed(changes))
    assert words in str(refused.value)


short = st.text("ab_", min_size=1, max_size=4).map(lambda text: f"c{text}")
names = st.lists(short, min_size=1, max_size=3, unique=True)
fields = st.lists(short | st.sampled_from(["status", "id", "reason", "verdict"]), min_size=1, max_size=2, unique=True)


@given(names, names, names, fields, st.lists(short, max_size=4, unique=True), st.booleans())
def test_whatever_is_accepted_has_tables_without_a_column_twice(
    case_studies: list[str],
    criteria: list[str],
    queries: list[str],
    answer: list[str],
    columns: list[str],
    review: bool,
) -> None:
    declared = spec(
        {
            "source.columns": {"id": "str", "text": "str"} | dict.fromkeys(columns, "str"),
            "case_studies": [{"name": name, "inputs": {"text": "text"}} for name in case_studies],
            "criteria": [{"name": name, "code": "CLEAR"} for name in criteria],
            "queries": [{**QUERY, "name": name, "inputs": {"text": "text"}} for name in queries],
            "answer": {name: {"type": "string"} for name in answer},
            "review": review,
        }
    )
    checked = check(declared, {name: FILES[name] for name in named_files(declared)})
    if checked.problems:
        return
    asked = questions(checked.assessment)
    cells = [question.column(name) for question in asked for name in question.fields]
    reviewed = [column for question in asked for column in review_columns(question) if review]
    assert results_schema(declared, asked).names == [*declared.source.columns, *cells, *reviewed]
    assert set(merge(asked, {}, {}, "keep_partial").cells) == set(cells)
    for schema in (results_schema, answers_schema, failures_schema):
        columns_of_table = schema(declared, asked).names
        assert len(columns_of_table) == len(set(columns_of_table))
