"""Bytes are kept once, under the name of their hash, and checked whenever they are read."""

from __future__ import annotations

import random
import threading
import zlib
from contextlib import closing
from multiprocessing import get_context

import psycopg
import pytest
import sqlalchemy as sa

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.core.errors import ErasedError, LandscapeError
from elspeth_dagster.landscape import payloads, schema, scopes
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Dictionary, ErasedPayload, Erasure, Payload, Run
from elspeth_dagster.landscape.words import Encoding
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.processes import ROUNDS, SAME, write_in_any_order
from elspeth_dagster_tests.landscape.sample import NOON, a_run, only, recorded
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers

TEXT = ("all work and no play " * 50).encode()
NOISE = random.Random(7).randbytes(1000)


def test_the_same_bytes_are_kept_once_whoever_hands_them_over(landscape: Landscape) -> None:
    same = Payload.of(TEXT)
    landscape.write(same, same)
    landscape.write(same, only(Payload, a_run("r1")), only(Run, a_run("r1")))
    for _ in range(2):
        landscape.decide(lambda connection: insert(connection, [same]))
    with landscape.read() as connection:
        assert sorted(fact.ref for fact in recorded(connection, Payload)) == sorted(
            {same.ref, only(Payload, a_run("r1")).ref}
        )


def test_bytes_are_kept_compressed_where_that_makes_them_smaller(landscape: Landscape) -> None:
    made = {data: Payload.of(data) for data in (TEXT, NOISE, b"", b"x")}
    landscape.write(*made.values())
    with landscape.read() as connection:
        stored = {payload.ref: payload for payload in recorded(connection, Payload)}
    kept = {data: stored[payload.ref] for data, payload in made.items()}
    assert [payload.encoding for payload in kept.values()] == [Encoding.ZLIB, *[Encoding.IDENTITY] * 3]
    assert all(payload.size == len(data) and len(payload.body) <= len(data) for data, payload in kept.items())
    with landscape.read() as connection:
        read = payloads.read_many(connection, [payload.ref for payload in kept.values()])
    assert read == {sha256(data): data for data in kept}


def test_more_payloads_are_read_than_a_statement_takes_parameters(landscape: Landscape) -> None:
    many = [Payload.of(str(number).encode()) for number in range(2 * payloads.AT_ONCE + 1)]
    landscape.write(*many)
    with landscape.read() as connection:
        assert len(payloads.read_many(connection, [payload.ref for payload in many])) == len(many)


def test_a_payload_that_is_not_there_is_told(landscape: Landscape) -> None:
    missing = sha256(b"never written")
    with landscape.read() as connection, pytest.raises(LandscapeError, match=f"{missing} is not in the landscape"):
        payloads.read(connection, missing)


@pytest.mark.parametrize(
    "changed",
    [
        {"body": zlib.compress(b"other bytes")},
        {"body": b"no zlib at all"},
        {"body": Payload.of(TEXT).body[:-3]},
        {"body": Payload.of(TEXT).body + b"more"},
        {"size": 7},
        {"size": -1},
        {"size": 10**9},
        {"encoding": "identity"},
    ],
)
def test_a_payload_changed_behind_our_back_is_told_when_it_is_read(
    database: Database, changed: dict[str, object]
) -> None:
    written = Payload.of(TEXT)
    drop_triggers(database, "payloads")
    with database.write() as connection:
        insert(connection, [written])
        assert payloads.read(connection, written.ref) == TEXT
        [name] = changed
        connection.execute(sa.text(f"UPDATE payloads SET {name} = :{name}"), changed)
        with pytest.raises(LandscapeError, match=rf"^payload {written.ref} holds other bytes .* was changed$"):
            payloads.read(connection, written.ref)


def test_an_erased_payload_is_an_error_of_its_own_that_says_when_why_and_by_whom(database: Database) -> None:
    written = Payload.of(TEXT)
    erasure = Erasure("e1", "request 42", "A. Clerk", "{}", NOON)
    with database.write() as connection:
        insert(connection, [written, erasure, ErasedPayload(written.ref, "e1", None)])
        emptied = schema.payloads.update().where(schema.payloads.c.ref == written.ref)
        connection.execute(emptied.values(body=b""))
        with pytest.raises(
            ErasedError, match=rf"^payload {written.ref} was erased on 2026-01-31 under request 42 by A"
        ):
            payloads.read(connection, written.ref)


def test_a_payload_that_was_emptied_without_an_erasure_was_changed(database: Database) -> None:
    written = Payload.of(TEXT)
    drop_triggers(database, "payloads")
    with database.write() as connection:
        insert(connection, [written])
        connection.execute(sa.text("UPDATE payloads SET body = :nothing"), {"nothing": b""})
        with pytest.raises(LandscapeError, match="lost its bytes, and no erasure on record names it") as told:
            payloads.read(connection, written.ref)
        assert not isinstance(told.value, ErasedError)


def test_processes_that_write_the_same_payloads_at_once_all_succeed(database_url: str) -> None:
    context = get_context("spawn")
    at_once = context.Barrier(2)
    writers = [context.Process(target=write_in_any_order, args=(database_url, seed, at_once)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=100)
    assert [writer.exitcode for writer in writers] == [0, 0]
    with closing(Database.open(database_url)) as database, database.read() as connection:
        found = recorded(connection, Payload)
        assert len(found) == ROUNDS * (SAME + 2)
        assert all(sha256(payload.data()) == payload.ref for payload in found)


def test_in_any_other_order_two_of_them_would_wait_for_each_other(postgresql_url: str) -> None:
    """Why payloads are inserted in one order in every process."""
    url = postgresql_url
    insert_one = "INSERT INTO payloads VALUES (%s, 0, 'identity', '') ON CONFLICT DO NOTHING"
    both_hold_one, deadlocks = threading.Barrier(2), []

    def write(order: bytes) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("SET deadlock_timeout = '50ms'")
            connection.execute(insert_one, [bytes([order[0]] * 32)])
            both_hold_one.wait(timeout=30)
            try:
                connection.execute(insert_one, [bytes([order[1]] * 32)])
            except psycopg.errors.DeadlockDetected as error:
                deadlocks.append(error)

    threads = [threading.Thread(target=write, args=[order]) for order in (b"ab", b"ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(deadlocks) == 1


def test_as_many_payloads_are_read_as_fit_and_are_sound(database: Database) -> None:
    first, second, damaged = sorted(
        (Payload.of(letter * 100) for letter in (b"a", b"b", b"c")), key=lambda one: one.ref
    )
    with database.write() as connection:
        insert(connection, [first, second, damaged])
    drop_triggers(database, "payloads")
    with database.write() as connection:
        connection.execute(schema.payloads.update().where(schema.payloads.c.ref == damaged.ref).values(body=b"!"))
    refs = [first.ref, second.ref, damaged.ref]
    with database.read() as connection:
        assert payloads.read_those_that_fit(connection, refs, 299) == {one.ref: one.data() for one in (first, second)}
        assert payloads.read_those_that_fit(connection, refs, 300) == {one.ref: one.data() for one in (first, second)}
        assert payloads.read_those_that_fit(connection, refs, 199) == {first.ref: first.data()}
        assert payloads.read_those_that_fit(connection, [], 300) == {}


def test_a_payload_leans_on_a_dictionary_only_where_that_makes_it_smaller(landscape: Landscape) -> None:
    scope = scopes.of_rows(landscape, "a", ["R1"])["R1"]
    made = {data: Payload.of(data, scope) for data in (TEXT, TEXT + NOISE, NOISE, b"x")}
    dictionary = Dictionary(made[TEXT].ref, TEXT)
    landscape.write(made[TEXT])
    landscape.write(*(payload.leaning_on(dictionary) for payload in made.values()))
    refs = {payload.ref: data for data, payload in made.items()}
    with landscape.read() as connection:
        leaning = {refs[payload.ref] for payload in recorded(connection, Payload) if payload.dictionary_ref}
        assert payloads.read_many(connection, refs) == refs
    assert leaning == {TEXT + NOISE}
