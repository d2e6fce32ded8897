"""The record's own rules, asked of the database once more, since whoever can change it can drop its constraints too.

Every reference leads somewhere in the same run. Every row has a token, every token of an ended run its outcome, every
call a reply, every state an end; every assessed row has an accepted answer to each question that its run asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.findings import Finding, Report
from elspeth_dagster.landscape.record_bytes import SEALED, column_names
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.touching import touched_by

NAMED = 50
WITHOUT_RUN_ID = {
    "node_state_ends": "JOIN node_states AS s ON s.state_id = t.state_id WHERE s.run_id = :run",
    "replies": "JOIN calls AS c ON c.call_id = t.call_id JOIN node_states AS s ON s.state_id = c.state_id "
    "WHERE s.run_id = :run",
}
OPEN = {
    ("rows", "this row has no token: nobody knows what became of it"):
        "SELECT {0} FROM rows t LEFT JOIN tokens x ON x.row_id = t.row_id WHERE t.run_id = :run AND x.token_id IS NULL",
    ("tokens", "this token has no outcome, though its run has ended"):
        "SELECT {0} FROM tokens t LEFT JOIN token_outcomes x ON x.token_id = t.token_id "
        "WHERE t.run_id = :run AND x.token_id IS NULL",
    ("node_states", "this state is open, though its run has ended"):
        "SELECT {0} FROM node_states t LEFT JOIN node_state_ends x ON x.state_id = t.state_id "
        "WHERE t.run_id = :run AND x.state_id IS NULL",
    ("calls", "this call has no reply, not even an unknown one, though its run has ended"):
        "SELECT {0} FROM node_states s JOIN calls t ON t.state_id = s.state_id "
        "LEFT JOIN replies x ON x.call_id = t.call_id WHERE s.run_id = :run AND x.call_id IS NULL",
    ("answers", "this answer was accepted, and the call that it names has no reply that succeeded"):
        "SELECT {0} FROM node_states s JOIN answers t ON t.state_id = s.state_id "
        "LEFT JOIN replies x ON x.call_id = t.call_id "
        "WHERE s.run_id = :run AND t.status = 'accepted' AND (x.outcome IS NULL OR x.outcome <> 'success')",
}  # fmt: skip
ASKED = """
SELECT n.assessment, count(DISTINCT a.query_key) FROM node_states s JOIN answers a ON a.state_id = s.state_id
JOIN nodes n ON n.run_id = s.run_id AND n.node_id = s.node_id WHERE s.run_id = :run GROUP BY n.assessment
"""
ANSWERED = """
SELECT o.token_id, r.row_key, count(DISTINCT a.query_key) FROM token_outcomes o
JOIN tokens t ON t.token_id = o.token_id JOIN rows r ON r.row_id = t.row_id
JOIN nodes n ON n.run_id = r.run_id AND n.node_id = r.node_id
LEFT JOIN answers a ON a.token_id = o.token_id AND a.status = 'accepted'
WHERE o.run_id = :run AND o.outcome = 'assessed' AND n.assessment = :assessment
GROUP BY o.token_id, r.row_key HAVING count(DISTINCT a.query_key) < :asked
"""
GAPS = """
SELECT node_id, count(*), max(row_index) + 1 FROM (
  SELECT node_id, row_index FROM rows WHERE run_id = :run
  UNION ALL SELECT node_id, row_index FROM row_rejections WHERE run_id = :run) AS records_read
GROUP BY node_id HAVING count(*) <> max(row_index) + 1
"""


class Rule(NamedTuple):
    """What every record of a table must keep, and a query for those that don't."""

    kind: str
    table: sa.Table
    what: str
    broken: str


def check_rules(connection: sa.Connection, run_id: str, report: Report, *, has_ended: bool) -> None:
    """Report every record of a run that breaks a rule."""
    open_ = [Rule("rule", metadata.tables[table], what, query) for (table, what), query in OPEN.items()]
    report.add(*_broken(connection, [*_references(of_run=True), *(open_ if has_ended else [])], run_id))
    if has_ended:
        report.add(*_unanswered(connection, run_id), *_gaps(connection, run_id))


def references(connection: sa.Connection) -> Iterator[Finding]:
    """What refers to something that isn't there, of any run and of none."""
    return _broken(connection, _references(of_run=False), None)


@cache
def _references(*, of_run: bool) -> list[Rule]:
    """That each reference of each table leads somewhere."""
    rules = []
    for table in SEALED:
        whose = WITHOUT_RUN_ID.get(table.name, "WHERE t.run_id = :run")
        joins, _, condition = whose.rpartition("WHERE ")
        for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name)):
            pairs = {element.column.name: element.parent.name for element in key.elements}
            parent = key.referred_table
            given = " AND ".join(f"t.{here} IS NOT NULL" for here in pairs.values())
            found, is_another = _parent_of(parent, pairs)
            query = f"SELECT {{0}} FROM {table.name} AS t {joins if of_run else ''} LEFT JOIN {parent.name} AS p "
            query += f"ON {found} WHERE {given} AND {is_another}" + (f" AND {condition}" if of_run else "")
            names = ", ".join(here for here in pairs.values() if here != "run_id" or len(pairs) == 1)
            rules.append(Rule("reference", table, f"its {names} leads to no record of {parent.name}", query))
    return rules


def _parent_of(parent: sa.Table, pairs: Mapping[str, str]) -> tuple[str, str]:
    """How a parent `p` is found, and when it is none, or another one than is meant.

    It is looked for by its own key alone: given the run as well, PostgreSQL, where it has counted nothing yet, takes
    the run to have few records, and goes through all of them for each.
    """
    [own, *more] = [column.name for column in parent.primary_key]
    by = [own] if not more and own in pairs else list(pairs)
    found = " AND ".join(f"p.{there} = t.{pairs[there]}" for there in by)
    another = [f"p.{there} <> t.{pairs[there]}" for there in pairs if there not in by]
    return found, "(" + " OR ".join([f"p.{by[-1]} IS NULL", *another]) + ")"


def _broken(connection: sa.Connection, rules: Sequence[Rule], run_id: str | None) -> Iterator[Finding]:
    """The records that break a rule. Which rules are broken at all is asked in one go."""
    told = {} if run_id is None else {"run": run_id}
    asked = ", ".join(f"EXISTS ({rule.broken.format('1')})" for rule in rules)
    found = connection.execute(sa.text(f"SELECT {asked}"), told).one()
    for rule, is_broken in zip(rules, found, strict=True):
        if is_broken:
            yield from _breaking(connection, rule, run_id)


def _breaking(connection: sa.Connection, rule: Rule, run_id: str | None) -> Iterator[Finding]:
    table, names = rule.table, column_names(rule.table)
    told = {} if run_id is None else {"run": run_id}
    query = rule.broken.format(", ".join(f"t.{name}" for name in names))
    found = connection.execute(sa.text(f"{query} LIMIT {NAMED + 1}"), told).all()
    for row in found[:NAMED]:
        columns = dict(zip(names, row, strict=True))
        key = {column.name: columns[column.name] for column in table.primary_key.columns}
        whose = run_id or columns.get("run_id")
        yield Finding(rule.kind, rule.what, whose, table.name, key, *touched_by(connection, table, columns))
    if len(found) > NAMED:
        yield Finding(rule.kind, f"and more: {rule.what}", run_id, table.name, touches_all=True)


def _unanswered(connection: sa.Connection, run_id: str) -> Iterator[Finding]:
    for assessment, asked in connection.execute(sa.text(ASKED), {"run": run_id}).all():
        told = {"run": run_id, "assessment": assessment, "asked": asked}
        for token_id, row_key, answered in connection.execute(sa.text(f"{ANSWERED} LIMIT {NAMED}"), told).all():
            what = f"row {row_key} is assessed, with {answered} accepted answers to {asked} questions"
            columns = {"token_id": token_id}
            touches = touched_by(connection, metadata.tables["token_outcomes"], columns)
            yield Finding("rule", what, run_id, "token_outcomes", columns, *touches)


def _gaps(connection: sa.Connection, run_id: str) -> Iterator[Finding]:
    for node_id, there, read in connection.execute(sa.text(GAPS), {"run": run_id}).all():
        what = f"{read} records were read, of which {there} are rows or rejections"
        yield Finding("rule", what, run_id, "rows", {"node_id": node_id}, touches_all=True)
