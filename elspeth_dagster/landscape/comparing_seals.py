"""A run's records against its seal: whether they are those that were sealed, and which ones are not.

The root is computed anew from the records and held to the one in the signed note. The tiles tell where to look when it
differs: they hold the leaf hashes as they were, so the two sequences are laid side by side. A record whose hash is
nowhere is edited if another stands in its place, deleted or inserted if not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.checkpoints import RunSeal
from elspeth_dagster.core.merkle import HASH_BYTES, Frontier, leaf_hash, root_of
from elspeth_dagster.landscape.findings import Finding, Progress, Report
from elspeth_dagster.landscape.record_bytes import SEALED, Record, leaf_pages, records
from elspeth_dagster.landscape.schema import seal_tiles
from elspeth_dagster.landscape.streaming import streamed
from elspeth_dagster.landscape.touching import touched_by

WINDOW = 2000
NAMED = 50
TILE = 256


class Tree(NamedTuple):
    """A run's records as they are: the root over them, how many each table has, and which tables' tiles differ."""

    root: bytes
    counts: dict[str, int]
    differing: list[sa.Table]


def compare(connection: sa.Connection, seal: RunSeal, report: Report, progress: Progress) -> None:
    """Report every record of a run that is not as it was sealed."""
    tree = tree_of(connection, seal.run_id, progress)
    report.records += sum(tree.counts.values())
    if tree.root == seal.root:
        if tree.differing:
            report.add(_tiles_changed(seal.run_id, "the records are as they were sealed, their tiles are not"))
        return
    is_told = root_of(_all_tiles(connection, seal.run_id)) == seal.root
    if is_told and tree.differing:
        for table in tree.differing:
            report.add(*_differences(connection, table, seal.run_id))
    else:
        report.add(*_untold(seal, tree))


def tree_of(connection: sa.Connection, run_id: str, progress: Progress) -> Tree:
    """The tree over a run's records as they are now, held to its tiles on the way."""
    frontier, counts, differing = Frontier(), {}, []
    sealed = _sealed_digests(connection, run_id)
    for table in SEALED:
        before, digest = frontier.size, hashlib.sha256()
        for page in leaf_pages(connection, table, run_id):
            frontier.extend(page)
            digest.update(b"".join(page))
            progress(f"run {run_id}: {table.name}", len(page))
        counts[table.name] = frontier.size - before
        if sealed.get(table.name, hashlib.sha256()).digest() != digest.digest():
            differing.append(table)
    return Tree(frontier.root(), counts, differing)


def _sealed_digests(connection: sa.Connection, run_id: str) -> dict[str, hashlib._Hash]:
    """One hash over all tiles of each table."""
    of_run = sa.select(seal_tiles.c.table_name, seal_tiles.c.hashes).where(seal_tiles.c.run_id == run_id)
    digests: dict[str, hashlib._Hash] = {}
    with streamed(connection, of_run.order_by(seal_tiles.c.table_name, seal_tiles.c.tile), 64) as found:
        for page in found.partitions(64):
            for table, hashes in page:
                digests.setdefault(table, hashlib.sha256()).update(hashes)
    return digests


def _tiles(connection: sa.Connection, table: str, run_id: str) -> Iterator[bytes]:
    of_table = sa.select(seal_tiles.c.hashes).where(seal_tiles.c.run_id == run_id, seal_tiles.c.table_name == table)
    with streamed(connection, of_table.order_by(seal_tiles.c.tile), 64) as found:
        for page in found.partitions(64):
            yield from (hashes for (hashes,) in page)


def _sealed_leaves(connection: sa.Connection, table: str, run_id: str) -> Iterator[bytes]:
    for tile in _tiles(connection, table, run_id):
        for start in range(0, len(tile), HASH_BYTES):
            yield tile[start : start + HASH_BYTES]


def _all_tiles(connection: sa.Connection, run_id: str) -> Iterator[bytes]:
    return chain.from_iterable(_sealed_leaves(connection, table.name, run_id) for table in SEALED)


def _tiles_changed(run_id: str, what: str) -> Finding:
    return Finding("seal", what, run_id, "seal_tiles")


def _untold(seal: RunSeal, tree: Tree) -> Iterator[Finding]:
    """The records differ from the seal, and the tiles were made to fit: which ones can't be told, at most where."""
    told = {name: (seal.counts.get(name, 0), count) for name, count in tree.counts.items()}
    other = {name: both for name, both in told.items() if both[0] != both[1]}
    what = "; ".join(f"{name} had {sealed} records, has {found}" for name, (sealed, found) in other.items())
    yield Finding(
        "changed",
        "the records are not those that were sealed, and the tiles that would tell which ones were changed as well"
        f"{f': {what}' if what else ''}",
        seal.run_id,
        next(iter(other), None),
        touches_all=True,
    )


class Now(NamedTuple):
    """A record as it is, and the hash of its leaf."""

    leaf: bytes
    record: Record


def _differences(connection: sa.Connection, table: sa.Table, run_id: str) -> Iterator[Finding]:
    """The records of a table that differ, the first ones by name."""
    sealed = enumerate(_sealed_leaves(connection, table.name, run_id))
    current = (Now(leaf_hash(record.data()), record) for record in records(connection, table, run_id))
    found = _apart(sealed, current)
    named = [_named(connection, table, run_id, each) for each in islice(found, NAMED)]
    yield from named
    if more := sum(1 for _ in found):
        yield Finding("changed", f"{more} more records differ", run_id, table.name, touches_all=True)


class Apart(NamedTuple):
    """A place where what was sealed and what is there differ: a place in the table's order, a record, or both."""

    place: int | None
    now: Now | None
    before: Now | None


def _apart(sealed: Iterable[tuple[int, bytes]], current: Iterable[Now]) -> Iterator[Apart]:
    """Lay two sequences side by side; where they part, find the nearest place at which they meet again."""
    left, right = _Ahead(iter(sealed)), _Ahead(iter(current))
    last: Now | None = None
    while left.peek() is not None or right.peek() is not None:
        a, b = left.peek(), right.peek()
        if a is not None and b is not None and a[1] == b.leaf:
            left.take(1)
            [last] = right.take(1)
            continue
        of_left, of_right = _until_they_meet(left.ahead(), right.ahead())
        lost, new = left.take(of_left), right.take(of_right)
        for place in range(max(len(lost), len(new))):
            now = new[place] if place < len(new) else None
            yield Apart(lost[place][0] if place < len(lost) else None, now, last)
            last = now or last


def _until_they_meet(left: list[tuple[int, bytes]], right: list[Now]) -> tuple[int, int]:
    """How many of each come before the first that both have; all that is in sight where there is none."""
    places = {leaf: place for place, (_, leaf) in reversed(list(enumerate(left)))}
    for place, now in enumerate(right):
        if now.leaf in places:
            return places[now.leaf], place
    return len(left), len(right)


class _Ahead:
    """An iterator that can be looked into for a window's length."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source, self._seen = source, []  # type: ignore[var-annotated]

    def peek(self) -> Any:
        """The next one; None at the end."""
        if not self._seen:
            self._seen = list(islice(self._source, 1))
        return self._seen[0] if self._seen else None

    def ahead(self) -> list[Any]:
        """The next ones, as many as there are within the window."""
        self._seen += islice(self._source, WINDOW - len(self._seen))
        return self._seen

    def take(self, number: int) -> list[Any]:
        """Go on by so many."""
        taken, self._seen = self._seen[:number], self._seen[number:]
        return taken


def _named(connection: sa.Connection, table: sa.Table, run_id: str, apart: Apart) -> Finding:
    if apart.now is None:
        after = apart.before.record.key() if apart.before else {}
        where = f"that came after {_written(after)}" if after else "that came first"
        what = f"the record {where} (number {apart.place} of the table in this run) was taken away"
        return Finding("deleted", what, run_id, table.name, {"number": apart.place}, touches_all=True)
    record = apart.now.record
    kind = "inserted" if apart.place is None else "edited"
    what = {"inserted": "this record was added after the seal", "edited": "this record is not as it was sealed"}[kind]
    touches, touches_all = touched_by(connection, record.table, record.columns())
    return Finding(kind, what, run_id, table.name, record.key(), touches, touches_all)


def _written(key: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in key.items())
