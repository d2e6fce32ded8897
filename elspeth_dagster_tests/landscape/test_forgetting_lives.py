"""Runs, seals, holds, erasures and forgeries in any sequence, beside a model of plain sets.

What may go goes, and nothing else does; what is sealed verifies ever after, whatever was erased of it; what somebody
changes in it is found, and what he changes before the seal is not. The model knows which run and row each payload is
held by, which runs are sealed, and what the documentation promises of an erasure. What can be done to a landscape is a
rule; what is to be true after every step is an invariant.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from elspeth_dagster.core.errors import LandscapeError, NotOnRecordError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import auditing, erasing, holding, payloads, runs, scopes, sealing
from elspeth_dagster.landscape.erasing import Wanted
from elspeth_dagster.landscape.holding import Subject
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Erasure
from elspeth_dagster.landscape.words import RunStatus, ScopeKind
from elspeth_dagster_tests.landscape.sealed import OURS
from elspeth_dagster_tests.landscape.told import FILLER, Told, tell

FORGERIES = {
    "UPDATE answers SET detail = 'forged' WHERE run_id = :run": "edited",
    "UPDATE replies SET cost_nanousd = 9 WHERE call_id IN (SELECT call_id FROM calls WHERE run_id = :run)": "edited",
    "UPDATE rows SET row_key = row_key || ' forged' WHERE run_id = :run": "edited",
    "DELETE FROM artifacts WHERE run_id = :run": "deleted",
    "INSERT INTO edges (run_id, from_node, to_node, label) "
    "SELECT run_id, min(node_id), max(node_id), 'forged' FROM nodes WHERE run_id = :run GROUP BY run_id": "inserted",
}
"""What somebody does to an ended run, and what a seal shows of it."""
TOUCHED = ("answers", "replies", "rows", "artifacts", "edges")
EXAMPLES = {"sqlite": (10, 20), "postgresql": (4, 15)}
KEYS = st.sampled_from(["A", "B"])
TEXTS = st.dictionaries(KEYS, st.sampled_from([f"one {FILLER}", f"two {FILLER}", "short"]), min_size=1)
Held = tuple[str, str]


@dataclass
class Model:
    """Who holds which payload: pairs of run and row; the scope of each; which are whole; who may not be touched."""

    told: dict[str, dict[str, Told]] = field(default_factory=dict)
    holders: dict[str, set[Held]] = field(default_factory=dict)
    scope_of: dict[str, int] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    holds: list[Subject] = field(default_factory=list)
    let_go: set[Held] = field(default_factory=set)
    sealed: set[str] = field(default_factory=set)

    def erased_of(self, run_id: str) -> int:
        """How many payloads that the run's own records name are erased."""
        named = set()
        for each in self.told[run_id].values():
            own = {each.row.values_ref, str(each.row.raw_ref), each.judged}
            named |= own | ({each.request.ref, each.came} if each.call.run_id == run_id else set())
        return len(named & self.erased)

    def add(self, run_id: str, told: dict[str, Told]) -> None:
        self.told[run_id] = told
        for key, each in told.items():
            for ref in each.refs:
                self.holders.setdefault(ref, set()).add((run_id, key))
                self.scope_of[ref] = each.scope.scope_id
            # What an answer was taken from belongs to the scope of the run that asked.
            self.scope_of |= {ref: int(ref.split(":")[1]) for ref in (each.request.ref, each.came)}

    def may_go(self, holder: Held, wanted: Wanted) -> bool:
        run_id, key = holder
        is_wanted = run_id == wanted.run or key == wanted.row_key
        is_held = any(each.name in (run_id, key) for each in self.holds)
        return is_wanted and not is_held and run_id in self.ended

    def going(self, wanted: Wanted) -> set[str]:
        """What an erasure is to take."""
        in_use = {each.scope.scope_id for run_id, told in self.told.items() if run_id not in self.ended
                  for each in told.values()}  # fmt: skip
        return {
            ref
            for ref, holders in self.holders.items()
            if ref not in self.erased
            and self.scope_of[ref] not in in_use
            and any(self.may_go(each, wanted) for each in holders)
            and all(self.may_go(each, wanted) or self.has_gone(each) for each in holders)
        }

    def led_to(self, wanted: Wanted) -> set[str]:
        """What records that go refer to, whether or not others do."""
        held_by_these = {ref for ref, holders in self.holders.items() if any(self.may_go(h, wanted) for h in holders)}
        return held_by_these - self.erased

    def has_gone(self, holder: Held) -> bool:
        """Whether an earlier erasure let a record go, and nothing holds it since."""
        return holder in self.let_go and not any(each.name in holder for each in self.holds)


class Undone(Exception):  # noqa: N818  (no error)
    """What was done in a transaction is undone."""


class Forgetting(RuleBasedStateMachine):
    """What people and runs do to a landscape."""

    landscape: Landscape
    runs: Bundle[str] = Bundle("runs")
    open_runs: Bundle[str] = Bundle("open_runs")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.prefix = new_id()

    def here(self, texts: dict[str, str]) -> dict[str, str]:
        """Rows of this example: the landscape is the same for all."""
        return {f"{self.prefix}{key}": text for key, text in texts.items()}

    @rule(target=open_runs, texts=TEXTS)
    def start_and_ask(self, texts: dict[str, str]) -> str:
        run_id = new_id()
        self.model.add(run_id, tell(self.landscape, run_id, self.here(texts), ends=False))
        return run_id

    @rule(target=open_runs, earlier=runs, text=st.sampled_from([f"one {FILLER}", "short"]))
    def resume(self, earlier: str, text: str) -> str:
        """A run whose answers are taken from an earlier one's replies."""
        run_id, taken_from = new_id(), self.model.told[earlier]
        texts = dict.fromkeys(taken_from, text)
        self.model.add(run_id, tell(self.landscape, run_id, texts, taken_from=taken_from, ends=False))
        return run_id

    @rule(target=runs, run_id=consumes(open_runs), status=st.sampled_from(RunStatus))
    def end_or_fail(self, run_id: str, status: RunStatus) -> str:
        runs.end(self.landscape, run_id, status, "by the test")
        self.model.ended.add(run_id)
        return run_id

    @rule(run_id=runs)
    def seal(self, run_id: str) -> None:
        made = sealing.seal_ended(self.landscape, first=run_id, at_most=0)
        assert (made.run_ids, made.warnings) == ([] if run_id in self.model.sealed else [run_id], [])
        self.model.sealed.add(run_id)

    @rule(run_id=runs)
    def verify(self, run_id: str) -> None:
        report = auditing.verify(self.landscape, [run_id])
        assert [finding.kind for finding in report.findings] == ([] if run_id in self.model.sealed else ["seal"])
        assert report.erased == self.model.erased_of(run_id)

    @rule(run_id=runs, forgery=st.sampled_from(sorted(FORGERIES)))
    def forge(self, run_id: str, forgery: str) -> None:
        """Change records with the guards off, look, and put it back."""
        with suppress(Undone), self.landscape._database.write() as connection:
            drop_guards(connection)
            assert connection.execute(sa.text(forgery), {"run": run_id}).rowcount
            report = auditing.audit(connection, [run_id], trusted=[OURS.verifier])
            raise Undone
        found = {finding.kind for finding in report.findings if finding.run_id == run_id}
        assert found == ({FORGERIES[forgery]} if run_id in self.model.sealed else {"seal"})

    @rule(run_id=runs)
    def hold_run(self, run_id: str) -> None:
        self.hold(Subject(ScopeKind.RUN, run_id))

    @rule(run_id=runs, data=st.data())
    def hold_row(self, run_id: str, data: st.DataObject) -> None:
        self.hold(Subject(ScopeKind.ROW, data.draw(st.sampled_from(sorted(self.model.told[run_id])))))

    def hold(self, subject: Subject) -> None:
        holding.hold(self.landscape, subject, "a case", "a counsel")
        self.model.holds.append(subject)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.model.holds:
            subject = data.draw(st.sampled_from(self.model.holds))
            ended = holding.release(self.landscape, subject, "closed", "a counsel")
            assert len(ended) == self.model.holds.count(subject)
            self.model.holds = [each for each in self.model.holds if each != subject]

    @rule(run_id=runs)
    def erase_run(self, run_id: str) -> None:
        self.erase(Wanted(run=run_id))

    @rule(run_id=runs, data=st.data())
    def erase_row(self, run_id: str, data: st.DataObject) -> None:
        self.erase(Wanted(row_key=data.draw(st.sampled_from(sorted(self.model.told[run_id])))))

    def erase(self, wanted: Wanted) -> None:
        going = self.model.going(wanted)
        assert erasing.plan(self.landscape, wanted).payloads == len(going)
        led_to = self.model.led_to(wanted)
        if led_to:
            assert erasing.erase(self.landscape, wanted, "a request", "a clerk").payloads == len(going)
        else:
            with pytest.raises(NotOnRecordError, match="nothing to erase"):
                erasing.erase(self.landscape, wanted, "a request", "a clerk")
        self.model.erased |= going
        if led_to:
            holders = set().union(*self.model.holders.values())
            self.model.let_go |= {each for each in holders if self.model.may_go(each, wanted)}

    @rule(run_id=open_runs)
    def erase_a_run_that_goes_on(self, run_id: str) -> None:
        with pytest.raises(LandscapeError, match="has not ended"):
            erasing.erase(self.landscape, Wanted(run=run_id), "a request", "a clerk")

    @invariant()
    def what_stands_can_be_read(self) -> None:
        """Each payload is whole and has its name, or is erased, as the model says."""
        with self.landscape.read() as connection:
            found = payloads.read_or_erased(connection, self.model.holders)
        assert {ref for ref, data in found.items() if isinstance(data, Erasure)} == self.model.erased

    @invariant()
    def a_key_is_gone_when_nothing_is_left_that_it_names(self) -> None:
        by_scope: dict[int, set[str]] = {}
        for ref, scope_id in self.model.scope_of.items():
            by_scope.setdefault(scope_id, set()).add(ref)
        with self.landscape.read() as connection:
            for scope_id, refs in by_scope.items():
                key = sa.text("SELECT length(naming_key) FROM scopes WHERE scope_id = :scope")
                length = connection.scalar(key, {"scope": scope_id})
                assert length == (0 if refs <= self.model.erased else scopes.KEY_BYTES)


def drop_guards(connection: sa.Connection) -> None:
    """Take away what refuses changes, for the time of a transaction."""
    if connection.dialect.name == "postgresql":
        for table in TOUCHED:
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        return
    of_them = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN :tables")
    for name in connection.scalars(of_them.bindparams(sa.bindparam("tables", TOUCHED, expanding=True))).all():
        connection.exec_driver_sql(f"DROP TRIGGER {name}")


def live(landscape: Landscape, how: settings) -> None:
    """Run the machine on a landscape, whose files are left as they are: another test has that."""
    landscape.signer = OURS
    machine: Any = type("ForgettingHere", (Forgetting,), {"landscape": landscape})
    run_state_machine_as_test(machine, settings=settings(how, deadline=None, suppress_health_check=list(HealthCheck)))


@pytest.fixture(autouse=True)
def without_scrubbing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Landscape, "scrub", lambda _: None)


def test_whatever_happens_what_may_go_goes_and_nothing_else(landscape: Landscape, dialect: str) -> None:
    examples, steps = EXAMPLES[dialect]
    live(landscape, settings(max_examples=examples, stateful_step_count=steps))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_an_erasure_that_took_too_much_would_be_noticed(landscape: Landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "_IN_USE", sa.select(sa.literal(0)))
    few = {"max_examples": 40, "stateful_step_count": 10, "phases": [Phase.generate], "derandomize": True}
    with pytest.raises(AssertionError):
        live(landscape, settings(report_multiple_bugs=False, **few))
