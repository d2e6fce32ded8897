"""Seals: what an ended run left on record, as one hash that a key has signed.

The database takes no more records of a run once its end is there, so the tree is made after that, beside whoever else
writes, a page at a time. Its leaf hashes are kept in tiles, from which the very record that was changed can be told
later. Then the seal and the log's entry about it go on record together.

A seal names the root of the run that its own goes on from, so that one is sealed first. Whoever is left unsealed, since
a process died between the end and the seal, is sealed by whoever comes next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from elspeth_dagster.core.canonical import PREFIX, canonical_json
from elspeth_dagster.core.checkpoints import RunSeal, written_hash
from elspeth_dagster.core.errors import ElspethError
from elspeth_dagster.core.merkle import Frontier
from elspeth_dagster.landscape import anchoring, installation_log, runs
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.record_bytes import SEALED, leaf_pages
from elspeth_dagster.landscape.records import Run, Seal, SealTile
from elspeth_dagster.landscape.schema import run_ends, seal_tiles, seals
from elspeth_dagster.landscape.schema import runs as runs_table

TILE = 256
TILES_AT_ONCE = 64
AT_MOST = 5
"""How many runs that others left unsealed are sealed on the way; a sensor's next ticks see to the rest."""


@dataclass
class Sealed:
    """Which runs were sealed, and what went wrong that stops nothing."""

    run_ids: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def seal_ended(landscape: Landscape, *, first: str | None = None, at_most: int | None = AT_MOST) -> Sealed:
    """Seal runs that have ended, this one first, then those that others left; then publish the log's checkpoint.

    Raises LandscapeError or SettingsError when the record can't be read, written or signed.
    """
    sealed = Sealed()
    if not installation_log.may_make(landscape):
        sealed.warnings.append("The record is signed, and ELSPETH_SIGNING_KEY is not set here: nothing was sealed.")
        return sealed
    for run_id in _to_seal(landscape, first, at_most):
        sealed.run_ids += seal_with_parents(landscape, run_id)
    sealed.warnings += publish(landscape)
    return sealed


def seal_if_possible(landscape: Landscape, *, first: str | None = None) -> list[str]:
    """The same for whoever has more important things to do: what went wrong is told, and left to the next one."""
    try:
        return seal_ended(landscape, first=first).warnings
    except ElspethError as error:
        return [f"Not sealed yet, the next run or the sensor will try again: {error}"]


def publish_if_possible(landscape: Landscape) -> list[str]:
    """The same as `publish`, for whoever has more to do: that nothing can be signed just now is told, and no more."""
    try:
        return publish(landscape)
    except ElspethError as error:
        return [f"No checkpoint was made, the next run will try again: {error}"]


def publish(landscape: Landscape) -> list[str]:
    """Make the log's checkpoint and put it where it was not yet. Returns what went wrong with the anchors."""
    made = installation_log.checkpoint(landscape)
    return [] if made is None else anchoring.anchor(landscape, made)


def unsealed(connection: sa.Connection, at_most: int | None = None) -> list[str]:
    """The runs that ended and have no seal, those that ended first coming first."""
    without = sa.select(run_ends.c.run_id).where(~sa.exists().where(seals.c.run_id == run_ends.c.run_id))
    return list(connection.scalars(without.order_by(run_ends.c.ended_at, run_ends.c.run_id).limit(at_most)))


def _to_seal(landscape: Landscape, first: str | None, at_most: int | None) -> list[str]:
    with landscape.read() as connection:
        found = unsealed(connection, at_most)
        has_ended = first is not None and runs.end_of(connection, first) is not None
    return list(dict.fromkeys([first, *found] if first and has_ended else found))


def seal_with_parents(landscape: Landscape, run_id: str) -> Iterator[str]:
    """Seal a run, and before it those that it goes on from; each that had no seal."""
    with landscape.read() as connection:
        line = list(_unsealed_line(connection, run_id))
    for run in reversed(line):
        if _seal(landscape, run):
            yield run.run_id


def _unsealed_line(connection: sa.Connection, run_id: str | None) -> Iterator[Run]:
    """A run and those before it, up to one that has a seal, or no end."""
    seen: set[str] = set()
    while run_id and run_id not in seen and of_run(connection, run_id) is None and runs.end_of(connection, run_id):
        seen.add(run_id)
        run = Run(*connection.execute(runs_table.select().where(runs_table.c.run_id == run_id)).one())
        yield run
        run_id = run.parent_run_id


def of_run(connection: sa.Connection, run_id: str) -> Seal | None:
    """The seal of a run, if it has one."""
    row = connection.execute(seals.select().where(seals.c.run_id == run_id)).first()
    return None if row is None else Seal(*row)


def _seal(landscape: Landscape, run: Run) -> bool:
    """Whether the run was sealed here, not by somebody faster."""
    frontier, counts = _tree(landscape, run.run_id)

    def add(connection: sa.Connection) -> bool:
        if of_run(connection, run.run_id):
            return False
        whose = installation_log.begun(connection)
        end = runs.end_of(connection, run.run_id)
        assert end is not None
        parent = of_run(connection, run.parent_run_id) if run.parent_run_id else None
        named = None if parent is None else (parent.run_id, bytes.fromhex(parent.root.removeprefix(PREFIX)))
        told = RunSeal(whose, run.run_id, frontier.size, frontier.root(), end.status.value, counts, named)
        note = installation_log.note(told.text(), landscape.signer)
        root = PREFIX + frontier.root().hex()
        insert(connection, [Seal(run.run_id, frontier.size, root, canonical_json(counts).decode(), note, now())])
        installation_log.append(
            connection,
            installation_log.RUN_SEAL,
            run_id=run.run_id,
            size=frontier.size,
            root=written_hash(frontier.root()),
            status=end.status.value,
            note_sha256=hashlib.sha256(note.encode()).hexdigest(),
        )
        return True

    return landscape.decide(add)


def _tree(landscape: Landscape, run_id: str) -> tuple[Frontier, dict[str, int]]:
    """The tree over a run's records and how many each table has; its tiles are put on record on the way."""
    frontier, counts = Frontier(), {}
    waiting: list[SealTile] = []
    with landscape.read() as connection:
        for table in SEALED:
            before = frontier.size
            for number, hashes in enumerate(_tiles(leaf_pages(connection, table, run_id), frontier)):
                waiting.append(SealTile(run_id, table.name, number, hashes))
                if len(waiting) == TILES_AT_ONCE:
                    _keep(landscape, waiting)
                    waiting = []
            counts[table.name] = frontier.size - before
    _keep(landscape, waiting)
    return frontier, counts


def _tiles(pages: Iterator[list[bytes]], frontier: Frontier) -> Iterator[bytes]:
    """The leaf hashes of a table, so many together; each is added to the tree."""
    waiting: list[bytes] = []
    for page in pages:
        frontier.extend(page)
        waiting += page
        whole = len(waiting) - len(waiting) % TILE
        for start in range(0, whole, TILE):
            yield b"".join(waiting[start : start + TILE])
        waiting = waiting[whole:]
    if waiting:
        yield b"".join(waiting)


def _keep(landscape: Landscape, tiles: Sequence[SealTile]) -> None:
    """Put tiles on record that somebody who died, or is as fast, may have put there already."""

    def add(connection: sa.Connection) -> None:
        for tile in tiles:
            key = [seal_tiles.c[name] == value for name, value in zip(tile._fields, tile[:3], strict=False)]
            if not connection.scalar(sa.select(sa.exists().where(*key))):
                insert(connection, [tile])

    if tiles:
        landscape.decide(add)
