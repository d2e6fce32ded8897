"""Whether PostgreSQL's declarative partitions make inserts cheaper: plain tables beside partitioned ones.

    python benchmarks/partitions.py --landscape URL [--calls 1000000]

Two tables as the landscape's largest are: payloads by their hash, and calls that refer to three of them each, with a
trigger that refuses changes. Plain; cut by hash into 16; and calls cut by run, as a range. It fills them, and measures
the last tenth: milliseconds on the clock, of the server's CPU, and bytes of write-ahead log, per call. A foreign key
needs a unique key of what it refers to, and a partitioned table has only such as hold the column it is cut by: so calls
that are cut by run can't be referred to by `call_id` alone, and payloads can be cut by nothing but their hash.
"""

import time
from contextlib import closing
from pathlib import Path

import click
import psycopg

CUTS = ("plain", "hash", "run")
PARTITIONS = 16
AT_ONCE = 500
TICKS = 100

PAYLOADS = "CREATE TABLE payloads (ref bytea PRIMARY KEY, body bytea NOT NULL)"
CALLS = """CREATE TABLE calls (call_id text NOT NULL, run integer NOT NULL, state_id text NOT NULL,
    request_ref bytea NOT NULL REFERENCES payloads, reply_ref bytea NOT NULL REFERENCES payloads,
    values_ref bytea NOT NULL REFERENCES payloads, facts text NOT NULL, PRIMARY KEY ({key}))"""
GUARD = """CREATE OR REPLACE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'it only grows'; END $$"""
BOTH = """
WITH made AS (
    INSERT INTO payloads
    SELECT sha256(convert_to(n || ':' || part, 'UTF8')), convert_to(repeat(md5(n || ':' || part), 9), 'UTF8')
    FROM generate_series(%(first)s::int, %(last)s::int) AS n, generate_series(1, 3) AS part RETURNING 1)
SELECT count(*) FROM made
"""
INTO_CALLS = """
INSERT INTO calls
SELECT lpad(n::text, 26, '0'), %(run)s, lpad(%(run)s::text, 26, '0'), sha256(convert_to(n || ':1', 'UTF8')),
    sha256(convert_to(n || ':2', 'UTF8')), sha256(convert_to(n || ':3', 'UTF8')), repeat('f', 150)
FROM generate_series(%(first)s::int, %(last)s::int) AS n
"""


@click.command(help=__doc__)
@click.option("--landscape", "url", required=True, help="A url of an empty PostgreSQL database.")
@click.option("--calls", default=1_000_000, show_default=True)
@click.option("--cut", "cuts", multiple=True, type=click.Choice(CUTS), default=CUTS, help="Which to measure.")
def main(url: str, calls: int, cuts: tuple[str, ...]) -> None:
    click.echo(f"{'cut by':10}{'ms':>10}{'CPU ms':>10}{'WAL bytes':>12}{'bytes':>10}")
    for cut in cuts:
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            make(connection, cut, calls)
            fill(connection, 0, calls - calls // 10, calls)
            connection.execute("CHECKPOINT")
            told = measured(connection, calls - calls // 10, calls)
            click.echo(f"{cut:10}{told[0]:>10.3f}{told[1]:>10.3f}{told[2]:>12.0f}{size(connection) / calls:>10.0f}")


def make(connection: psycopg.Connection, cut: str, calls: int) -> None:
    connection.execute("DROP TABLE IF EXISTS calls, payloads")
    for table, ddl in (
        ("payloads", PAYLOADS),
        ("calls", CALLS.format(key="run, call_id" if cut == "run" else "call_id")),
    ):
        by = {"plain": None, "hash": "HASH", "run": "RANGE" if table == "calls" else "HASH"}[cut]
        column = {("payloads", "HASH"): "ref", ("calls", "HASH"): "call_id", ("calls", "RANGE"): "run"}.get((table, by))
        connection.execute(f"{ddl} PARTITION BY {by} ({column})" if by else ddl)
        for number in range(PARTITIONS if by else 0):
            bounds = (
                f"WITH (modulus {PARTITIONS}, remainder {number})"
                if by == "HASH"
                else f"FROM ({runs(calls) * number // PARTITIONS}) TO ({runs(calls) * (number + 1) // PARTITIONS})"
            )
            connection.execute(f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES {bounds}")
        connection.execute(GUARD)
        for what in ("ROW", "STATEMENT"):
            event = "UPDATE OR DELETE" if what == "ROW" else "TRUNCATE"
            connection.execute(
                f"CREATE TRIGGER no_{what} BEFORE {event} ON {table} FOR EACH {what} EXECUTE FUNCTION refused()"
            )


def runs(calls: int) -> int:
    return calls // 10_000 + PARTITIONS


def fill(connection: psycopg.Connection, first: int, last: int, calls: int) -> None:
    for start in range(first, last, AT_ONCE):
        with connection.transaction():
            named = {"first": start, "last": min(start + AT_ONCE, last) - 1, "run": start // 10_000}
            connection.execute(BOTH, named)
            connection.execute(INTO_CALLS, named)


def measured(connection: psycopg.Connection, first: int, last: int) -> tuple[float, float, float]:
    """Per call: milliseconds, CPU milliseconds of the backend, bytes of write-ahead log."""
    started, cpu, wal = time.perf_counter(), cpu_of(connection), log_position(connection)
    fill(connection, first, last, last)
    took = (time.perf_counter() - started, cpu_of(connection) - cpu)
    return (*(seconds * 1000 / (last - first) for seconds in took), (log_position(connection) - wal) / (last - first))  # type: ignore[return-value]


def cpu_of(connection: psycopg.Connection) -> float:
    """Seconds of CPU of this connection's server process, which is on this machine."""
    fields = Path(f"/proc/{connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def log_position(connection: psycopg.Connection) -> int:
    return int(connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").fetchone()[0])


def size(connection: psycopg.Connection) -> int:
    return int(connection.execute("SELECT pg_database_size(current_database())").fetchone()[0])


if __name__ == "__main__":
    main()
