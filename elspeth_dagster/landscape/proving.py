"""A proof: the story of one row as one file, which anybody can hold to a signature, without the database.

The form of the file is told in docs/evidence-format.md. It holds the records about the row, the bytes that these name,
the naming key of the row's scope, the hashes that lead from each record to the run's sealed root, the seal, and the
log's entries about it. No data of another row is in it.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from elspeth_dagster.core.canonical import KEYED, Json, canonical_json
from elspeth_dagster.core.errors import ErasedError, NotOnRecordError, SettingsError
from elspeth_dagster.landscape import logged, payloads, row_records, schema, sealed_records, sealing
from elspeth_dagster.landscape.columns import Ref
from elspeth_dagster.landscape.finding import find_rows, find_run, not_on_record
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.record_bytes import Record
from elspeth_dagster.landscape.records import Node, Row, Run, Seal

FORMAT = "elspeth-proof v1"


def prove(landscape: Landscape, run_id: str, row_key: str, *, assessment: str | None = None) -> bytes:
    """The proof of the row with this key in a run; `run_id` and `row_key` as `explain` takes them.

    Raises NotOnRecordError where there is no such row or no seal, and LandscapeError where a record is not what was
    sealed, or a payload not what its name says.
    """
    with landscape.read() as connection:
        run = find_run(connection, run_id, assessment)
        found = find_rows(connection, run.run_id, row_key, assessment)
        if not found:
            raise not_on_record(connection, run.run_id, row_key, assessment)
        if len(found) > 1:
            named = ", ".join(sorted(node.assessment for node, *_ in found))
            raise NotOnRecordError(f"several assessments of run {run.run_id} have a row {row_key!r}: {named}; name one")
        return canonical_json(_proof(connection, run, *found[0]))


@contextmanager
def new_file(to: Path) -> Iterator[IO[bytes]]:
    """A new file that only its owner can read; it goes again where it can't be written whole.

    Raises SettingsError where it is there already, or can't be made.
    """
    try:
        file = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsError(f"{to} can't be made: {error.strerror}") from None
    try:
        with os.fdopen(file, "wb") as opened:
            yield opened
    except BaseException:
        to.unlink()
        raise


def seal_of(connection: sa.Connection, run_id: str) -> Seal:
    """The seal of a run. Raises NotOnRecordError where it has none yet."""
    seal = sealing.of_run(connection, run_id)
    if seal is None:
        raise NotOnRecordError(
            f"run {run_id} has no seal, so nothing of it can be proven yet: a run is sealed when it has ended. "
            "`elspeth-dagster runs` tells whether it has"
        )
    return seal


def _proof(connection: sa.Connection, run: Run, node: Node, row: Row, token_id: str) -> dict[str, Json]:
    seal = seal_of(connection, run.run_id)
    own = list(row_records.of_row(connection, node, row, token_id))
    earlier = _earlier(connection, run.run_id, token_id)
    records = [*own, *(record for _, part in earlier.values() for record in part)]
    refs = {ref for record in records for ref in sealed_records.payload_names(record)}
    return {
        "format": FORMAT,
        "run_id": run.run_id,
        "assessment": node.assessment,
        "row_key": row.row_key,
        "note": seal.note,
        "records": list(proven_document(connection, seal, own)),
        "payloads": list(_payloads(connection, refs)),
        "scope_keys": _scope_keys(connection, records, refs),
        "earlier": [
            {"run_id": other, "note": its.note if its else "", "records": list(proven_document(connection, its, part))}
            for other, (its, part) in earlier.items()
        ],
        "log": _log(connection, [run.run_id, *(other for other, (its, _) in earlier.items() if its)]),
    }


def _earlier(connection: sa.Connection, run_id: str, token_id: str) -> dict[str, tuple[Seal | None, list[Record]]]:
    """By run what its calls tell that answers come from, and its seal if it has one."""
    return {
        other: (
            sealing.of_run(connection, other),
            list(row_records.of_calls(connection, other, schema.calls.c.call_id.in_(call_ids))),
        )
        for other, call_ids in row_records.taken_from(connection, run_id, token_id).items()
    }


def proven_document(
    connection: sa.Connection, seal: Seal | None, records: Iterable[Record]
) -> Iterator[dict[str, Json]]:
    """Records that come in the order of the tree, as files have them, with their proofs; without a seal without."""
    if seal is None:
        yield from (_document(record, None, []) for record in records)
        return
    for record, place, proof in sealed_records.prove(connection, seal, records):
        yield _document(record, place, proof)


def _document(record: Record, index: int | None, proof: list[bytes]) -> dict[str, Json]:
    return {
        "table": record.table.name,
        "record": json.loads(record.data())[1],
        "index": index,
        "proof": [b64encode(digest).decode() for digest in proof],
    }


def _payloads(connection: sa.Connection, refs: Iterable[str]) -> Iterator[dict[str, Json]]:
    for ref in sorted(refs, key=Ref().stored):
        try:
            yield {"ref": ref, "base64": b64encode(payloads.read(connection, ref)).decode()}
        except ErasedError:
            yield {"ref": ref, "erased": True}


def _scope_keys(connection: sa.Connection, records: Iterable[Record], refs: Iterable[str]) -> dict[str, Json]:
    """The naming keys by which names can be checked: of the row's scope, and of one that it had before an erasure."""
    wanted = {columns["scope_id"] for record in records if "scope_id" in (columns := record.columns())} - {None}
    wanted |= {int(ref.split(":")[1]) for ref in refs if ref.startswith(KEYED)}
    keys = sa.select(schema.scopes.c.scope_id, schema.scopes.c.naming_key).where(schema.scopes.c.scope_id.in_(wanted))
    return {str(number): key.hex() for number, key in connection.execute(keys)}


def _log(connection: sa.Connection, run_ids: list[str]) -> Json:
    checkpoint = logged.covering(connection, run_ids)
    if checkpoint is None:
        return None
    return {
        "checkpoint": checkpoint.note,
        "entries": [
            {
                "entry": entry.entry,
                "index": entry.log_index,
                "proof": [b64encode(digest).decode() for digest in proof],
            }
            for entry, proof in logged.prove(connection, checkpoint, run_ids)
        ],
    }
