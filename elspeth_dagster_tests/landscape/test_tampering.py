"""Whoever can write the database does his worst, with every guard off: what was done is found, and named.

Each attack is made within a transaction on a copy of two sealed runs, looked at there, and undone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.canonical import PREFIX, canonical_json, sha256
from elspeth_dagster.core.checkpoints import LogCheckpoint, RunSeal, written_hash
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.merkle import Frontier, leaf_hash
from elspeth_dagster.core.notes import Note, Signer, new_signer_key, unsigned
from elspeth_dagster.landscape import auditing, installation_log
from elspeth_dagster.landscape.checking_log import Outside
from elspeth_dagster.landscape.columns import Hash, Number, Ref
from elspeth_dagster.landscape.findings import Finding, Report
from elspeth_dagster.landscape.record_bytes import SEALED, leaves
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.landscape.sealed import FIRST, OURS, SECOND, write_sealed_runs

THEIRS = Signer.read(new_signer_key("ours"))
PLACES = {"first": 0, "middle": 1, "last": -1}
TABLES = {table.name: table for table in SEALED}
SELECTED = {
    "node_state_ends": "SELECT t.* FROM node_state_ends t JOIN node_states s ON s.state_id = t.state_id",
    "replies": "SELECT t.*, s.run_id FROM replies t JOIN calls s ON s.call_id = t.call_id",
}
Row = Mapping[str, Any]
Robbed = tuple[sa.Engine, Path]


class Victim:
    """A connection to two sealed runs with every guard off, and a checkpoint that was held outside."""

    def __init__(self, connection: sa.Connection, outside: Sequence[Outside]) -> None:
        self.connection, self.outside = connection, outside

    def run(self, statement: str, **values: Any) -> int:
        """Run a statement; returns how many rows it met."""
        return self.connection.execute(sa.text(statement), values).rowcount

    def report(self, run_ids: Sequence[str] | None = None, *, anchored: bool = False) -> Report:
        """What a verification finds, by somebody who knows the key."""
        return auditing.audit(self.connection, run_ids, self.outside if anchored else (), [OURS.verifier])

    def rows(self, table: str) -> list[Row]:
        """The records of the first run, in the order of its tree."""
        query = SELECTED.get(table, f"SELECT t.*, t.run_id AS whose FROM {table} t")
        key = [column.name for column in TABLES[table].primary_key]
        whose = "t" if table not in SELECTED else "s"
        found = self.connection.execute(sa.text(f"{query} WHERE {whose}.run_id = :run"), {"run": FIRST}).mappings()
        return sorted(found, key=lambda row: [row[name] if isinstance(row[name], int) else str(row[name]).encode()
                                              for name in key])  # fmt: skip

    def change(self, table: str, row: Row, **values: Any) -> None:
        """Change a record."""
        key = {f"old_{column.name}": row[column.name] for column in metadata.tables[table].primary_key}
        changed = ", ".join(f"{name} = :{name}" for name in values)
        assert self.run(f"UPDATE {table} SET {changed} WHERE {_is(key)}", **values, **key) == 1

    def delete(self, table: str, row: Row) -> None:
        """Delete a record."""
        key = {f"old_{column.name}": row[column.name] for column in metadata.tables[table].primary_key}
        assert self.run(f"DELETE FROM {table} WHERE {_is(key)}", **key) == 1

    def insert(self, table: str, row: Row) -> None:
        """Insert a record."""
        names = [column.name for column in metadata.tables[table].columns]
        places = ", ".join(f":{name}" for name in names)
        self.run(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", **{name: row[name] for name in names})


def _is(key: Mapping[str, Any]) -> str:
    return " AND ".join(f"{name.removeprefix('old_')} = :{name}" for name in key)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def robbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[sa.Engine, Path]]:
    """Two sealed runs, opened as its owner can, who has taken every guard away; and the anchor's file."""
    folder = tmp_path_factory.mktemp("sealed")
    url = f"sqlite:///{folder}/landscape.sqlite"
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), folder / "landscape.sqlite")
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create(request.getfixturevalue("postgres_template")))
    write_sealed_runs(url, folder / "anchor.txt")
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    if request.param == "sqlite":
        sa.event.listen(
            engine, "connect", lambda connection, _: connection.execute("PRAGMA ignore_check_constraints=1")
        )
    with engine.begin() as connection:
        take_the_guards_away(connection)
    yield engine, folder / "anchor.txt"
    engine.dispose()


def take_the_guards_away(connection: sa.Connection) -> None:
    """Drop triggers, and on PostgreSQL every constraint but keys; SQLite is connected without them."""
    if connection.dialect.name == "sqlite":
        triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
        for trigger in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        return
    found = connection.exec_driver_sql(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype IN ('c', 'f') "
        "AND connamespace = 'public'::regnamespace ORDER BY contype DESC"
    )
    for table, constraint in found.all():
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
    for table in metadata.sorted_tables:
        connection.exec_driver_sql(f"ALTER TABLE {table.name} DISABLE TRIGGER ALL")


@pytest.fixture
def victim(robbed: Robbed) -> Iterator[Victim]:
    """The runs; whatever is done to them is undone after the test."""
    engine, anchor = robbed
    with engine.connect() as connection, connection.begin() as transaction:
        yield Victim(connection, list(auditing.held_outside([str(anchor)])))
        transaction.rollback()


@contextmanager
def undone(victim: Victim) -> Iterator[None]:
    """Undo what is done within."""
    savepoint = victim.connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def another(column: sa.Column[Any], value: Any) -> Any:
    """Another value for a column, of the same type."""
    if isinstance(column.type, Hash | Ref) or isinstance(value, bytes):
        return b"\7" * 32 if value is None else bytes([*value[:-1], value[-1] ^ 1])
    kind: Any = column.type
    is_number = isinstance(kind, Number) or isinstance(getattr(kind, "impl", None), Number)
    if is_number:
        return 7 if value is None else value + 1_000_000
    return f"forged {new_id()}" if value is None else f"{value}~"


def some_of(victim: Victim, table: str) -> list[Row]:
    """The first, a middle and the last record of the first run."""
    rows = victim.rows(table)
    return [rows[place] for place in PLACES.values()] if len(rows) > 1 else rows


def names(finding: Finding, table: str, row: Row) -> bool:
    """Whether a finding is about this record."""
    key = {column.name: row[column.name] for column in TABLES[table].primary_key}
    return finding.table == table and all(finding.key.get(name) == value for name, value in key.items())


def test_what_nobody_touched_is_sound(victim: Victim) -> None:
    report = victim.report(anchored=True)
    assert (report.findings, report.remarks, report.runs) == ([], [], [FIRST, SECOND])
    assert report.records == 134
    assert report.payloads > 40


def moves(column: sa.Column[Any]) -> bool:
    """Whether a record is another one, or another run's, when this column has another value."""
    return column.primary_key or column.name == "run_id" or str(column) in ("calls.state_id", "answers.call_id")


STAYING = {name: [column for column in table.columns if not moves(column)] for name, table in TABLES.items()}


@pytest.mark.parametrize("number", range(max(map(len, STAYING.values()))))
def test_each_edited_column_of_each_record_is_found_and_the_record_named(victim: Victim, number: int) -> None:
    """One column of each table at once, in its first, a middle and its last record."""
    edited = []
    for table, columns in STAYING.items():
        for column in columns[number : number + 1]:
            for row in some_of(victim, table):
                victim.change(table, row, **{column.name: another(column, row[column.name])})
                edited.append((column, row))
    found = [each for each in victim.report().findings if each.kind == "edited"]
    unnamed = [column for column, row in edited if not any(names(each, column.table.name, row) for each in found)]
    assert unnamed == []


@pytest.mark.parametrize("table", TABLES)
def test_a_record_that_was_made_another_one_is_found(victim: Victim, table: str) -> None:
    for column in [column for column in TABLES[table].columns if moves(column)]:
        with undone(victim):
            row = some_of(victim, table)[-1]
            victim.change(table, row, **{column.name: another(column, row[column.name])})
            assert any(each.table == table or each.kind == "run" for each in victim.report().findings), column


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("place", PLACES)
def test_a_deleted_record_is_found_and_its_place_named(victim: Victim, table: str, place: str) -> None:
    row = victim.rows(table)[PLACES[place] if len(victim.rows(table)) > 1 else 0]
    victim.delete(table, row)
    found = victim.report().findings
    if table == "runs":
        assert any(each.kind == "run" and each.run_id == FIRST for each in found)
        return
    assert any(each.kind == "deleted" and each.table == table and each.run_id == FIRST for each in found)


@pytest.mark.parametrize("table", [name for name in TABLES if name not in ("runs", "run_ends")])
@pytest.mark.parametrize("place", PLACES)
def test_an_inserted_record_is_found_and_named(victim: Victim, table: str, place: str) -> None:
    row = dict(victim.rows(table)[PLACES[place]])
    columns = metadata.tables[table].columns
    unique = [key for key in metadata.tables[table].constraints if isinstance(key, sa.UniqueConstraint)]
    fresh = {column.name for key in [metadata.tables[table].primary_key, *unique] for column in key.columns}
    for name in fresh - {"run_id"}:
        if name != "state_id" or table not in ("calls", "answers"):
            row[name] = another(columns[name], row[name])
    if table in ("replies", "node_state_ends"):  # which belong to a run by their parent alone
        parent, key = ("calls", "call_id") if table == "replies" else ("node_states", "state_id")
        victim.insert(parent, {**victim.rows(parent)[PLACES[place]], key: row[key], "call_index": 99, "attempt": 9,
                               "query_attempt": 9})  # fmt: skip
    victim.insert(table, row)
    assert any(each.kind == "inserted" and names(each, table, row) for each in victim.report().findings)


@pytest.mark.parametrize("table", ["calls", "answers", "replies", "node_state_ends"])
def test_an_inserted_record_that_hangs_on_nothing_is_found_and_named(victim: Victim, table: str) -> None:
    key = "call_id" if table == "replies" else "state_id"
    row = {**victim.rows(table)[1], key: "nobody's", **({"call_id": "made up"} if table == "calls" else {})}
    victim.insert(table, row)
    assert any(each.kind == "reference" and names(each, table, row) for each in victim.report().findings)


@pytest.mark.parametrize("table", [name for name in TABLES if name not in ("runs", "run_ends")])
def test_a_tail_that_was_cut_off_is_found(victim: Victim, table: str) -> None:
    for row in victim.rows(table)[-2:]:
        victim.delete(table, row)
    deleted = [each for each in victim.report().findings if each.kind == "deleted" and each.table == table]
    assert len(deleted) == 2


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_lost_all_of_a_run_is_found(victim: Victim, table: str) -> None:
    for row in victim.rows(table):
        victim.delete(table, row)
    found = victim.report().findings
    assert any(each.kind in ("deleted", "run") and table in (each.table, "runs") for each in found)


SWAPPED = [name for name in TABLES if name not in ("runs", "run_ends", "nodes", "edges", "node_state_ends")]
"""Tables with several records of a run that are not alike but for their keys."""


@pytest.mark.parametrize("table", SWAPPED)
def test_records_that_changed_places_are_found(victim: Victim, table: str) -> None:
    one, other = swap(victim, table)
    edited = [each for each in victim.report().findings if each.kind == "edited" and each.table == table]
    assert any(names(each, table, one) for each in edited) and any(names(each, table, other) for each in edited)


def swap(victim: Victim, table: str) -> tuple[Row, Row]:
    """Let the first and the last record change places: all but their keys."""
    one, other = victim.rows(table)[0], victim.rows(table)[-1]
    others = [column for column in TABLES[table].columns if column not in set(TABLES[table].primary_key)]
    differing = [column for column in others if one[column.name] != other[column.name]]
    unique = [column for column in differing if _is_unique(column)]
    parked = {column.name: another(column, another(column, one[column.name])) for column in unique}
    if parked:
        victim.change(table, one, **parked)
    victim.change(table, other, **{column.name: one[column.name] for column in differing})
    victim.change(table, one, **{column.name: other[column.name] for column in differing})
    return one, other


def _is_unique(column: sa.Column[Any]) -> bool:
    return any(column in set(key.columns) for key in column.table.constraints if isinstance(key, sa.UniqueConstraint))


NUMBERED = {"row_rejections": "row_index", "rows": "row_index", "batches": "ordinal"}


@pytest.mark.parametrize("table", NUMBERED)
def test_records_that_were_deleted_and_numbered_anew_are_found(victim: Victim, table: str) -> None:
    number_anew(victim, table)
    found = [each for each in victim.report().findings if each.table == table]
    assert {each.kind for each in found} >= {"edited", "deleted"}


def number_anew(victim: Victim, table: str) -> None:
    """Delete the first record, and let those after it take the numbers before theirs."""
    first, second, third = victim.rows(table)
    number = NUMBERED[table]
    victim.delete(table, first)
    victim.change(table, second, **{number: first[number]})
    victim.change(table, third, **{number: second[number]})


def edit(victim: Victim, table: str, row: Row) -> None:
    """Edit the last column of a record that doesn't make it another one."""
    column = STAYING[table][-1] if STAYING[table] else TABLES[table].columns[-1]
    victim.change(table, row, **{column.name: another(column, row[column.name])})


@pytest.mark.parametrize("table", TABLES)
def test_whatever_was_done_is_found_when_every_hash_was_made_anew(victim: Victim, table: str) -> None:
    """Edited, deleted, cut off, dropped, changed places, numbered anew: what remains was not signed."""
    rows, some = victim.rows(table), some_of(victim, table)
    attacks: dict[str, Callable[[], object]] = {
        **{f"edit {place}": partial(edit, victim, table, row) for place, row in enumerate(some)},
        **{f"delete {place}": partial(victim.delete, table, row) for place, row in enumerate(some)},
        "cut": lambda: [victim.delete(table, row) for row in rows[-2:]],
        "drop": lambda: [victim.delete(table, row) for row in rows],
        **({"swap": partial(swap, victim, table)} if table in SWAPPED else {}),
        **({"number": partial(number_anew, victim, table)} if table in NUMBERED else {}),
    }
    for name, attack in attacks.items():
        with undone(victim):
            attack()
            recompute(victim)
            found = victim.report([FIRST]).findings
            assert any(each.run_id == FIRST and each.kind in ("changed", "run", "seal") for each in found), name


def test_what_an_edited_answer_puts_into_doubt_is_named(victim: Victim) -> None:
    row = victim.rows("answers")[2]
    victim.change("answers", row, detail="forged")
    [found] = victim.report().findings
    assert (found.run_id, [str(each) for each in found.touches]) == (FIRST, ["R1 cs1_depth"])


def test_a_payload_that_was_overwritten_is_found_and_whose_it_is(victim: Victim) -> None:
    said = victim.rows("replies")[3]["body_ref"]
    assert victim.run("UPDATE payloads SET body = :body, encoding = 'identity', size = 6 WHERE ref = :ref",
                      body=b"forged", ref=said) == 1  # fmt: skip
    [found] = victim.report().findings
    assert (found.kind, [str(each) for each in found.touches]) == ("payload", ["R1 cs1_style"])


def test_payloads_that_were_swapped_are_found(victim: Victim) -> None:
    refs = [row["values_ref"] for row in victim.rows("answers")[:2]]
    held = [victim.connection.execute(sa.text("SELECT body, size FROM payloads WHERE ref = :r"), {"r": ref}).one()
            for ref in refs]  # fmt: skip
    for ref, (body, size) in zip(refs, reversed(held), strict=True):
        victim.run("UPDATE payloads SET body = :body, size = :size WHERE ref = :ref", body=body, size=size, ref=ref)
    assert [each.kind for each in victim.report().findings] == ["payload", "payload"]


def test_a_payload_that_is_gone_is_found(victim: Victim) -> None:
    victim.run("DELETE FROM payloads WHERE ref = :ref", ref=victim.rows("answers")[0]["values_ref"])
    assert {"payload", "reference"} <= {each.kind for each in victim.report().findings}


def test_a_payload_that_was_replaced_together_with_its_name_is_found(victim: Victim) -> None:
    row, forged = victim.rows("answers")[0], b'{"score": 100}'
    ref = hashlib.sha256(forged).digest()
    victim.run("INSERT INTO payloads (ref, size, encoding, body) VALUES (:ref, :size, 'identity', :body)",
               ref=ref, size=len(forged), body=forged)  # fmt: skip
    victim.change("answers", row, values_ref=ref)
    [found] = victim.report().findings
    assert found.kind == "edited" and names(found, "answers", row)


def forged_answer(victim: Victim) -> Row:
    """Edit an answer; returns it as it was."""
    row = victim.rows("answers")[1]
    victim.change("answers", row, detail="forged")
    return row


def recompute(victim: Victim, run_id: str = FIRST) -> Frontier:
    """Make a run's tiles anew, as anybody can."""
    victim.run("DELETE FROM seal_tiles WHERE run_id = :run", run=run_id)
    frontier = Frontier()
    for table in SEALED:
        hashes = list(leaves(victim.connection, table, run_id))
        for leaf in hashes:
            frontier.add(leaf)
        if hashes:
            victim.run("INSERT INTO seal_tiles VALUES (:run, :name, 0, :hashes)",
                       run=run_id, name=table.name, hashes=b"".join(hashes))  # fmt: skip
    return frontier


def reseal(victim: Victim, signer: Signer | None, run_id: str = FIRST) -> str:
    """Make a run's seal anew over the records as they are; returns its note."""
    frontier = recompute(victim, run_id)
    note = str(victim.connection.scalar(sa.text("SELECT note FROM seals WHERE run_id = :run"), {"run": run_id}))
    told = RunSeal.read(Note.read(note).text)
    text = told._replace(size=frontier.size, root=frontier.root()).text()
    made = unsigned(text) if signer is None else signer.signed(text)
    victim.run("UPDATE seals SET tree_size = :size, root = :root, note = :note WHERE run_id = :run",
               size=frontier.size, root=frontier.root(), note=made, run=run_id)  # fmt: skip
    return made


def rewrite_log(victim: Victim, signer: Signer, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change or drop entries of the log, number what is left anew, and sign every checkpoint again."""
    entries = victim.connection.scalars(sa.text("SELECT entry FROM log_entries ORDER BY log_index"))
    kept = [changed for entry in entries if (changed := change(json.loads(entry)))]
    sizes = list(victim.connection.scalars(sa.text("SELECT log_size FROM checkpoints ORDER BY log_size")))
    victim.run("DELETE FROM anchor_receipts")
    victim.run("DELETE FROM checkpoints")
    victim.run("DELETE FROM log_entries")
    frontier, whose = Frontier(), f"elspeth-dagster/{kept[0]['installation']}"
    for index, entry in enumerate(kept):
        text = canonical_json({**entry, "index": index}).decode()
        frontier.add(leaf_hash(text.encode()))
        victim.run(
            "INSERT INTO log_entries VALUES (:index, :kind, :entry)", index=index, kind=entry["kind"], entry=text
        )
        if index + 1 in sizes or index + 1 == len(kept):
            note = signer.signed(LogCheckpoint(whose, index + 1, frontier.root()).text())
            victim.run("INSERT INTO checkpoints VALUES (:size, :note, 0)", size=index + 1, note=note)


def with_seal(note: str, run_id: str = FIRST) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Log entries that know this seal of a run."""
    told = RunSeal.read(Note.read(note).text)
    known = {
        "note_sha256": hashlib.sha256(note.encode()).hexdigest(),
        "size": told.size,
        "root": written_hash(told.root),
    }
    return lambda entry: {**entry, **known} if (entry["kind"], entry.get("run_id")) == ("run_seal", run_id) else entry


def test_an_edit_with_every_hash_recomputed_is_found_since_nobody_else_can_sign(victim: Victim) -> None:
    forged_answer(victim)
    recompute(victim)
    [found] = victim.report().findings
    assert found.kind == "changed" and found.run_id == FIRST and "tiles" in found.message


@pytest.mark.parametrize("signer", [None, THEIRS], ids=["unsigned", "another key"])
def test_a_seal_made_anew_without_the_key_is_found(victim: Victim, signer: Signer | None) -> None:
    forged_answer(victim)
    note = reseal(victim, signer)
    rewrite_log(victim, signer or THEIRS, with_seal(note))
    found = victim.report().findings
    assert any(each.kind == "signature" and each.run_id == FIRST for each in found)


def test_a_record_rewritten_with_another_key_in_the_log_is_found_by_whoever_knows_ours(victim: Victim) -> None:
    forged_answer(victim)
    notes = {run_id: reseal(victim, THEIRS, run_id) for run_id in (FIRST, SECOND)}
    known = {run_id: with_seal(note, run_id) for run_id, note in notes.items()}

    def theirs(entry: dict[str, Any]) -> dict[str, Any]:
        told = known[FIRST](known[SECOND](entry))
        return {**told, "vkey": THEIRS.verifier.vkey} if entry["kind"] == "key" else told

    rewrite_log(victim, THEIRS, theirs)
    found = victim.report().findings
    assert any(each.kind == "signature" and OURS.verifier.vkey in each.message for each in found)


def test_a_record_resealed_with_the_stolen_key_is_found_by_a_checkpoint_held_outside_and_by_nothing_else(
    victim: Victim,
) -> None:
    forged_answer(victim)
    first = reseal(victim, OURS)
    second = str(victim.connection.scalar(sa.text("SELECT note FROM seals WHERE run_id = :run"), {"run": SECOND}))
    told = RunSeal.read(Note.read(second).text)
    second = OURS.signed(told._replace(parent=(FIRST, RunSeal.read(Note.read(first).text).root)).text())
    victim.run("UPDATE seals SET note = :note WHERE run_id = :run", note=second, run=SECOND)
    rewrite_log(victim, OURS, lambda entry: with_seal(first)(with_seal(second, SECOND)(entry)))
    assert victim.report().findings == []
    assert {each.kind for each in victim.report(anchored=True).findings} == {"anchor"}


def test_a_key_that_took_over_without_the_signature_of_ours_is_found(victim: Victim) -> None:
    size = victim.connection.scalar(sa.text("SELECT max(log_index) + 1 FROM log_entries"))
    whose = str(installation_log.origin(victim.connection))
    said = installation_log.rotation(whose, OURS.verifier.vkey, THEIRS.verifier.vkey)
    told = {"kind": "key_rotation", "index": size, "at": "2026-01-01T00:00:00.000000Z", "old": OURS.verifier.vkey,
            "new": THEIRS.verifier.vkey, "signature": b64encode(THEIRS.sign(said)).decode()}  # fmt: skip
    victim.run("INSERT INTO log_entries VALUES (:index, 'key_rotation', :entry)",
               index=size, entry=canonical_json(told).decode())  # fmt: skip
    found = victim.report().findings
    assert [(each.kind, each.key) for each in found] == [("signature", {"log_index": size})]


def delete_run(victim: Victim, run_id: str) -> None:
    """Delete a run from every table that is about runs."""
    victim.run("DELETE FROM replies WHERE call_id IN (SELECT call_id FROM calls WHERE run_id = :run)", run=run_id)
    states = "(SELECT state_id FROM node_states WHERE run_id = :run)"
    victim.run(f"DELETE FROM node_state_ends WHERE state_id IN {states}", run=run_id)
    for table in metadata.sorted_tables:
        if "run_id" in table.columns:
            victim.run(f"DELETE FROM {table.name} WHERE run_id = :run", run=run_id)


def test_a_run_that_was_deleted_is_found_by_the_log(victim: Victim) -> None:
    delete_run(victim, SECOND)
    [found] = victim.report().findings
    assert (found.kind, found.run_id) == ("run", SECOND)


def test_a_run_deleted_from_the_log_too_is_found_by_its_gap_or_by_the_checkpoint(victim: Victim) -> None:
    delete_run(victim, SECOND)
    assert victim.run("DELETE FROM log_entries WHERE entry LIKE :run", run=f'%"{SECOND}"%') > 0
    assert {each.kind for each in victim.report().findings} == {"log"}


def test_a_run_deleted_with_the_stolen_key_is_found_by_a_checkpoint_held_outside_and_by_nothing_else(
    victim: Victim,
) -> None:
    delete_run(victim, SECOND)
    rewrite_log(victim, OURS, lambda entry: None if entry.get("run_id") == SECOND else entry)
    assert victim.report().findings == []
    [found] = [each for each in victim.report(anchored=True).findings if "rolled back" in each.message][-1:]
    assert found.kind == "anchor"


def test_a_record_rolled_back_to_an_old_backup_is_found_by_a_checkpoint_held_outside(victim: Victim) -> None:
    delete_run(victim, SECOND)
    last = victim.connection.scalar(sa.text("SELECT max(log_index) FROM log_entries WHERE entry LIKE :run"),
                                    {"run": f'%"{FIRST}"%'}) or 0  # fmt: skip
    begun = victim.connection.scalar(sa.text("SELECT min(log_index) FROM log_entries WHERE kind = 'run_start' "
                                             "AND entry LIKE :run"), {"run": f'%"run_id":"{SECOND}"%'})  # fmt: skip
    size = min(last + 1, begun)
    for table, column in (("anchor_receipts", "log_size"), ("checkpoints", "log_size"), ("log_entries", "log_index")):
        victim.run(f"DELETE FROM {table} WHERE {column} {'>=' if table == 'log_entries' else '>'} :size", size=size)
    assert victim.report().findings == []
    assert any("rolled back" in each.message for each in victim.report(anchored=True).findings)


@pytest.mark.parametrize("kind", ["begin", "key", "run_start", "run_seal"])
def test_a_changed_log_entry_is_found(victim: Victim, kind: str) -> None:
    entry = victim.connection.scalar(sa.text("SELECT entry FROM log_entries WHERE kind = :kind"), {"kind": kind})
    changed = canonical_json({**json.loads(str(entry)), "at": "2020-01-01T00:00:00.000000Z"}).decode()
    assert victim.run("UPDATE log_entries SET entry = :changed WHERE entry = :entry", changed=changed, entry=entry) == 1
    assert {each.kind for each in victim.report().findings} == {"log"}


def test_log_entries_that_changed_places_or_are_missing_are_found(victim: Victim) -> None:
    for damage in (
        "DELETE FROM log_entries WHERE log_index = 2",
        "UPDATE log_entries SET log_index = 99 WHERE log_index = 2",
        "UPDATE log_entries SET kind = 'begin' WHERE log_index = 2",
        "INSERT INTO log_entries VALUES (99, 'begin', '{}')",
        "UPDATE log_entries SET entry = entry || ' ' WHERE log_index = 2",
    ):
        with undone(victim):
            assert victim.run(damage) == 1
            assert any(each.table == "log_entries" for each in victim.report().findings), damage


def test_a_seal_that_was_taken_away_or_contradicts_itself_is_found(victim: Victim) -> None:
    for damage in (
        "DELETE FROM seals WHERE run_id = 'run-1'",
        "UPDATE seals SET counts = '{}' WHERE run_id = 'run-1'",
        "UPDATE seals SET tree_size = 1 WHERE run_id = 'run-1'",
        "UPDATE seals SET note = 'none' WHERE run_id = 'run-1'",
        "UPDATE seals SET note = (SELECT note FROM checkpoints LIMIT 1) WHERE run_id = 'run-1'",
        "DELETE FROM seal_tiles WHERE run_id = 'run-1' AND table_name = 'calls'",
        "UPDATE run_ends SET status = 'completed' WHERE run_id = 'run-1'",
    ):
        with undone(victim):
            assert victim.run(damage) == 1
            assert any(each.run_id == FIRST for each in victim.report().findings), damage


def test_a_run_of_its_own_that_somebody_made_up_is_found(victim: Victim) -> None:
    victim.insert("runs", {**victim.rows("runs")[0], "run_id": "made-up"})
    assert victim.report().remarks != []
    victim.insert("run_ends", {**victim.rows("run_ends")[0], "run_id": "made-up"})
    assert [(each.kind, each.run_id) for each in victim.report().findings] == [("seal", "made-up")]


def test_an_erased_payload_is_counted_and_is_no_fault(victim: Victim) -> None:
    ref = victim.rows("replies")[0]["body_ref"]
    victim.run("INSERT INTO erasures VALUES ('e1', 'a request', 'a clerk', '{}', 0)")
    victim.run("INSERT INTO erased_payloads VALUES (:ref, 'e1', NULL)", ref=ref)
    victim.run("UPDATE payloads SET body = :gone WHERE ref = :ref", gone=b"", ref=ref)
    report = victim.report()
    assert (report.findings, report.erased) == ([], 1)


def test_a_payload_that_lost_its_body_without_an_erasure_is_told(victim: Victim) -> None:
    victim.run("UPDATE payloads SET body = :gone WHERE ref = :ref", gone=b"", ref=victim.rows("replies")[0]["body_ref"])
    report = victim.report()
    assert [finding.kind for finding in report.findings] == ["payload"] and report.erased == 0


def test_hashes_of_seals_are_as_they_are_written(victim: Victim) -> None:
    root = victim.connection.scalar(sa.text("SELECT root FROM seals WHERE run_id = :run"), {"run": FIRST})
    assert isinstance(root, bytes) and len(PREFIX + root.hex()) == len(sha256(b""))


def test_the_log_says_what_was_done(victim: Victim) -> None:
    kinds = [entry.kind for entry in installation_log.entries(victim.connection)]
    assert kinds == ["begin", "key", "run_start", "run_seal", "run_start", "run_seal"]
