"""An export: all that a run left on record, in files that need no database, and can be checked without one.

    manifest.json   records/<table>.jsonl   payloads.jsonl   scopes.jsonl   earlier.jsonl
    seal.note       log.jsonl               checkpoint.note

The form is told in docs/evidence-format.md. It is written as it is read, a page at a time. Two exports of a run are the
same bytes, whenever they are made and from whichever database.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import sqlalchemy as sa

from elspeth_dagster.core.canonical import KEYED, PREFIX, Json, canonical_json
from elspeth_dagster.core.errors import ErasedError, SettingsError
from elspeth_dagster.landscape import logged, payloads, row_records, schema, sealed_records, sealing, zips
from elspeth_dagster.landscape.columns import written_ref
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.proving import proven_document, seal_of
from elspeth_dagster.landscape.record_bytes import FROM, SEALED, records
from elspeth_dagster.landscape.records import Run, Scope, Seal

FORMAT = "elspeth-export v1"
MANIFEST = "manifest.json"
AT_ONCE = 500
BYTES_AT_ONCE = 16 << 20

T = TypeVar("T")


def export(landscape: Landscape, run_id: str, to: Path) -> str:
    """Export a run to a new folder, or a new file whose name ends in `.zip`; return the run's whole id.

    Raises NotOnRecordError where there is no such run or seal, SettingsError where the target is there already, and
    LandscapeError where a payload is not what its name says.
    """
    with landscape.read() as connection, _new(to) as folder:
        run = find_run(connection, run_id)
        _write_all(connection, run, seal_of(connection, run.run_id), folder)
    return run.run_id


# Where it is written ------------------------------------------------------------------------------------------------


@contextmanager
def _new(to: Path) -> Iterator[Path]:
    """A folder beside the target, that becomes it, or its zip, when all is written."""
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise SettingsError(f"{to} is there already: name another folder or file")
    if not to.absolute().parent.is_dir():
        raise SettingsError(f"{to} can't be made: there is no folder {to.absolute().parent}")
    folder = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.absolute().parent))
    try:
        yield folder
        if to.suffix == ".zip":
            _pack(folder, to)
        else:
            folder.replace(to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pack(folder: Path, to: Path) -> None:
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    others = sorted(name for name in written if name != MANIFEST)
    packed = folder / to.name
    with _file(packed) as file:
        zips.pack(folder, [MANIFEST, *others], file)
    packed.replace(to)


@contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that only its owner can read: it holds what people wrote."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines, each with its end."""
    with _file(path) as file:
        file.writelines(line + b"\n" for line in lines)


# What is written ----------------------------------------------------------------------------------------------------


def _write_all(connection: sa.Connection, run: Run, seal: Seal, folder: Path) -> None:
    for table in SEALED:
        written = (record.data() for record in records(connection, table, run.run_id))
        write_lines(folder / "records" / f"{table.name}.jsonl", written)
    scope_ids = _scopes_of_rows(connection, run.run_id)
    write_lines(folder / "payloads.jsonl", _payloads(connection, run.run_id, scope_ids))
    write_lines(folder / "scopes.jsonl", _scopes(connection, scope_ids))
    write_lines(folder / "earlier.jsonl", _earlier(connection, run.run_id))
    _write_log(connection, run, folder)
    with _file(folder / "seal.note") as file:
        file.write(seal.note.encode())
    _write_manifest(seal, folder)


def _write_log(connection: sa.Connection, run: Run, folder: Path) -> None:
    checkpoint = logged.covering(connection, [run.run_id])
    entries = logged.until(connection, checkpoint) if checkpoint else iter(())
    write_lines(folder / "log.jsonl", (entry.entry.encode() for entry in entries))
    with _file(folder / "checkpoint.note") as file:
        file.write(checkpoint.note.encode() if checkpoint else b"")


def _write_manifest(seal: Seal, folder: Path) -> None:
    manifest = {
        "format": FORMAT,
        "run_id": seal.run_id,
        "tree_size": seal.tree_size,
        "root": b64encode(bytes.fromhex(seal.root.removeprefix(PREFIX))).decode(),
        "counts": json.loads(seal.counts),
        "files": {path.relative_to(folder).as_posix(): _fingerprint(path)
                  for path in folder.rglob("*") if path.is_file()},
    }  # fmt: skip
    with _file(folder / MANIFEST) as file:
        file.write(canonical_json(manifest))


def _fingerprint(path: Path) -> dict[str, Json]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": PREFIX + digest, "size": path.stat().st_size}


# Payloads and scopes ------------------------------------------------------------------------------------------------


def _payloads(connection: sa.Connection, run_id: str, scope_ids: set[int]) -> Iterator[bytes]:
    """The payloads that the export's records name, by the bytes of their names; their scopes are noted."""
    for refs in _pages(names(connection, run_id)):
        scope_ids.update(int(ref.split(":")[1]) for ref in refs if ref.startswith(KEYED))
        found = _those_that_fit(connection, refs)
        for ref in refs:
            yield _payload(ref, found[ref]) if ref in found else _payload_alone(connection, ref)


def _those_that_fit(connection: sa.Connection, refs: list[str]) -> dict[str, bytes]:
    try:
        return payloads.read_those_that_fit(connection, refs, BYTES_AT_ONCE)
    except ErasedError:  # of one that others lean on
        return {}


def _payload(ref: str, data: bytes) -> bytes:
    return canonical_json({"ref": ref, "size": len(data), "base64": b64encode(data).decode()})


def _payload_alone(connection: sa.Connection, ref: str) -> bytes:
    try:
        return _payload(ref, payloads.read(connection, ref))
    except ErasedError:
        size = connection.scalar(sa.select(schema.payloads.c.size).where(schema.payloads.c.ref == ref))
        return canonical_json({"ref": ref, "size": size, "erased": True})


def names(connection: sa.Connection, run_id: str) -> Iterator[str]:
    """The names of payloads in the run's records, and in those of the calls that its answers were taken from."""
    named = [
        f"SELECT t.{column} AS ref FROM {FROM.get(table.name, f'{table.name} AS t WHERE t.run_id = :run')}"
        for table in SEALED
        for column in sealed_records.payload_columns(table)
    ]
    query = sa.text(f"SELECT ref FROM ({' UNION '.join([*named, *_names_taken()])}) AS named "
                    "WHERE ref IS NOT NULL ORDER BY ref")  # fmt: skip
    streaming = connection.execution_options(stream_results=True, max_row_buffer=AT_ONCE)
    with streaming.execute(query, {"run": run_id}) as found:
        for page in found.partitions(AT_ONCE):
            yield from (written_ref(bytes(ref)) for (ref,) in page)


def _names_taken() -> Iterator[str]:
    taken = (
        "FROM answers AS a JOIN node_states AS s ON s.state_id = a.state_id AND s.run_id = :run "
        "JOIN calls AS c ON c.call_id = a.call_id AND c.run_id <> :run "
    )
    row = "JOIN tokens AS t ON t.token_id = c.token_id JOIN rows AS o ON o.row_id = t.row_id "
    of_call = "JOIN node_states AS x ON x.state_id = c.state_id JOIN nodes AS o ON o.run_id = x.run_id"
    of_row = "JOIN nodes AS n ON n.run_id = o.run_id AND n.node_id = o.node_id"
    yield from (f"SELECT c.{column} {taken}" for column in ("head_ref", "request_ref"))
    yield f"SELECT r.body_ref {taken} JOIN replies AS r ON r.call_id = c.call_id"
    yield from (f"SELECT o.{column} {taken}{row}" for column in ("values_ref", "raw_ref"))
    yield f"SELECT o.config_ref {taken}JOIN runs AS o ON o.run_id = c.run_id"
    yield f"SELECT o.config_ref {taken}{of_call} AND o.node_id = x.node_id"
    yield f"SELECT n.config_ref {taken}{row}{of_row}"


def _scopes_of_rows(connection: sa.Connection, run_id: str) -> set[int]:
    rows = schema.rows
    of_run = rows.c.run_id == run_id
    named = sa.select(rows.c.scope_id).where(of_run | rows.c.row_id.in_(_rows_taken(run_id)))
    return {number for number in connection.scalars(named) if number is not None}


def _rows_taken(run_id: str) -> sa.Select[tuple[str | None]]:
    """The rows of other runs that calls were about which answers were taken from."""
    answers, calls, tokens = schema.answers, schema.calls, schema.tokens
    return (
        sa.select(tokens.c.row_id)
        .join(calls, calls.c.token_id == tokens.c.token_id)
        .join(answers, answers.c.call_id == calls.c.call_id)
        .where(answers.c.run_id == run_id, calls.c.run_id != run_id)
    )


def _scopes(connection: sa.Connection, scope_ids: set[int]) -> Iterator[bytes]:
    for some in _pages(sorted(scope_ids)):
        found = connection.execute(schema.scopes.select().where(schema.scopes.c.scope_id.in_(some)))
        for scope in sorted(Scope(*row) for row in found):
            yield canonical_json(_scope(scope))


def _pages(found: Iterable[T]) -> Iterator[list[T]]:
    coming = iter(found)
    while page := list(islice(coming, AT_ONCE)):
        yield page


def _scope(scope: Scope) -> dict[str, Json]:
    return {
        "scope_id": scope.scope_id,
        "assessment": scope.assessment,
        "kind": scope.kind.value,
        "subject": scope.subject,
        "naming_key": scope.naming_key.hex(),
    }


# What was taken from earlier runs -----------------------------------------------------------------------------------


def _earlier(connection: sa.Connection, run_id: str) -> Iterator[bytes]:
    answers, calls = schema.answers, schema.calls
    used = sa.select(answers.c.call_id).where(answers.c.run_id == run_id, answers.c.call_id.is_not(None))
    others = sa.select(calls.c.run_id).where(calls.c.call_id.in_(used), calls.c.run_id != run_id).distinct()
    for other in sorted(connection.scalars(others), key=str.encode):
        seal = sealing.of_run(connection, other)
        yield canonical_json({"run_id": other, "note": seal.note if seal else ""})
        found = row_records.of_calls(connection, other, calls.c.call_id.in_(used))
        for document in proven_document(connection, seal, found):
            yield canonical_json({**document, "run_id": other})
