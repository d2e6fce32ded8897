"""Erase: the bytes go, from the files too; names and records stay; what others need, or a hold covers, stays."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, ErasedError, LandscapeError, NotOnRecordError, SettingsError
from elspeth_dagster.landscape import explaining, holding, payloads, rows, schema, scopes
from elspeth_dagster.landscape.erasing import Wanted, erase, plan
from elspeth_dagster.landscape.holding import Subject
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Payload
from elspeth_dagster.landscape.words import ScopeKind
from elspeth_dagster_tests.landscape.told import (
    ASSESSMENT,
    a_text,
    begin,
    bodies_of,
    files_of,
    is_in_files,
    tell,
    texts_on_record,
    unpacked,
)

WHY = ("request 42", "A. Clerk")
ROW_A = Wanted(row_key="A")
LATER = Wanted(ended_before=datetime(2126, 1, 1, tzinfo=UTC))


def is_erased(landscape: Landscape, ref: str) -> bool:
    with landscape.read() as connection:
        return not isinstance(payloads.read_or_erased(connection, [ref])[ref], bytes)


def is_on_record(landscape: Landscape, text: str) -> bool:
    return any(text in each for each in texts_on_record(landscape))


# What goes ------------------------------------------------------------------------------------------------------------


def test_what_is_about_a_row_goes_in_all_runs_and_of_others_nothing(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")})
    tell(landscape, "r2", {"A": a_text("A2")})
    done = erase(landscape, ROW_A, *WHY)
    assert (done.payloads, done.scopes, done.repacked) == (10, 1, 0)
    assert not is_on_record(landscape, "canary-A")
    assert is_on_record(landscape, "canary-B1")


def test_no_byte_of_it_is_left_in_the_files(landscape: Landscape, database_url: str) -> None:
    told = tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")})
    bodies = bodies_of(landscape, *told["A"].refs)
    kept = bodies_of(landscape, told["B"].row.values_ref)[0]
    key = told["A"].scope.naming_key
    assert all(is_in_files(database_url, each) for each in (*bodies, kept, key))
    erase(landscape, ROW_A, *WHY)
    assert [is_in_files(database_url, each) for each in (*bodies, key)] == [False] * (len(bodies) + 1)
    assert is_in_files(database_url, kept)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_without_writing_the_files_anew_it_would_be_left_in_the_log(
    landscape: Landscape, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tell(landscape, "r1", {"A": a_text("A1")})
    [body] = bodies_of(landscape, told["A"].row.values_ref)
    monkeypatch.setattr(Landscape, "scrub", lambda _: None)
    erase(landscape, ROW_A, *WHY)
    assert is_in_files(database_url, body)
    assert any(path.name.endswith("-wal") for path in files_of(database_url))


def test_every_record_stays_as_it_was(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")}, rejected={7: b"A is no row"})
    tables = [table for table in schema.metadata.sorted_tables if table.name not in ("payloads", "scopes")]

    def records() -> dict[str, list[sa.Row[object]]]:
        with landscape.read() as connection:
            return {table.name: list(connection.execute(table.select())) for table in tables}

    before = records()
    erase(landscape, ROW_A, *WHY)
    after = records()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"erasures", "erased_payloads", "erased_scopes", "log_entries", "checkpoints"}


def test_who_knows_the_text_can_not_tell_that_it_was_the_one(landscape: Landscape) -> None:
    told = tell(landscape, "r1", {"A": a_text("A1")})["A"]
    erase(landscape, ROW_A, *WHY)
    with landscape.read() as connection:
        [key] = connection.scalars(sa.select(schema.scopes.c.naming_key))
    assert key == b""
    guess = told.scope._replace(naming_key=key).name(f"A;{a_text('A1')}".encode())
    assert guess != told.row.raw_ref == told.scope.name(f"A;{a_text('A1')}".encode())


def test_a_run_goes_with_its_rejected_records_and_leaves_what_other_runs_need(landscape: Landscape) -> None:
    first = tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")}, rejected={7: b"canary-X no row"})
    second = tell(landscape, "r2", {"A": a_text("A1")})
    found = plan(landscape, Wanted(run="r1"))
    done = erase(landscape, Wanted(run="r1"), *WHY)
    assert (found.payloads, found.shared) == (done.payloads, 5) == (6, 5)
    assert not is_on_record(landscape, "canary-B1") and not is_on_record(landscape, "canary-X")
    assert first["A"].row.values_ref == second["A"].row.values_ref
    assert not any(is_erased(landscape, ref) for ref in second["A"].refs)


def test_the_reply_that_a_kept_answer_was_taken_from_stays(landscape: Landscape) -> None:
    first = tell(landscape, "r1", {"A": a_text("A1")})
    tell(landscape, "r2", {"A": a_text("A2")}, taken_from=first)
    erase(landscape, Wanted(run="r1"), *WHY)
    with landscape.read() as connection:
        [body] = connection.scalars(sa.select(schema.replies.c.body_ref))
    assert not is_erased(landscape, body) and not is_erased(landscape, first["A"].request.ref)
    assert is_erased(landscape, first["A"].row.values_ref)


def test_what_stays_and_leans_on_what_goes_is_packed_anew(landscape: Landscape) -> None:
    first = tell(landscape, "r1", {"A": a_text("A1")})
    request = first["A"].request
    assert request.packed().dictionary_ref == first["A"].row.values_ref
    with landscape.read() as connection:
        before = payloads.read(connection, request.ref)
    tell(landscape, "r2", {"A": a_text("A2")}, taken_from=first)
    assert plan(landscape, Wanted(run="r1")).leaning == 1
    assert erase(landscape, Wanted(run="r1"), *WHY).repacked == 1
    with landscape.read() as connection:
        assert payloads.read(connection, request.ref) == before
        leans_on = sa.select(schema.payloads.c.dictionary_ref).where(schema.payloads.c.ref == request.ref)
        assert connection.scalar(leans_on) is None


def test_what_was_recorded_before_there_were_scopes_goes_unless_another_row_has_the_same(landscape: Landscape) -> None:
    same = tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")}, plainly=True)
    tell(landscape, "r2", {"C": a_text("A1")}, plainly=True)
    assert (plan(landscape, ROW_A).payloads, plan(landscape, ROW_A).shared) == (2, 3)
    erase(landscape, ROW_A, *WHY)
    assert is_erased(landscape, same["A"].row.values_ref) and not is_erased(landscape, same["A"].request.ref)
    erase(landscape, Wanted(row_key="C"), *WHY)
    assert not is_on_record(landscape, "canary-A1") and is_on_record(landscape, "canary-B1")


def test_old_runs_go_and_later_ones_stay(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")})
    with landscape.read() as connection:
        [ended] = connection.scalars(sa.select(schema.run_ends.c.ended_at))
    assert plan(landscape, Wanted(ended_before=ended)).payloads == 0
    assert erase(landscape, Wanted(ended_before=ended + timedelta(microseconds=1)), *WHY).payloads == 5


def test_what_two_runs_share_goes_with_the_second_of_them(landscape: Landscape) -> None:
    for run_id in ("r1", "r2"):
        tell(landscape, run_id, {"A": a_text("A1"), "B": a_text(run_id)})
    erase(landscape, Wanted(run="r1"), *WHY)
    assert is_on_record(landscape, "canary-A1")
    erase(landscape, Wanted(run="r2"), *WHY)
    assert not is_on_record(landscape, "canary-A1")


def test_rejected_records_that_hold_the_key_go_when_that_is_asked_for(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")}, rejected={7: b"A;canary-X", 8: b"AB;canary-Y"})
    assert plan(landscape, ROW_A).mentioning == 1
    erase(landscape, ROW_A, *WHY)
    assert is_on_record(landscape, "canary-X")
    erase(landscape, Wanted(row_key="A", with_rejections=True), *WHY)
    assert not is_on_record(landscape, "canary-X") and is_on_record(landscape, "canary-Y")


def test_a_plan_touches_nothing_and_names_the_files_that_hold_the_same(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")})
    with landscape.read() as connection:
        before = unpacked(connection)
    size = sum(len(data) for ref, data in before.items() if ref.startswith("hmac"))
    found = plan(landscape, ROW_A)
    assert (found.rows, found.runs, found.payloads, found.size) == (1, 1, 5, size)
    assert [carrier.uri for carrier in found.carriers] == ["file:///data/r1.parquet"]
    with landscape.read() as connection:
        assert unpacked(connection) == before


# What may not go ------------------------------------------------------------------------------------------------------


def test_a_run_that_has_not_ended_is_refused_and_what_it_could_refer_to_stays(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")})
    tell(landscape, "r2", {"A": a_text("A2")}, ends=False)
    with pytest.raises(LandscapeError, match="run r2 has not ended"):
        erase(landscape, Wanted(run="r2"), *WHY)
    assert plan(landscape, ROW_A).unfinished == ("r2",)
    assert erase(landscape, Wanted(run="r1"), *WHY).payloads == 5
    assert is_on_record(landscape, "canary-A1") and not is_on_record(landscape, "canary-B1")
    assert erase(landscape, ROW_A, *WHY).payloads == 0
    assert is_on_record(landscape, "canary-A1") and is_on_record(landscape, "canary-A2")


def test_two_runs_that_share_everything_go_one_after_the_other(landscape: Landscape) -> None:
    first = tell(landscape, "r1", {"A": a_text("A1")})
    tell(landscape, "r2", {"A": a_text("A1")}, taken_from=first)
    assert erase(landscape, Wanted(run="r1"), *WHY).payloads == 0
    assert erase(landscape, Wanted(run="r2"), *WHY).payloads == 5
    with pytest.raises(NotOnRecordError, match="nothing to erase"):
        erase(landscape, Wanted(run="r1"), *WHY)


@pytest.mark.parametrize("wanted", [ROW_A, Wanted(run="r1"), LATER])
@pytest.mark.parametrize(
    "held", [Subject(ScopeKind.ROW, "A"), Subject(ScopeKind.ROW, "A", ASSESSMENT), Subject(ScopeKind.RUN, "r1")]
)
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_legal_hold_beats_erasure_until_it_is_released(landscape: Landscape, wanted: Wanted, held: Subject) -> None:
    tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")}, rejected={7: b"A;canary-X"})
    holding.hold(landscape, held, "case 7", "B. Counsel")
    assert [holding.subject_of(each) for each in plan(landscape, wanted).holds] == [held]
    with suppress(NotOnRecordError):
        erase(landscape, wanted, *WHY)
    assert is_on_record(landscape, "canary-A1") and is_on_record(landscape, "canary-X")
    holding.release(landscape, held, "closed", "B. Counsel")
    erase(landscape, wanted, *WHY)
    assert not is_on_record(landscape, "canary-A1")


def test_a_hold_on_another_assessments_row_holds_nothing(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")})
    with pytest.raises(NotOnRecordError, match="no run has a row A of another on record"):
        holding.hold(landscape, Subject(ScopeKind.ROW, "A", "another"), *WHY)
    with pytest.raises(NotOnRecordError, match="no legal hold is on row A"):
        holding.release(landscape, Subject(ScopeKind.ROW, "A"), *WHY)
    with pytest.raises(NotOnRecordError, match="of another"):
        erase(landscape, Wanted(row_key="A", assessment="another"), *WHY)


@pytest.mark.parametrize(("reason", "by"), [("", "x"), ("x", " "), ("a\nb", "x"), ("x" * 501, "x")])
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_reason_and_a_name_are_one_line_each(landscape: Landscape, reason: str, by: str) -> None:
    with pytest.raises(SettingsError, match="one line of 1 to 500"):
        erase(landscape, ROW_A, reason, by)


# What comes after -----------------------------------------------------------------------------------------------------


def test_the_same_text_that_comes_again_gets_another_name_and_is_whole(landscape: Landscape) -> None:
    first = tell(landscape, "r1", {"A": a_text("A1")})["A"]
    tell(landscape, "r2", {"A": a_text("A2")})
    erase(landscape, Wanted(run="r1"), *WHY)
    again = tell(landscape, "r3", {"A": a_text("A1")})["A"]
    assert (first.scope.ordinal, again.scope.ordinal) == (1, 2)
    assert not any(is_erased(landscape, ref) for ref in again.refs)
    with landscape.read() as connection:
        assert scopes.erased_before(connection, again.scope) is not None
        assert scopes.erased_before(connection, first.scope) is None


def test_a_row_that_is_admitted_into_a_scope_just_erased_is_refused(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")})
    begin(landscape, "r2")
    scope = scopes.of_rows(landscape, ASSESSMENT, ["A"])["A"]
    erase(landscape, ROW_A, *WHY)
    admission = rows.admission("r2", f"{ASSESSMENT}.admit_rows", row_index=0, row_key="A", partition_key=None,
                               line=None, values={}, raw=None, scope=scope)  # fmt: skip
    with pytest.raises(AuditError, match="has been erased meanwhile: launch again"):
        landscape.write(*admission)


def test_explain_says_when_why_and_by_whom_instead_of_failing(landscape: Landscape) -> None:
    tell(landscape, "r1", {"A": a_text("A1")}, rejected={7: b"A;canary-X"})
    done = erase(landscape, Wanted(run="r1"), *WHY)
    found = explaining.explain(landscape, "r1", "A")
    assert found.row is not None and found.row.raw is not None
    [question] = found.questions
    [call] = question.calls
    assert call.body is not None and question.answer is not None
    shown = (found.row.erased, found.row.raw.erased, call.request.erased, call.body.erased, question.answer.erased)
    assert shown == (done.erasure,) * 5
    document = found.document()
    assert document["row"]["raw"]["erased"]["reason"] == "request 42"
    [rejected] = explaining.explain(landscape, "r1", "#7").rejections
    assert rejected.raw.erased == done.erasure


# What the guards let pass ---------------------------------------------------------------------------------------------

EMPTIED = "UPDATE payloads SET body = {nothing} WHERE ref = {ref}"
REFUSED = [
    EMPTIED.replace("WHERE ref = {ref}", ""),
    "UPDATE payloads SET body = {one} WHERE ref = {ref}",
    "UPDATE payloads SET body = {nothing}, size = 0 WHERE ref = {ref}",
    "UPDATE payloads SET body = {nothing}, encoding = 'identity' WHERE ref = {ref} AND encoding <> 'identity'",
    "UPDATE payloads SET body = {nothing}, scope_id = NULL WHERE ref = {ref}",
    "UPDATE payloads SET body = {nothing}, dictionary_ref = NULL WHERE ref = {request}",
    "UPDATE payloads SET dictionary_ref = ref, body = {one} WHERE ref = {leaning}",
    "UPDATE payloads SET body = {nothing} WHERE ref = {leaning}",
    "DELETE FROM payloads WHERE ref = {ref}",
    "UPDATE scopes SET naming_key = {nothing} WHERE scope_id = {other}",
    "UPDATE scopes SET naming_key = naming_key WHERE scope_id = {other}",
    "UPDATE scopes SET naming_key = {nothing}, subject = 'Z' WHERE scope_id = {scope}",
    "DELETE FROM scopes WHERE scope_id = {scope}",
    "DELETE FROM erasures",
    "DELETE FROM erased_payloads",
    "UPDATE erased_payloads SET erasure_id = erasure_id",
    "UPDATE legal_holds SET reason = 'none'",
]
OF_SQLITE = [
    "UPDATE OR REPLACE payloads SET rowid = (SELECT min(rowid) FROM payloads), body = {nothing} WHERE ref = {ref}",
    "UPDATE payloads SET rowid = rowid + 1000, body = {nothing} WHERE ref = {ref}",
]


def test_nothing_else_passes_the_guards_once_something_is_erased(landscape: Landscape, dialect: str) -> None:
    first = tell(landscape, "r1", {key: a_text(key) for key in "ABC"})
    tell(landscape, "r2", {"A": a_text("A2")}, taken_from={"A": first["A"]})
    holding.hold(landscape, Subject(ScopeKind.ROW, "B"), *WHY)
    erase(landscape, Wanted(run="r1"), *WHY)
    erase(landscape, ROW_A, *WHY)
    written = {
        "nothing": "x''", "one": "x'00'", "scope": first["A"].scope.scope_id, "other": first["B"].scope.scope_id,
        "ref": f"x'{stored(first['A'].row.values_ref)}'", "request": f"x'{stored(first['C'].request.ref)}'",
        "leaning": f"x'{stored(first['B'].request.ref)}'",
    }  # fmt: skip
    if dialect == "postgresql":
        as_bytea = {name: f"'\\{value.replace(chr(39), '')}'::bytea" for name, value in written.items()
                    if isinstance(value, str)}  # fmt: skip
        written |= as_bytea
    statements = [each.format(**written) for each in (*REFUSED, *(OF_SQLITE if dialect == "sqlite" else []))]
    passed = [statement for statement in statements if passes(landscape, statement)]
    assert passed == []
    assert passes(landscape, EMPTIED.format(**written)), "the same once more changes nothing"


def stored(ref: str) -> str:
    """A name in hex, as it is stored."""
    return schema.payloads.c.ref.type.stored(ref).hex()  # type: ignore[attr-defined, no-any-return]


class UndoneError(Exception):
    """Leaves a transaction without a trace."""


def passes(landscape: Landscape, statement: str) -> bool:
    """Whether a statement does something that no guard refuses."""

    changed = 0

    def attempt(connection: sa.Connection) -> None:
        nonlocal changed
        changed = connection.exec_driver_sql(statement).rowcount
        raise UndoneError

    try:
        landscape.decide(attempt)
    except UndoneError:
        return changed > 0
    except AuditError as error:
        assert "only grows" in str(error), statement
    return False


def test_without_its_record_no_body_can_be_emptied(landscape: Landscape) -> None:
    told = tell(landscape, "r1", {"A": a_text("A1")})["A"]
    emptied = schema.payloads.update().where(schema.payloads.c.ref == told.row.values_ref).values(body=b"")
    with pytest.raises(AuditError, match="payloads only grows"):
        landscape.decide(lambda connection: connection.execute(emptied))
    anew = schema.payloads.update().where(schema.payloads.c.ref == told.request.ref)
    with pytest.raises(AuditError, match="payloads only grows"):
        landscape.decide(lambda connection: connection.execute(anew.values(body=b"x", dictionary_ref=None)))
    assert Payload.of(b"x").ref != told.request.ref
    with landscape.read() as connection:
        assert b"canary-A1" in payloads.read(connection, told.row.values_ref)


def test_reading_what_was_erased_is_an_error_that_tells_of_the_erasure(landscape: Landscape) -> None:
    told = tell(landscape, "r1", {"A": a_text("A1")})["A"]
    erase(landscape, ROW_A, *WHY)
    with (
        landscape.read() as connection,
        pytest.raises(ErasedError, match=r"was erased on .* under request 42 by A\. C"),
    ):
        payloads.read(connection, told.row.values_ref)
