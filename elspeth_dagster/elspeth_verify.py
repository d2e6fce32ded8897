#!/usr/bin/env python3
"""elspeth-verify: hold a proof or an export of elspeth-dagster to the signature under it.

    python elspeth_verify.py FILE --key VKEY

One file for whoever must believe the record and not the software that made it: it needs Python 3.11 and the package
`cryptography`, no database, no network, and nothing of elspeth-dagster. It is written from docs/evidence-format.md,
not from the code that makes these files, and shares nothing with it.

It prints what was asked, what came back and what was made of it, then what was checked, what could not be checked, and
what is wrong. Exit code 0: all that could be checked holds; 1: something is wrong; 2: used wrongly, or not readable.

Whatever a file says is hostile until it is checked, and printed with control characters escaped after that too. Memory
stays bounded: what grows with an export is kept in a temporary file.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import hmac
import io
import json
import re
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PROOF, EXPORT = "elspeth-proof v1", "elspeth-export v1"
HOLDS, IS_WRONG, USED_WRONGLY = 0, 1, 2
MEBIBYTE = 1 << 20
LARGEST_PROOF = 256 * MEBIBYTE
LARGEST_LINE = 64 * MEBIBYTE
LARGEST_NOTE = MEBIBYTE
LARGEST_MANIFEST = MEBIBYTE
AT_ONCE = MEBIBYTE
LONGEST_SHOWN = 20_000
MOST_OF_A_KIND = 20
EXACT = 2**53 - 1
HASH = 32

Record = dict[str, Any]


class WrongError(Exception):
    """What is wrong with the evidence, in words."""


class MisuseError(Exception):
    """Why it can't be read at all."""


# What was found ------------------------------------------------------------------------------------------------------


class Findings:
    """What holds, what could not be checked, and what is wrong; of one kind of wrong the first few."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.unchecked: list[str] = []
        self.wrong: list[str] = []
        self._kinds: dict[str, int] = {}

    def note(self, kind: str, message: str) -> None:
        """Something is wrong."""
        count = self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if count <= MOST_OF_A_KIND:
            self.wrong.append(message)
        elif count == MOST_OF_A_KIND + 1:
            self.wrong.append(f"… and more like this: {kind}")

    def leave(self, message: str) -> None:
        """Something could not be checked."""
        if message not in self.unchecked:
            self.unchecked.append(message)

    def hold(self, message: str, since: int) -> None:
        """Something holds, unless anything was found wrong since then."""
        if len(self.wrong) == since:
            self.held.append(message)

    def attempt(self, kind: str, check: Callable[[], None]) -> None:
        """Make a check that stops at the first thing that is wrong."""
        try:
            check()
        except WrongError as error:
            self.note(kind, str(error))


# Bytes: JSON, hashes, trees (RFC 8785, RFC 6962) ---------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """The one form of a JSON value without fractions, all of whose keys are ASCII."""
    return CANONICAL.encode(value).encode()


def parsed(data: bytes, what: str) -> Any:
    """A value in its canonical form. Raises WrongError for anything else."""
    try:
        value = STRICT.decode(data.decode())
        same = canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise WrongError(f"{what} is no JSON that this format has: {error}") from None
    if not same:
        raise WrongError(f"{what} is not in canonical form: it was changed, or made by something else")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refused(text: str) -> Any:
    raise ValueError(f"{text[:40]} is no number of this format")


CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
STRICT = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_float=_refused, parse_constant=_refused)


def fields(value: Any, names: Mapping[str, type | tuple[type, ...]], what: str) -> dict[str, Any]:
    """An object with exactly these keys, of these types. Raises WrongError for anything else."""
    if type(value) is not dict or set(value) != set(names):
        raise WrongError(f"{what} doesn't have just the keys {', '.join(sorted(names))}")
    for name, kinds in names.items():
        if not isinstance(value[name], kinds) or isinstance(value[name], bool) != (kinds is bool):
            raise WrongError(f"{what} has another kind of value in {name!r}")
    return value


def decoded(text: Any, what: str) -> bytes:
    """The bytes of a base64 text, in the one form that it has. Raises WrongError for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise WrongError(f"{what} is no base64") from None
    if base64.b64encode(data).decode() != text:
        raise WrongError(f"{what} is not in the usual form of base64")
    return data


def digest(text: Any, what: str) -> bytes:
    """A hash of 32 bytes in base64."""
    data = decoded(text, what)
    if len(data) != HASH:
        raise WrongError(f"{what} has {len(data)} bytes, not {HASH}")
    return data


def leaf_of(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def node_of(left: bytes, right: bytes) -> bytes:
    """The hash of a node."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Growing:
    """The root over leaves as they come; keeps the roots of the perfect trees on the left."""

    def __init__(self) -> None:
        self.size = 0
        self._perfect: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        """One more leaf."""
        size = 1
        while self._perfect and self._perfect[-1][0] == size:
            leaf = node_of(self._perfect.pop()[1], leaf)
            size *= 2
        self._perfect.append((size, leaf))
        self.size += 1

    def root(self) -> bytes:
        """The root over those that came."""
        if not self._perfect:
            return hashlib.sha256().digest()
        _, found = self._perfect[-1]
        for _, left in reversed(self._perfect[:-1]):
            found = node_of(left, found)
        return found


def root_by(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that a proof leads to from a leaf (RFC 6962, 2.1.1, as defined there); None: it is too short or long."""
    if not 0 <= index < size:
        return None
    if size == 1:
        return None if proof else leaf
    if not proof:
        return None
    split = 1 << ((size - 1).bit_length() - 1)
    if index < split:
        left = root_by(leaf, index, split, proof[:-1])
        return None if left is None else node_of(left, proof[-1])
    right = root_by(leaf, index - split, size - split, proof[:-1])
    return None if right is None else node_of(proof[-1], right)


# Signed notes (https://c2sp.org/signed-note) -------------------------------------------------------------------------


class Key(NamedTuple):
    """A public key under a name."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """What a signature's line names it by, beside the name."""
        return hashlib.sha256(self.name.encode() + b"\n\x01" + self.public).digest()[:4]

    def has_signed(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature of a message is by this key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def key_of(vkey: str) -> Key:
    """The key that a verifier key states. Raises WrongError when it states none."""
    parts = vkey.strip().split("+", 2)
    if len(parts) != 3 or not parts[0] or not parts[0].isprintable() or " " in parts[0]:
        raise WrongError("a verifier key is written <name>+<8 hex digits>+<base64>")
    data = decoded(parts[2], "the verifier key")
    if len(data) != HASH + 1 or data[:1] != b"\1":
        raise WrongError("the verifier key is no Ed25519 key")
    key = Key(parts[0], data[1:])
    if key.key_id.hex() != parts[1]:
        raise WrongError("the verifier key doesn't have the id that is written in it: a character is wrong")
    return key


class Note(NamedTuple):
    """A text and the signatures below it: name, key id, signature."""

    text: str
    signatures: list[tuple[str, bytes, bytes]]

    def lines(self) -> list[str]:
        """The text's lines."""
        return self.text.split("\n")[:-1]


def note_of(written: str, what: str) -> Note:
    """The note that is written so. Raises WrongError when it is none."""
    text, gap, below = written.partition("\n\n")
    signed = below.split("\n")
    if not gap or not text or signed.pop() or any(ord(one) < 32 and one != "\n" for one in written):
        raise WrongError(f"{what} is no signed note: a text, an empty line, a line for each signature")
    return Note(text + "\n", [_signature(line, what) for line in signed])


def _signature(line: str, what: str) -> tuple[str, bytes, bytes]:
    found = re.fullmatch("— ([^ +]+) ([A-Za-z0-9+/=]+)", line)
    if not found:
        raise WrongError(f"{what} has a line below its text that is no signature")
    data = decoded(found[2], f"the signature of {what}")
    return found[1], data[:4], data[4:]


class Ring:
    """The keys that are believed, and what was signed by which; none when signatures are left unchecked."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = list(keys)
        self.is_open = not self.keys

    def check(self, note: Note, what: str, findings: Findings) -> None:
        """See that a believed key has signed a note."""
        if self.is_open:
            findings.leave(f"who signed {what}: no key was given, so anybody may have made it")
            return
        if not note.signatures:
            findings.note("signature", f"{what} is not signed")
            return
        for name, key_id, signature in note.signatures:
            for key in self.keys:
                if (key.name, key.key_id) == (name, key_id):
                    self._hold(key, signature, note, what, findings)
                    return
        others = ", ".join(f"{name}+{key_id.hex()}" for name, key_id, _ in note.signatures)
        findings.note("signature", f"{what} is signed by another key than yours: {others}")

    def _hold(self, key: Key, signature: bytes, note: Note, what: str, findings: Findings) -> None:
        if key.has_signed(signature, note.text.encode()):
            findings.held.append(f"{what} is signed by {key.name}+{key.key_id.hex()}")
        else:
            findings.note("signature", f"the signature of {what} doesn't fit: its text or its signature was changed")


class Seal(NamedTuple):
    """What a run's seal states."""

    origin: str
    run_id: str
    size: int
    root: bytes
    status: str
    counts: dict[str, int]
    parent: str

    def part(self, table: str) -> range:
        """Where a table's leaves are."""
        before = 0
        for name in TABLES:
            if name == table:
                return range(before, before + self.counts.get(name, 0))
            before += self.counts.get(name, 0)
        return range(0)


def seal_of(note: Note, what: str) -> Seal:
    """What a note states about a run. Raises WrongError when it is no seal."""
    lines = note.lines()
    starts = ("", "", "", "status ", "counts ", "parent ")
    if len(lines) != 6 or not all(line.startswith(start) for line, start in zip(lines, starts, strict=True)):
        raise WrongError(f"{what} is not written as the seal of a run")
    origin, found, run_id = lines[0].partition("/run/")
    counts = parsed(lines[4].removeprefix("counts ").encode(), f"the counts in {what}")
    if not found or not isinstance(counts, dict) or not set(counts) <= set(TABLES):
        raise WrongError(f"{what} is not written as the seal of a run")
    if not all(type(count) is int and count >= 0 for count in counts.values()):
        raise WrongError(f"the counts in {what} are no counts")
    size, root = size_of(lines[1], what), digest(lines[2], f"the root in {what}")
    if sum(counts.values()) != size:
        raise WrongError(f"the counts in {what} add up to {sum(counts.values())}, and not to its size, {size}")
    status, parent = lines[3].removeprefix("status "), lines[5].removeprefix("parent ")
    return Seal(origin, run_id, size, root, status, counts, parent)


class Checkpoint(NamedTuple):
    """What a checkpoint of the log states."""

    origin: str
    size: int
    root: bytes


def checkpoint_of(note: Note, what: str) -> Checkpoint:
    """What a note states about the log. Raises WrongError when it is no checkpoint."""
    lines = note.lines()
    if len(lines) != 3 or not lines[0].endswith("/log"):
        raise WrongError(f"{what} is not written as a checkpoint of a log")
    return Checkpoint(lines[0].removesuffix("/log"), size_of(lines[1], what), digest(lines[2], f"the root in {what}"))


def size_of(text: str, what: str) -> int:
    """The size of a tree in a note."""
    if not re.fullmatch("0|[1-9][0-9]{0,17}", text):
        raise WrongError(f"the size in {what} is no number")
    return int(text)


# The tables of a run: * key, # number, ? may be NULL, @ name of a payload, > what another table holds ----------------

FORMAT = """
runs             run_id* parent_run_id? root_run_id job_name assessments partition_keys config_ref@ package_version
                 code_version dagster_version python_version host started_at# mode
nodes            run_id*>runs node_id* assessment op_name version determinism config_ref@
edges            run_id*>runs from_node*>nodes to_node*>nodes label
rows             row_id* run_id>runs node_id>nodes row_index# row_key partition_key? line#? values_ref@ raw_ref@?
                 scope_id#?
row_rejections   run_id*>runs node_id*>nodes row_index*# partition_key? line#? column_name? reason message raw_ref@
tokens           token_id* run_id>runs kind row_id?>rows
token_parents    token_id*>tokens ordinal*# run_id>runs parent_token_id>tokens
batches          batch_id* run_id>runs node_id>nodes ordinal# token_id>tokens trigger_fired shard
batch_members    batch_id*>batches ordinal*# run_id>runs token_id>tokens
node_states      state_id* run_id>runs node_id>nodes token_id>tokens attempt# step_key retry_number# host pid#
                 started_at#
node_state_ends  state_id*>node_states status detail? error? ended_at#
calls            call_id* run_id>runs state_id>node_states token_id>tokens query_key query_attempt# call_index# cause
                 provider model head_ref@ request_ref@ sent_at# question_hash? idempotency_key? bound_nanousd#?
replies          call_id*>calls outcome error_class? detail? http_status#? headers? body_ref@? model?
                 system_fingerprint? finish_reason? prompt_tokens#? completion_tokens#? cached_tokens#? cost_nanousd#?
                 latency_us#? redacted# received_at#
answers          state_id*>node_states token_id*>tokens query_key* run_id>runs status reason? detail? values_ref@?
                 call_id?>calls decided_at#
token_outcomes   token_id*>tokens run_id>runs outcome state_id?>node_states decided_at#
artifacts        artifact_id* run_id>runs state_id>node_states asset_key partition_key? uri content_hash size#
                 row_count# written_at#
run_ends         run_id*>runs status detail? ended_at#
"""
REF = re.compile("sha256:[0-9a-f]{64}|hmac-sha256:([1-9][0-9]{0,12}):[0-9a-f]{64}")


class Column(NamedTuple):
    """A column of a table."""

    name: str
    is_key: bool
    is_number: bool
    is_optional: bool
    is_payload: bool
    target: str | None

    def fits(self, value: Any) -> bool:
        """Whether a value may stand in it."""
        if value is None:
            return self.is_optional
        if self.is_number:
            return (type(value) is int and abs(value) <= EXACT) or (type(value) is str and _is_large(value))
        return type(value) is str and (not self.is_payload or REF.fullmatch(value) is not None)


def _is_large(text: str) -> bool:
    return re.fullmatch("-?[1-9][0-9]{15,18}", text) is not None and abs(int(text)) > EXACT


def _tables() -> dict[str, list[Column]]:
    tables: dict[str, list[Column]] = {}
    name = ""
    for line in FORMAT.strip().splitlines():
        words = line.split()
        name = name if line.startswith(" ") else words.pop(0)
        tables.setdefault(name, []).extend(map(_column, words))
    return tables


def _column(word: str) -> Column:
    found = re.fullmatch("([a-z_]+)([*#?@]*)(?:>([a-z_]+))?", word)
    if found is None:
        raise AssertionError(word)
    name, marks, target = found.groups()
    return Column(name, "*" in marks, "#" in marks, "?" in marks, "@" in marks, target)


TABLES = _tables()


def checked_record(table: Any, record: Any, what: str) -> Record:
    """A record that has just its table's columns. Raises WrongError for another."""
    if table not in TABLES or type(record) is not dict or set(record) != {column.name for column in TABLES[table]}:
        raise WrongError(f"{what} is no record of a table that this format has, or has other columns")
    for column in TABLES[table]:
        if not column.fits(record[column.name]):
            raise WrongError(f"{what} has a value in {table}.{column.name} that can't stand there")
    return record


def place_of(table: str, record: Record) -> tuple[Any, ...]:
    """What a table's records are ordered by."""
    keys = [column for column in TABLES[table] if column.is_key]
    return tuple(int(record[key.name]) if key.is_number else record[key.name].encode() for key in keys)


def id_of(table: str, record: Record) -> str:
    """What a record is called within its run."""
    names = [column.name for column in TABLES[table] if column.is_key]
    parts = [record[name] for name in names if name != "run_id"]
    return str(record["run_id"]) if not parts else str(parts[0]) if len(parts) == 1 else canonical(parts).decode()


def called(table: str, record: Record) -> str:
    """What a message calls a record."""
    return f"{table} {id_of(table, record)}"


# What was read, where it can be found again: in a temporary file -----------------------------------------------------


class Store:
    """Records and what they refer to, by part: the run itself, and runs whose replies it took."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            """
            PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; PRAGMA temp_store = FILE;
            PRAGMA cache_size = -65536;
            CREATE TABLE record (run, kind, id, body, PRIMARY KEY (run, kind, id)) WITHOUT ROWID;
            CREATE TABLE link (run, kind, name, value, id);
            CREATE TABLE named (ref PRIMARY KEY, by) WITHOUT ROWID;
            CREATE TABLE kept (ref PRIMARY KEY, start, length) WITHOUT ROWID;
            CREATE TABLE scope (id PRIMARY KEY, key, body, is_used) WITHOUT ROWID;
            BEGIN;
            """
        )

    def close(self) -> None:
        """Let go of it."""
        self._database.close()

    def add(self, run: str, table: str, record: Record) -> None:
        """Keep a record. Raises WrongError when its run has one of that name already."""
        name = id_of(table, record)
        if self._ask("INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?)", run, table, name, canonical(record)) == 0:
            raise WrongError(f"{called(table, record)} is there twice")
        links = [(run, table, one.name, record[one.name], name) for one in TABLES[table] if one.target]
        self._database.executemany("INSERT INTO link VALUES (?, ?, ?, ?, ?)", links)
        refs = [(record[one.name], called(table, record)) for one in TABLES[table] if one.is_payload]
        self._database.executemany("INSERT OR IGNORE INTO named VALUES (?, ?)", [ref for ref in refs if ref[0]])

    def _ask(self, statement: str, *values: Any) -> int:
        return self._database.execute(statement, values).rowcount

    def all_read(self) -> None:
        """Make what was read quick to ask."""
        self._database.execute("CREATE INDEX link_by_value ON link (kind, name, value)")
        self._database.execute("CREATE INDEX record_by_id ON record (kind, id)")

    def get(self, run: str, table: str, name: Any) -> Record | None:
        """A record by its name."""
        query = "SELECT body FROM record WHERE run = ? AND kind = ? AND id = ?"
        found = self._database.execute(query, (run, table, name)).fetchone()
        return None if found is None else _object(found[0])

    def all_of(self, run: str, table: str) -> Iterator[Record]:
        """A table's records, by name."""
        query = "SELECT body FROM record WHERE run = ? AND kind = ? ORDER BY id"
        for (body,) in self._database.execute(query, (run, table)):
            yield _object(body)

    def where(self, run: str, table: str, column: str, value: Any) -> list[Record]:
        """A table's records that refer to this, by name."""
        query = (
            "SELECT body FROM link JOIN record USING (run, kind, id) "
            "WHERE run = ? AND kind = ? AND name = ? AND value = ? ORDER BY id"
        )
        return [_object(body) for (body,) in self._database.execute(query, (run, table, column, value))]

    def dangling(self, run: str, table: str, column: Column) -> Iterator[tuple[str, str]]:
        """Records of a table that refer to what is not there: their names, and what they refer to."""
        anywhere = (table, column.name) == ("answers", "call_id")
        there = "r.kind = ? AND r.id = link.value" + ("" if anywhere else " AND r.run = link.run")
        query = (
            "SELECT id, value FROM link WHERE run = ? AND kind = ? AND name = ? AND value IS NOT NULL "
            f"AND NOT EXISTS (SELECT 1 FROM record r WHERE {there})"
        )
        yield from self._database.execute(query, (run, table, column.name, column.target))

    def without(self, run: str, table: str, partner: str) -> Iterator[str]:
        """The names of a table's records for which the other table has none of that name."""
        query = (
            "SELECT id FROM record r WHERE run = ? AND kind = ? "
            "AND NOT EXISTS (SELECT 1 FROM record o WHERE o.run = r.run AND o.kind = ? AND o.id = r.id)"
        )
        yield from (name for (name,) in self._database.execute(query, (run, table, partner)))

    def keep(self, ref: str, start: int | None, length: int) -> None:
        """Keep where a payload is; at no place when it was erased. Raises WrongError when no record names it."""
        if not self._database.execute("SELECT 1 FROM named WHERE ref = ?", (ref,)).fetchone():
            raise WrongError(f"payload {ref} is named by no record: it doesn't belong here")
        if self._ask("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", ref, start, length) == 0:
            raise WrongError(f"payload {ref} is there twice")

    def payload_at(self, ref: str | None) -> tuple[int | None, int] | None:
        """Where a payload is; None when it isn't there."""
        found = self._database.execute("SELECT start, length FROM kept WHERE ref = ?", (ref,)).fetchone()
        return None if found is None else (found[0], found[1])

    def missing(self) -> Iterator[tuple[str, str]]:
        """Payloads that are named and not there, and who names them."""
        yield from self._database.execute("SELECT ref, by FROM named WHERE ref NOT IN (SELECT ref FROM kept)")

    def add_scope(self, number: int, key: bytes, body: Record) -> None:
        """Keep a scope."""
        if self._ask("INSERT OR IGNORE INTO scope VALUES (?, ?, ?, 0)", number, key, canonical(body)) == 0:
            raise WrongError(f"scope {number} is there twice")

    def scope_key(self, number: int) -> bytes | None:
        """A scope's key; empty when it was erased, None when it isn't there."""
        found = self._database.execute("SELECT key FROM scope WHERE id = ?", (number,)).fetchone()
        return None if found is None else bytes(found[0])

    def scope(self, number: int) -> Record | None:
        """A scope, which by that is one that something names."""
        self._ask("UPDATE scope SET is_used = 1 WHERE id = ?", number)
        found = self._database.execute("SELECT body FROM scope WHERE id = ?", (number,)).fetchone()
        return None if found is None else _object(found[0])

    def scopes_named(self) -> Iterator[int]:
        """The scopes of payloads' names."""
        query = "SELECT DISTINCT substr(ref, 13, instr(substr(ref, 13), ':') - 1) FROM named WHERE ref LIKE 'hmac-%'"
        for (number,) in self._database.execute(query).fetchall():
            yield int(number)

    def scopes_unused(self) -> list[int]:
        """The scopes that nothing names."""
        return [number for (number,) in self._database.execute("SELECT id FROM scope WHERE NOT is_used ORDER BY id")]


def _object(body: bytes) -> Record:
    found: Record = json.loads(body)
    return found


Body = Callable[[str | None], bytes | None]


class Evidence(NamedTuple):
    """What was read of a file: the run, the runs that replies were taken from and their seals, the payloads' bytes."""

    store: Store
    run_id: str
    earlier: list[str]
    seals: dict[str, str]
    body: Body
    is_proof: bool


# Payloads ------------------------------------------------------------------------------------------------------------


def check_name(ref: str, data: bytes, store: Store, findings: Findings) -> None:
    """See that some bytes have the name that they are under."""
    keyed = REF.fullmatch(ref)
    if keyed is None:
        raise WrongError(f"{ref[:100]!r} is no payload's name")
    if keyed[1] is None:
        same = ref == "sha256:" + hashlib.sha256(data).hexdigest()
    else:
        key = store.scope_key(int(keyed[1]))
        if key is None:
            raise WrongError(f"the key of scope {keyed[1]} is not there, so payload {ref} can't be held to its name")
        if not key:
            findings.leave(f"the names of payloads of scope {keyed[1]}: its key was erased")
            return
        same = ref == f"hmac-sha256:{keyed[1]}:{hmac.new(key, data, hashlib.sha256).hexdigest()}"
    if not same:
        raise WrongError(f"payload {ref} holds other bytes than its name says: it was changed")


def scope_bytes(text: Any, what: str) -> bytes:
    """A scope's key from its hex digits; empty when it was erased."""
    if not re.fullmatch("(?:[0-9a-f]{64})?", str(text)):
        raise WrongError(f"the naming key of {what} is not 64 hex digits")
    return bytes.fromhex(text)


def erased(count: int, findings: Findings) -> None:
    """Say that bytes are gone."""
    if count:
        findings.leave(f"the bytes of {count} payloads that were erased: their names are still sealed")


# How a run's records hang together -----------------------------------------------------------------------------------


def check_references(evidence: Evidence, findings: Findings) -> None:
    """See that whatever a record refers to is there, and of the same run."""
    for table, columns in TABLES.items():
        for column in columns:
            if column.target is None:
                continue
            for name, value in evidence.store.dangling(evidence.run_id, table, column):
                what = f"{table} {name} refers by {column.name} to {column.target} {value}, which is not there"
                findings.note("reference", what)


def check_ends(evidence: Evidence, findings: Findings, left_out: set[str]) -> None:
    """See that nothing of an ended run is open; ends of states may be left out of a proof."""
    store, run = evidence.store, evidence.run_id
    for token in store.without(run, "tokens", "token_outcomes"):
        findings.note("outcome", f"tokens {token} has no outcome")
    for call in store.without(run, "calls", "replies"):
        findings.note("reply", f"calls {call} has no reply, not even an unknown one")
    for state in store.without(run, "node_states", "node_state_ends"):
        if "node_state_ends" in left_out:
            findings.leave(f"how state {state} ended: an end with an error in words is left out of a proof")
        else:
            findings.note("end", f"node_states {state} has no end")
    for row in store.all_of(run, "rows"):
        tokens = store.where(run, "tokens", "row_id", row["row_id"])
        if len(tokens) != 1 or tokens[0]["kind"] != "row":
            findings.note("token", f"{called('rows', row)} has {len(tokens)} tokens, not one of kind row")


def check_answers(evidence: Evidence, findings: Findings) -> None:
    """See that each accepted answer comes from a reply that came, about the same row."""
    for answer in evidence.store.all_of(evidence.run_id, "answers"):
        if answer["status"] != "accepted":
            continue
        what = called("answers", answer)
        run, call = call_of(evidence, answer["call_id"])
        if call is None:
            findings.note("answer", f"{what} is accepted, and the call that it comes from is not there")
            continue
        reply = evidence.store.get(run, "replies", call["call_id"])
        if reply is None or reply["outcome"] != "success":
            findings.note("answer", f"{what} is accepted, and its call {call['call_id']} has no reply of success")
        if row_key_of(evidence, run, call["token_id"]) != row_key_of(evidence, evidence.run_id, answer["token_id"]):
            findings.note("answer", f"{what} comes from call {call['call_id']}, which is about another row")


def check_tries(evidence: Evidence, findings: Findings) -> None:
    """See that the calls for a question of a row in a state are counted from 1 without a gap."""
    counted: dict[tuple[str, str, str], list[int]] = {}
    for call in evidence.store.all_of(evidence.run_id, "calls"):
        asked = (call["state_id"], call["token_id"], call["query_key"])
        counted.setdefault(asked, []).append(int(call["query_attempt"]))
    for (state, _, question), tries in counted.items():
        if sorted(tries) != list(range(1, len(tries) + 1)):
            found = f"there are tries {sorted(tries)}"
            findings.note("tries", f"calls for {question!r} in state {state} were left out: {found}")


def call_of(evidence: Evidence, call_id: str | None) -> tuple[str, Record | None]:
    """A call of the run, or of one that replies were taken from, with that run's id."""
    for run in [evidence.run_id, *evidence.earlier]:
        if (found := evidence.store.get(run, "calls", call_id)) is not None:
            return run, found
    return evidence.run_id, None


def row_key_of(evidence: Evidence, run: str, token_id: str) -> str | None:
    """The key of the row that a token is of."""
    token = evidence.store.get(run, "tokens", token_id)
    row = evidence.store.get(run, "rows", token["row_id"]) if token else None
    return None if row is None else str(row["row_key"])


# The log -------------------------------------------------------------------------------------------------------------


def entry_of(text: str, index: int) -> Record:
    """An entry of the log. Raises WrongError when it is none, or not the one that belongs here."""
    entry = parsed(text.encode("utf-8", "surrogatepass"), f"entry {index} of the log")
    if not isinstance(entry, dict) or entry.get("index") != index or type(entry.get("kind")) is not str:
        raise WrongError(f"entry {index} of the log is none, or belongs to another place")
    return entry


class Registered:
    """What the log says of the runs that matter here."""

    def __init__(self, runs: Iterable[str]) -> None:
        self.starts: dict[str, list[Record]] = {run: [] for run in runs}
        self.seals: dict[str, list[Record]] = {run: [] for run in self.starts}

    def take(self, entry: Record) -> None:
        """Note an entry, if it is of one of these runs."""
        of_kind = {"run_start": self.starts, "run_seal": self.seals}.get(entry["kind"], {})
        if entry.get("run_id") in of_kind:
            of_kind[entry["run_id"]].append(entry)

    def check(self, seal: Seal, note: str, run: Record | None, findings: Findings) -> None:
        """See that the log has this run's start and seal, once, and that they say the same as the file."""
        starts, seals = self.starts[seal.run_id], self.seals[seal.run_id]
        if len(seals) != 1 or len(starts) > 1:
            findings.note("log", f"the log has {len(starts)} starts and {len(seals)} seals of run {seal.run_id}")
            return
        said = {
            "size": seal.size,
            "root": base64.b64encode(seal.root).decode(),
            "status": seal.status,
            "note_sha256": hashlib.sha256(note.encode()).hexdigest(),
        }
        _compare(seals[0], said, f"the log's seal of run {seal.run_id}", findings)
        if not starts:
            findings.leave(f"when run {seal.run_id} was begun: the log has no start of it")
        elif run is not None:
            said = {name: run[name] for name in ("run_id", "root_run_id", "parent_run_id")}
            said["config"] = run["config_ref"]
            _compare(starts[0], said, f"the log's start of run {seal.run_id}", findings)


def _compare(entry: Record, said: Record, what: str, findings: Findings) -> None:
    for name, value in said.items():
        if entry.get(name) != value:
            findings.note("log", f"{what} says another {name} than the file: it is about something else, or older")


# A proof -------------------------------------------------------------------------------------------------------------

PROOF_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": str, "run_id": str, "assessment": str, "row_key": str, "note": str, "records": list, "payloads": list,
    "scope_keys": dict, "earlier": list, "log": (dict, type(None)),
}  # fmt: skip
RECORD_FIELDS: dict[str, type | tuple[type, ...]] = {
    "table": str, "record": dict, "index": (int, type(None)), "proof": list
}  # fmt: skip


def check_proof(document: Any, ring: Ring, findings: Findings) -> Evidence:
    """Check a proof. Raises WrongError when it is so wrong that nothing more can be said."""
    proof = fields(document, PROOF_FIELDS, "the proof")
    store = Store()
    bodies: dict[str, bytes | None] = {}
    evidence = Evidence(store, proof["run_id"], [], {}, lambda ref: bodies.get(ref or ""), is_proof=True)
    note = note_of(proof["note"], "the seal")
    seal = seal_of(note, "the seal")
    _believe_rotations(proof["log"], seal.origin, ring, findings)
    ring.check(note, "the seal", findings)
    if seal.run_id != proof["run_id"]:
        raise WrongError(f"the seal is of run {seal.run_id}, and the proof says run {proof['run_id']}")
    _take_records(proof["records"], seal, evidence.run_id, "records", store, findings)
    _take_earlier(proof["earlier"], ring, evidence, findings)
    store.all_read()
    _take_scopes(proof["scope_keys"], evidence, findings)
    _take_payloads(proof["payloads"], bodies, store, findings)
    since = len(findings.wrong)
    check_about(evidence, proof["row_key"], proof["assessment"], findings)
    check_references(evidence, findings)
    check_ends(evidence, findings, {"node_state_ends"})
    check_answers(evidence, findings)
    check_tries(evidence, findings)
    _check_run_end(evidence, seal, findings)
    findings.hold("the records hang together: row, token, batch, states, calls, replies, answers, outcome", since)
    _check_log_of_proof(proof, ring, evidence, findings)
    findings.leave("whether a last call of a question was left out of the file: only an export shows that")
    return evidence


def _take_records(given: list[Any], seal: Seal | None, run: str, what: str, store: Store, findings: Findings) -> None:
    """See that each record is under the seal, at its place; without a seal only keep them."""
    since, indexes, last = len(findings.wrong), set(), -1
    for number, one in enumerate(given):
        name = f"{what}[{number}]"
        try:
            fields(one, RECORD_FIELDS, name)
            record = checked_record(one["table"], one["record"], name)
            name = f"{name}, {called(one['table'], record)},"
            if record.get("run_id", run) != run:
                raise WrongError(f"{name} is of another run, {record['run_id']}")
            if seal is not None:
                _check_inclusion(one, record, seal, name)
                if one["index"] <= last:
                    raise WrongError(f"{name} is out of order, or there twice")
                last = one["index"]
                indexes.add(last)
            store.add(run, one["table"], record)
        except WrongError as error:
            findings.note("record", str(error))
    if seal is not None:
        findings.hold(f"{len(indexes)} records are among the {seal.size} that the seal of run {run} is over", since)


def _check_inclusion(one: Record, record: Record, seal: Seal, name: str) -> None:
    table, index = one["table"], one["index"]
    if index is None or index not in seal.part(table):
        raise WrongError(f"{name} says to be leaf {index}, where the sealed tree has no {table}")
    proof = [digest(text, f"the proof of {name}") for text in one["proof"]]
    if root_by(leaf_of(canonical([table, record])), index, seal.size, proof) != seal.root:
        raise WrongError(
            f"{name} is not what was sealed: its proof doesn't lead to the root. "
            "The record, its place or its proof was changed, cut or taken from elsewhere"
        )


def _take_earlier(given: list[Any], ring: Ring, evidence: Evidence, findings: Findings) -> None:
    for number, part in enumerate(given):
        name = f"earlier[{number}]"
        fields(part, {"run_id": str, "note": str, "records": list}, name)
        run = part["run_id"]
        if run in [evidence.run_id, *evidence.earlier]:
            raise WrongError(f"{name} is of run {run}, which is there already")
        evidence.earlier.append(run)
        seal = _seal_of_earlier(run, part["note"], ring, evidence, findings)
        _take_records(part["records"], seal, run, f"{name}.records", evidence.store, findings)


def _seal_of_earlier(run: str, note: str, ring: Ring, evidence: Evidence, findings: Findings) -> Seal | None:
    if not note:
        findings.leave(f"the records of run {run}, from which replies were taken: that run has no seal")
        return None
    read = note_of(note, f"the seal of run {run}")
    ring.check(read, f"the seal of run {run}", findings)
    seal = seal_of(read, f"the seal of run {run}")
    if seal.run_id != run:
        raise WrongError(f"the seal of an earlier run is of run {seal.run_id}, and not of {run}")
    evidence.seals[run] = note
    return seal


def _take_scopes(given: Record, evidence: Evidence, findings: Findings) -> None:
    store = evidence.store
    for written, key in given.items():
        if not re.fullmatch("[1-9][0-9]{0,12}", written):
            raise WrongError(f"{written!r} is no scope")
        store.add_scope(int(written), scope_bytes(key, f"scope {written}"), {})
    own = {row["scope_id"] for run in [evidence.run_id, *evidence.earlier] for row in store.all_of(run, "rows")}
    for number in [*store.scopes_named(), *(each for each in own if each is not None)]:
        store.scope(int(number))
    for number in store.scopes_unused():
        findings.note("scope", f"the key of scope {number} is in the file, which is not about this row")


def _take_payloads(given: list[Any], bodies: dict[str, bytes | None], store: Store, findings: Findings) -> None:
    since = len(findings.wrong)
    for number, one in enumerate(given):
        try:
            _take_payload(one, f"payloads[{number}]", bodies, store, findings)
        except WrongError as error:
            findings.note("payload", str(error))
    for ref, by in store.missing():
        findings.note("payload", f"payload {ref} of {by} is not in the file")
    gone = sum(data is None for data in bodies.values())
    findings.hold(f"{len(bodies) - gone} payloads have the names that the records give them", since)
    erased(gone, findings)


def _take_payload(one: Any, what: str, bodies: dict[str, bytes | None], store: Store, findings: Findings) -> None:
    if type(one) is dict and set(one) == {"ref", "erased"} and one["erased"] is True and type(one["ref"]) is str:
        store.keep(one["ref"], None, 0)
        bodies[one["ref"]] = None
        return
    fields(one, {"ref": str, "base64": str}, what)
    data = decoded(one["base64"], f"{what}, {one['ref'][:100]},")
    check_name(one["ref"], data, store, findings)
    store.keep(one["ref"], 0, len(data))
    bodies[one["ref"]] = data


def check_about(evidence: Evidence, row_key: str, assessment: str, findings: Findings) -> None:
    """See that all records are about the one row, and whether it is the one that the proof says."""
    store, run = evidence.store, evidence.run_id
    rows = list(store.all_of(run, "rows"))
    if len(rows) != 1 or rows[0]["row_key"] != row_key:
        keys = ", ".join(repr(row["row_key"]) for row in rows) or "none"
        findings.note("row", f"the proof says to be about row {row_key!r}, and holds other rows: {keys}")
        return
    node = store.get(run, "nodes", rows[0]["node_id"])
    if node is None or node["assessment"] != assessment:
        findings.note("row", f"row {row_key!r} is not of assessment {assessment!r}")
    for table, record in _strangers(evidence, rows[0], assessment):
        findings.note("row", f"{called(table, record)} is not about row {row_key!r}: it was put into the proof")
    for earlier in evidence.earlier:
        for table, record in _strangers_earlier(evidence, earlier, row_key):
            what = f"{called(table, record)} of run {earlier}"
            findings.note("row", f"{what} tells of no reply about row {row_key!r}: it was put into the proof")


def _strangers(evidence: Evidence, row: Record, assessment: str) -> Iterator[tuple[str, Record]]:
    """The records that have no place in a proof about this row."""
    store, run = evidence.store, evidence.run_id
    own = {token["token_id"] for token in store.where(run, "tokens", "row_id", row["row_id"])}
    members = [one for one in store.all_of(run, "batch_members") if one["token_id"] in own]
    batches = {one["batch_id"] for one in members}
    holding = {one["token_id"] for one in store.all_of(run, "batches") if one["batch_id"] in batches}
    slices = {one["token_id"] for one in store.all_of(run, "tokens") if one["kind"] == "slice"}
    belongs: dict[str, Callable[[Record], bool]] = {
        "nodes": lambda one: one["assessment"] == assessment,
        "row_rejections": lambda one: False,
        "tokens": lambda one: one["token_id"] in own | holding | slices,
        "token_parents": lambda one: one["token_id"] in holding and one["parent_token_id"] in own,
        "batches": lambda one: one["batch_id"] in batches,
        "batch_members": lambda one: one["token_id"] in own,
        "node_states": lambda one: one["token_id"] in own | holding | slices,
        "calls": lambda one: one["token_id"] in own,
        "answers": lambda one: one["token_id"] in own,
        "token_outcomes": lambda one: one["token_id"] in own | holding | slices,
    }
    for table, is_about in belongs.items():
        yield from ((table, record) for record in store.all_of(run, table) if not is_about(record))
    if len(slices) > 1:
        yield from (("tokens", one) for one in store.all_of(run, "tokens") if one["token_id"] in slices)


def _strangers_earlier(evidence: Evidence, run: str, row_key: str) -> Iterator[tuple[str, Record]]:
    """The records of an earlier run that tell of no reply that was taken from there."""
    store = evidence.store
    taken = {answer["call_id"] for answer in store.all_of(evidence.run_id, "answers")}
    calls = [call for call in store.all_of(run, "calls") if call["call_id"] in taken]
    states = {call["state_id"] for call in calls}
    tokens = {call["token_id"] for call in calls}
    rows = {one["row_id"] for one in store.all_of(run, "tokens") if one["token_id"] in tokens}
    about = [*store.all_of(run, "node_states"), *store.all_of(run, "rows")]
    nodes = {one["node_id"] for one in about if one.get("state_id") in states or one.get("row_id") in rows}
    belongs: dict[str, Callable[[Record], bool]] = {
        "runs": lambda one: True,
        "nodes": lambda one: one["node_id"] in nodes,
        "rows": lambda one: one["row_id"] in rows and one["row_key"] == row_key,
        "tokens": lambda one: one["token_id"] in tokens,
        "node_states": lambda one: one["state_id"] in states,
        "calls": lambda one: one["call_id"] in taken,
        "replies": lambda one: one["call_id"] in taken,
    }
    for table in TABLES:
        is_about = belongs.get(table)
        for record in store.all_of(run, table):
            if is_about is None or not is_about(record):
                yield table, record


def _check_run_end(evidence: Evidence, seal: Seal, findings: Findings) -> None:
    end = evidence.store.get(evidence.run_id, "run_ends", evidence.run_id)
    if end is not None and end["status"] != seal.status:
        findings.note("end", f"the run ended as {end['status']}, and the seal says {seal.status}")
    run = evidence.store.get(evidence.run_id, "runs", evidence.run_id)
    parent = seal.parent.rpartition(" ")[0] if seal.parent != "-" else None
    if run is None:
        findings.note("run", f"the record of run {evidence.run_id} is not in the file")
    elif parent is not None and run["parent_run_id"] != parent:
        findings.note("run", f"the seal names {parent} as parent, and the record {run['parent_run_id']}")


LOG_FIELDS: dict[str, type | tuple[type, ...]] = {"checkpoint": str, "entries": list}
ENTRY_FIELDS: dict[str, type | tuple[type, ...]] = {"entry": str, "index": int, "proof": list}


def _check_log_of_proof(proof: Record, ring: Ring, evidence: Evidence, findings: Findings) -> None:
    if proof["log"] is None:
        findings.leave("whether the seal is in the installation's log: no checkpoint of it covers the seal yet")
        return
    since = len(findings.wrong)
    log = fields(proof["log"], LOG_FIELDS, "the proof's log")
    note = note_of(log["checkpoint"], "the log's checkpoint")
    ring.check(note, "the log's checkpoint", findings)
    checkpoint = checkpoint_of(note, "the log's checkpoint")
    sealed = {evidence.run_id: proof["note"], **evidence.seals}
    registered = Registered(sealed)
    for number, one in enumerate(log["entries"]):
        try:
            registered.take(_proven(one, number, checkpoint))
        except WrongError as error:
            findings.note("log", str(error))
    for run, written in sealed.items():
        check_origin(seal_of(note_of(written, "a seal"), "a seal"), checkpoint, findings)
        _check_registered(registered, run, written, evidence, findings)
    findings.hold(f"the seal is in the log, which had {checkpoint.size} entries at its checkpoint", since)


def _proven(one: Any, number: int, checkpoint: Checkpoint) -> Record:
    name = f"log.entries[{number}]"
    fields(one, ENTRY_FIELDS, name)
    entry = entry_of(one["entry"], one["index"])
    if one["index"] >= checkpoint.size:
        raise WrongError(
            f"{name} is entry {one['index']}, and the checkpoint is of a log of {checkpoint.size}: it is older"
        )
    proof = [digest(text, f"the proof of {name}") for text in one["proof"]]
    if root_by(leaf_of(one["entry"].encode()), one["index"], checkpoint.size, proof) != checkpoint.root:
        raise WrongError(f"{name}, a {entry['kind']}, is not in the log of the checkpoint")
    return entry


def check_origin(seal: Seal, checkpoint: Checkpoint, findings: Findings) -> None:
    """See that a seal and a checkpoint are of one installation."""
    if seal.origin != checkpoint.origin:
        findings.note("log", f"the seal is of {seal.origin}, and the log of {checkpoint.origin}")


def _believe_rotations(log: Any, origin: str, ring: Ring, findings: Findings) -> None:
    for one in log["entries"] if isinstance(log, dict) and isinstance(log.get("entries"), list) else []:
        if isinstance(one, dict) and isinstance(one.get("entry"), str) and type(one.get("index")) is int:
            believe_rotation(one["entry"], one["index"], origin, ring, findings)


def believe_rotation(text: str, index: int, origin: str, ring: Ring, findings: Findings) -> None:
    """Believe the key that follows a believed one, as that one has signed."""
    if ring.is_open or '"key_rotation"' not in text:
        return
    try:
        entry = entry_of(text, index)
        old, new = key_of(str(entry.get("old"))), key_of(str(entry.get("new")))
        signature = decoded(entry.get("signature"), f"the signature of entry {index} of the log")
    except WrongError as error:
        findings.note("key", str(error))
        return
    if old not in ring.keys or entry["kind"] != "key_rotation":
        return
    if old.has_signed(signature, rotation_text(entry, origin)):
        ring.keys.append(new)
        findings.held.append(
            f"key {new.name}+{new.key_id.hex()} follows yours, which has signed that: log entry {index}"
        )
    else:
        findings.note("key", f"entry {index} of the log says that another key follows, and yours has not signed that")


def rotation_text(entry: Record, origin: str) -> bytes:
    """What the old key signs when another one follows it."""
    return canonical({"kind": "key_rotation", "new": entry["new"], "old": entry["old"], "origin": origin})


# An export: a folder, or a zip that holds nothing but the files ------------------------------------------------------

LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
RECORDS = {f"records/{table}.jsonl": table for table in TABLES}
FILES = {*RECORDS, "payloads.jsonl", "scopes.jsonl", "earlier.jsonl", "seal.note", "log.jsonl", "checkpoint.note"}
MANIFEST = "manifest.json"


class Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = path.open("rb")
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class Box:
    """The files of an export, wherever they are: for each the file that holds it, where it starts and its size."""

    def __init__(self, places: dict[str, tuple[Path, int, int]]) -> None:
        self.places = places

    def open(self, name: str) -> IO[bytes]:
        """A file's bytes."""
        return io.BufferedReader(Window(*self.places[name]), 1 << 16)

    def read(self, name: str, most: int) -> bytes:
        """All of a small file. Raises WrongError when it is large or not there."""
        if name not in self.places or self.places[name][2] > most:
            raise WrongError(f"{name} is not in the export, or has more than {most} bytes")
        with self.open(name) as file:
            return file.read(most)

    def lines(self, name: str) -> Iterator[tuple[int, bytes]]:
        """A file's lines, each with the place where it starts. Raises WrongError for one cut off or too long."""
        at = 0
        with self.open(name) as file:
            while line := file.readline(LARGEST_LINE):
                if not line.endswith(b"\n"):
                    raise WrongError(f"{name} has a line that is cut off, or longer than {LARGEST_LINE} bytes")
                yield at, line[:-1]
                at += len(line)


def folder_box(folder: Path) -> Box:
    """The files of a folder. Raises WrongError for anything in it that is no plain file of an export."""
    places = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or name == "records"):
            raise WrongError(f"{name!r} is no plain file")
        if path.is_file():
            places[name] = (path, 0, path.stat().st_size)
    return Box(places)


def zip_box(path: Path) -> Box:
    """The files of a zip. Raises WrongError for one that has anything which the files don't determine."""
    places: dict[str, tuple[Path, int, int]] = {}
    with path.open("rb") as file:
        central, entries, at = b"", 0, 0
        while (head := file.read(30))[:4] == LOCAL:
            name, crc, size = _local(head, file)
            start = file.tell()
            if name in places or entries > len(FILES):
                raise WrongError("the zip has files that an export doesn't have, or one twice")
            if _crc(file, size) != crc:
                raise WrongError(f"{name!r} in the zip is damaged: it doesn't have the checksum that the zip says")
            central += _central(name, crc, size, at)
            places[name], entries, at = (path, start, size), entries + 1, start + size
        rest = head + file.read(len(central) + MEBIBYTE)
    end = END + struct.pack("<HHHHIIH", 0, 0, entries, entries, len(central), at, 0)
    if rest != central + end:
        raise WrongError(f"the zip's list of its files, after byte {at}, was changed, or another tool packed it")
    return Box(places)


def _local(head: bytes, file: IO[bytes]) -> tuple[str, int, int]:
    if len(head) != 30:
        raise WrongError("the zip is cut off")
    crc, size, _, length = struct.unpack("<IIIH", head[14:28])
    name = file.read(length)
    if head != LOCAL + struct.pack("<HHHHHIIIHH", 20, 0x0800, 0, 0, 0x0021, crc, size, size, len(name), 0):
        raise WrongError(
            f"the zip's head of {name[:80]!r} was changed, or another tool packed it: unpack it, check the folder"
        )
    return name.decode("utf-8", "replace"), crc, size


def _central(name: str, crc: int, size: int, at: int) -> bytes:
    numbers = (0x0314, 20, 0x0800, 0, 0, 0x0021, crc, size, size, len(name.encode()), 0, 0, 0, 0, 0x81A40000, at)
    return CENTRAL + struct.pack("<HHHHHHIIIHHHHHII", *numbers) + name.encode()


def _crc(file: IO[bytes], size: int) -> int:
    crc = 0
    while size > 0:
        data = file.read(min(AT_ONCE, size))
        if not data:
            raise WrongError("the zip is cut off")
        crc, size = zlib.crc32(data, crc), size - len(data)
    return crc


MANIFEST_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": str, "run_id": str, "tree_size": int, "root": str, "counts": dict, "files": dict
}  # fmt: skip


def check_export(box: Box, ring: Ring, held: Checkpoint | None, findings: Findings) -> Evidence:
    """Check an export. Raises WrongError when it is so wrong that nothing more can be said."""
    manifest = fields(parsed(box.read(MANIFEST, LARGEST_MANIFEST), MANIFEST), MANIFEST_FIELDS, MANIFEST)
    if manifest["format"] != EXPORT:
        raise WrongError(f"the manifest says another format than {EXPORT}")
    _check_files(box, manifest["files"], findings)
    written = text_of(box, "seal.note")
    note = note_of(written, "the seal")
    seal = seal_of(note, "the seal")
    believe_all_rotations(box, seal.origin, ring, findings)
    ring.check(note, "the seal", findings)
    said = (manifest["run_id"], manifest["tree_size"], manifest["root"], manifest["counts"])
    if said != (seal.run_id, seal.size, base64.b64encode(seal.root).decode(), seal.counts):
        findings.note("manifest", "the manifest says another run, size, root or counts than the seal")
    store = Store()
    evidence = Evidence(store, seal.run_id, [], {}, lambda ref: _body_in(box, store, ref), is_proof=False)
    _take_tables(box, seal, store, findings)
    _take_earlier_lines(box, ring, evidence, findings)
    store.all_read()
    _take_scope_lines(box, evidence, findings)
    _take_payload_lines(box, store, findings)
    since = len(findings.wrong)
    check_references(evidence, findings)
    check_ends(evidence, findings, set())
    check_answers(evidence, findings)
    _check_run_end(evidence, seal, findings)
    findings.hold("the records hang together: every reference leads to a record, nothing of the run is open", since)
    findings.attempt("log", lambda: _check_log(box, ring, written, seal, evidence, held, findings))
    return evidence


def _check_files(box: Box, listed: Record, findings: Findings) -> None:
    since = len(findings.wrong)
    for name in sorted({*box.places, *listed, *FILES} - {MANIFEST}):
        if name not in FILES or name not in listed:
            findings.note("file", f"{name!r} is a file that an export, or its manifest, doesn't have")
        elif name not in box.places:
            findings.note("file", f"{name} is not in the export")
        else:
            entry = fields(listed[name], {"size": int, "sha256": str}, f"the manifest's line on {name}")
            if (box.places[name][2], _sha256_of(box, name)) != (entry["size"], entry["sha256"]):
                findings.note("file", f"{name} is not the file that the manifest lists: it was changed or cut")
    if missing := FILES - set(box.places):
        raise WrongError(f"the export is not whole: {', '.join(sorted(missing))}")
    findings.hold(f"the {len(FILES)} files are those of the manifest", since)


def _sha256_of(box: Box, name: str) -> str:
    hashing = hashlib.sha256()
    with box.open(name) as file:
        while data := file.read(AT_ONCE):
            hashing.update(data)
    return "sha256:" + hashing.hexdigest()


def text_of(box: Box, name: str) -> str:
    """A note's text."""
    try:
        return box.read(name, LARGEST_NOTE).decode()
    except UnicodeDecodeError:
        raise WrongError(f"{name} is no UTF-8") from None


def _body_in(box: Box, store: Store, ref: str | None) -> bytes | None:
    place = store.payload_at(ref)
    if place is None or place[0] is None:
        return None
    with box.open("payloads.jsonl") as file:
        file.seek(place[0])
        return base64.b64decode(json.loads(file.read(place[1]))["base64"])


def _take_tables(box: Box, seal: Seal, store: Store, findings: Findings) -> None:
    tree = Growing()
    for name, table in RECORDS.items():
        before = tree.size
        try:
            _take_table(box, name, table, seal, tree, store)
        except WrongError as error:
            findings.note("record", str(error))
        if tree.size - before != seal.counts.get(table, 0):
            counted = f"{tree.size - before}, and {seal.counts.get(table, 0)} were sealed"
            findings.note("count", f"the export has another number of {table} than was sealed: {counted}")
    if (tree.size, tree.root()) == (seal.size, seal.root):
        findings.held.append(f"the {seal.size} records are those that were sealed: none changed, left out or added")
    else:
        findings.note("root", "the records are not those that were sealed: they have another root")


def _take_table(box: Box, name: str, table: str, seal: Seal, tree: Growing, store: Store) -> None:
    last: tuple[Any, ...] = ()
    for number, (_, line) in enumerate(box.lines(name), 1):
        what = f"line {number} of {name}"
        tree.add(leaf_of(line))
        value = parsed(line, what)
        if type(value) is not list or len(value) != 2 or value[0] != table:
            raise WrongError(f"{what} is no record of {table}")
        record = checked_record(table, value[1], what)
        if record.get("run_id", seal.run_id) != seal.run_id:
            raise WrongError(f"{what} is of another run, {record['run_id']}")
        if (place := place_of(table, record)) <= last:
            raise WrongError(f"{what} is out of order")
        last = place
        store.add(seal.run_id, table, record)


def _take_earlier_lines(box: Box, ring: Ring, evidence: Evidence, findings: Findings) -> None:
    seal: Seal | None = None
    given: list[Any] = []
    for number, (_, line) in enumerate(box.lines("earlier.jsonl"), 1):
        what = f"line {number} of earlier.jsonl"
        value = parsed(line, what)
        if type(value) is dict and set(value) == {"note", "run_id"}:
            _end_of_part(given, seal, evidence, findings)
            fields(value, {"note": str, "run_id": str}, what)
            if value["run_id"] <= max([*evidence.earlier, ""]) or value["run_id"] == evidence.run_id:
                raise WrongError(f"{what} is of a run out of order")
            seal = _seal_of_earlier(value["run_id"], value["note"], ring, evidence, findings)
            evidence.earlier.append(value["run_id"])
        elif not evidence.earlier or type(value) is not dict or value.pop("run_id", None) != evidence.earlier[-1]:
            raise WrongError(f"{what} is of another run than what stands above it")
        else:
            given.append(value)
            if len(given) >= AT_ONCE >> 10:
                _end_of_part(given, seal, evidence, findings)
    _end_of_part(given, seal, evidence, findings)


def _end_of_part(given: list[Any], seal: Seal | None, evidence: Evidence, findings: Findings) -> None:
    if given:
        run = evidence.earlier[-1]
        _take_records(given, seal, run, f"records of run {run} in earlier.jsonl", evidence.store, findings)
        given.clear()


SCOPE_FIELDS: dict[str, type | tuple[type, ...]] = {
    "assessment": str, "kind": str, "naming_key": str, "scope_id": int, "subject": str
}  # fmt: skip


def _take_scope_lines(box: Box, evidence: Evidence, findings: Findings) -> None:
    since, last, count, store = len(findings.wrong), 0, 0, evidence.store
    for number, (_, line) in enumerate(box.lines("scopes.jsonl"), 1):
        what = f"line {number} of scopes.jsonl"
        scope = fields(parsed(line, what), SCOPE_FIELDS, what)
        if scope["scope_id"] <= last or scope["kind"] not in ("row", "run"):
            raise WrongError(f"{what} is no scope, or out of order")
        last, count = scope["scope_id"], count + 1
        store.add_scope(last, scope_bytes(scope["naming_key"], f"scope {last}"), scope)
    for run in [evidence.run_id, *evidence.earlier]:
        for row in store.all_of(run, "rows"):
            _check_scope(store, run, row, findings)
    _check_other_scopes(evidence, findings)
    findings.hold(f"the {count} scopes are those of these rows", since)


def _check_scope(store: Store, run: str, row: Record, findings: Findings) -> None:
    if row["scope_id"] is None:
        return
    scope = store.scope(int(row["scope_id"]))
    node = store.get(run, "nodes", row["node_id"])
    if scope is None:
        findings.note("scope", f"scope {row['scope_id']} of {called('rows', row)} is not in the export")
    elif (scope["kind"], scope["subject"]) != ("row", row["row_key"]) or (
        node is not None and scope["assessment"] != node["assessment"]
    ):
        findings.note("scope", f"scope {row['scope_id']} is of another row than {called('rows', row)}, which names it")


def _check_other_scopes(evidence: Evidence, findings: Findings) -> None:
    """Those that only names of payloads tell of: of what became no row, and of rows that were erased and came again."""
    store = evidence.store
    assessments = {node["assessment"] for node in store.all_of(evidence.run_id, "nodes")}
    for number in store.scopes_named():
        scope = store.scope(number)
        if scope is None:
            findings.note("scope", f"scope {number}, which payloads' names name, is not in the export")
        elif scope["assessment"] not in assessments or (
            scope["kind"] == "run" and scope["subject"] not in [evidence.run_id, *evidence.earlier]
        ):
            findings.note("scope", f"scope {number} is of another assessment or run")
    for number in store.scopes_unused():
        findings.note("scope", f"scope {number} is named by nothing in the export")


def _take_payload_lines(box: Box, store: Store, findings: Findings) -> None:
    since, last, count, gone = len(findings.wrong), b"", 0, 0
    for number, (at, line) in enumerate(box.lines("payloads.jsonl"), 1):
        what = f"line {number} of payloads.jsonl"
        try:
            ref, size, data = _payload_in(parsed(line, what), what)
            if stored_name(ref) <= last:
                raise WrongError(f"{what} is out of order")
            last = stored_name(ref)
            if data is not None:
                check_name(ref, data, store, findings)
                if size != len(data):
                    raise WrongError(f"payload {ref} has another size than {what} says")
            store.keep(ref, None if data is None else at, len(line))
            count, gone = count + (data is not None), gone + (data is None)
        except WrongError as error:
            findings.note("payload", str(error))
    for ref, by in store.missing():
        findings.note("payload", f"payload {ref} of {by} is not in the export")
    findings.hold(f"{count} payloads have the names that the records give them", since)
    erased(gone, findings)


def _payload_in(value: Any, what: str) -> tuple[str, int, bytes | None]:
    if type(value) is dict and "erased" in value:
        fields(value, {"erased": bool, "ref": str, "size": int}, what)
        if value["erased"] is not True or value["size"] < 1:
            raise WrongError(f"{what} is no payload")
        return value["ref"], value["size"], None
    fields(value, {"base64": str, "ref": str, "size": int}, what)
    return value["ref"], value["size"], decoded(value["base64"], what)


def stored_name(ref: str) -> bytes:
    """What payloads are ordered by."""
    found = REF.fullmatch(ref)
    if found is None or (found[1] and int(found[1]) >= 1 << 40):
        raise WrongError(f"{ref[:100]!r} is no payload's name")
    scope = b"" if found[1] is None else int(found[1]).to_bytes(5, "big")
    return scope + bytes.fromhex(ref[-64:])


def believe_all_rotations(box: Box, origin: str, ring: Ring, findings: Findings) -> None:
    """Believe the keys that followed, by the log."""
    for index, (_, line) in enumerate(box.lines("log.jsonl")):
        believe_rotation(line.decode("utf-8", "replace"), index, origin, ring, findings)


def _check_log(
    box: Box, ring: Ring, written: str, seal: Seal, evidence: Evidence, held: Checkpoint | None, findings: Findings
) -> None:
    since = len(findings.wrong)
    if not (text := text_of(box, "checkpoint.note")):
        if box.places["log.jsonl"][2]:
            raise WrongError("the export has entries of the log and no checkpoint")
        findings.leave("whether the seal is in the installation's log: no checkpoint of it covers the seal yet")
        return
    note = note_of(text, "the log's checkpoint")
    ring.check(note, "the log's checkpoint", findings)
    checkpoint = checkpoint_of(note, "the log's checkpoint")
    check_origin(seal, checkpoint, findings)
    tree, registered = Growing(), Registered([seal.run_id, *evidence.seals])
    for index, (_, line) in enumerate(box.lines("log.jsonl")):
        if held is not None and tree.size == held.size:
            _check_held(tree, held, checkpoint, findings)
        registered.take(entry_of(line.decode("utf-8", "replace"), index))
        tree.add(leaf_of(line))
    if (tree.size, tree.root()) != (checkpoint.size, checkpoint.root):
        findings.note("log", "the log is not the one of its checkpoint: an entry was changed, left out or added")
    if held is not None and held.size >= tree.size:
        _check_held(tree, held, checkpoint, findings)
    registered.check(seal, written, evidence.store.get(seal.run_id, "runs", seal.run_id), findings)
    for run, note_of_it in evidence.seals.items():
        if registered.seals[run]:
            _check_registered(registered, run, note_of_it, evidence, findings)
        else:
            findings.leave(f"whether the seal of run {run} is in the log: it came later than this checkpoint")
    findings.hold(f"the seal is in the log, which had {checkpoint.size} entries at its checkpoint", since)


def _check_registered(registered: Registered, run: str, written: str, evidence: Evidence, findings: Findings) -> None:
    what = f"the seal of run {run}"
    registered.check(seal_of(note_of(written, what), what), written, evidence.store.get(run, "runs", run), findings)


def _check_held(tree: Growing, held: Checkpoint, checkpoint: Checkpoint, findings: Findings) -> None:
    if held.origin != checkpoint.origin:
        findings.note("held", f"your checkpoint is of another log, that of {held.origin}")
    elif held.size > tree.size:
        findings.leave(f"your checkpoint: it is of {held.size} entries, later than this export's log of {tree.size}")
    elif tree.root() == held.root:
        findings.held.append(f"the log begins with the {held.size} entries of your checkpoint")
    else:
        findings.note("held", f"the first {held.size} entries are not those of your checkpoint: the log was rewritten")


# The story of a row --------------------------------------------------------------------------------------------------


def story(evidence: Evidence, row: Record) -> Iterator[str]:
    """What was asked about a row, what came back, and what was made of it."""
    store, run_id = evidence.store, evidence.run_id
    yield from _the_run(evidence, row)
    for token in store.where(run_id, "tokens", "row_id", row["row_id"]):
        for member in store.where(run_id, "batch_members", "token_id", token["token_id"]):
            yield from _the_batch(evidence, member)
        yield from _the_questions(evidence, token["token_id"])
        outcome = store.get(run_id, "token_outcomes", token["token_id"])
        yield ""
        if outcome is None:
            yield "What became of the row is not in the file."
        else:
            yield f"What became of the row: {outcome['outcome']}, at {instant(outcome['decided_at'])}."
    for artifact in store.all_of(run_id, "artifacts"):
        yield f"  written: {artifact['asset_key']}, {artifact['row_count']} rows, to {artifact['uri']}"
        yield f"    ({artifact['content_hash']}, {artifact['size']} bytes)"


def _the_run(evidence: Evidence, row: Record) -> Iterator[str]:
    node = evidence.store.get(evidence.run_id, "nodes", row["node_id"]) or {}
    run = evidence.store.get(evidence.run_id, "runs", evidence.run_id) or {}
    yield f"Row {row['row_key']!r} of assessment {node.get('assessment')!r}, record {row['row_index']} of its source"
    yield f"  run {evidence.run_id}, begun {instant(run.get('started_at'))} on {run.get('host')}, {run.get('mode')}"
    yield f"  elspeth-dagster {run.get('package_version')}, code {run.get('code_version')}, spec {node.get('version')}"
    if row["raw_ref"]:
        yield "  it came as"
        yield from quoted(evidence.body(row["raw_ref"]), 4)
    yield "  and was understood as"
    yield from quoted(evidence.body(row["values_ref"]), 4)


def _the_batch(evidence: Evidence, member: Record) -> Iterator[str]:
    store, run = evidence.store, evidence.run_id
    batch = store.get(run, "batches", member["batch_id"])
    if batch is None:
        return
    yield f"  batch {batch['ordinal']} holds it at place {member['ordinal']}; {batch['trigger_fired']} closed the batch"
    states = store.where(run, "node_states", "token_id", batch["token_id"])
    for state in sorted(states, key=lambda one: int(one["attempt"])):
        end = store.get(run, "node_state_ends", state["state_id"])
        how = f"{end['status']} at {instant(end['ended_at'])}" if end else "its end is not in the file"
        where = f"{state['step_key']} on {state['host']}"
        yield f"  attempt {state['attempt']}: {where}, {instant(state['started_at'])}; {how}"


def _the_questions(evidence: Evidence, token_id: str) -> Iterator[str]:
    store, run = evidence.store, evidence.run_id
    calls = store.where(run, "calls", "token_id", token_id)
    answers = store.where(run, "answers", "token_id", token_id)
    for key in sorted({one["query_key"] for one in [*calls, *answers]}):
        yield ""
        yield f"Question {key}"
        own = [call for call in calls if call["query_key"] == key]
        for call in sorted(own, key=lambda one: (int(one["sent_at"]), int(one["query_attempt"]))):
            yield from _the_call(evidence, run, call)
        for answer in answers:
            if answer["query_key"] == key:
                yield from _the_answer(evidence, answer, own)


def _the_call(evidence: Evidence, run: str, call: Record) -> Iterator[str]:
    to = f"{call['provider']}, model {call['model']}"
    yield f"  call {call['call_id']} ({call['cause']}) to {to}, {instant(call['sent_at'])}"
    yield "    asked"
    for role, text in _messages(evidence.body(call["request_ref"])):
        yield from quoted(text, 6, role)
    reply = evidence.store.get(run, "replies", call["call_id"])
    if reply is None:
        yield "    what came back is not in the file"
        return
    seconds = "" if reply["latency_us"] is None else f" after {int(reply['latency_us']) / 1e6:.3f} s"
    said = [f"HTTP {reply['http_status']}"] if reply["http_status"] is not None else []
    said += [f"{name} {reply[name]}" for name in ("error_class", "model", "finish_reason") if reply[name] is not None]
    yield f"    came back{seconds}: {reply['outcome']}; {', '.join(said)}"
    if reply["detail"]:
        yield from quoted(reply["detail"], 6)
    body = evidence.body(reply["body_ref"])
    if reply["body_ref"]:
        content = _content(body)
        yield from quoted(body if content is None else content, 6)


def _the_answer(evidence: Evidence, answer: Record, own: list[Record]) -> Iterator[str]:
    run, call = call_of(evidence, answer["call_id"])
    if call is not None and call["call_id"] not in [one["call_id"] for one in own]:
        yield f"  the reply was taken from call {call['call_id']} of run {run}, without asking again"
        yield from _the_call(evidence, run, call)
    if answer["status"] != "accepted":
        yield f"  refused: {answer['reason']}"
        yield from quoted(answer["detail"] or "", 4)
        return
    values = evidence.body(answer["values_ref"])
    yield f"  accepted, from call {answer['call_id']}"
    yield from quoted(values, 4)
    reply = None if call is None else evidence.store.get(run, "replies", call["call_id"])
    yield f"    {_derived(values, _content(evidence.body(reply['body_ref'])) if reply else None)}"


def _derived(values: bytes | None, content: str | None) -> str:
    """Whether the accepted values are what the reply says."""
    given, said = loosely(values), loosely(_inside_fence(content or "").encode("utf-8", "replace"))
    if not isinstance(given, dict) or not isinstance(said, dict):
        return "(whether these are the reply's own values can't be told: it is erased, or no JSON object)"
    others = [name for name, value in given.items() if said.get(name) != value]
    return f"(other than in the reply: {', '.join(others)})" if others else "(these are the reply's own values)"


def _inside_fence(text: str) -> str:
    found = re.fullmatch(r"\s*```[a-zA-Z]*\n(.*)\n```\s*", text, re.DOTALL)
    return found[1] if found else text


def _messages(body: bytes | None) -> list[tuple[str, str | bytes | None]]:
    request = loosely(body)
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return [("request", body)]
    return [(str(one.get("role")), _as_text(one.get("content"))) for one in messages]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _content(body: bytes | None) -> str | None:
    """The text in a chat completion; None when it is none."""
    try:
        content = loosely(body)["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        return None
    return content if isinstance(content, str) else None


def loosely(data: bytes | None) -> Any:
    """What some bytes are as JSON; None when they are none."""
    try:
        return json.loads((data or b"").decode())
    except (ValueError, RecursionError):
        return None


def instant(value: Any) -> str:
    """An instant of the record, in words."""
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(value)):%Y-%m-%d %H:%M:%S.%f} UTC"
    except (TypeError, ValueError, OverflowError):
        return "at an unknown time"


def quoted(text: str | bytes | None, by: int, role: str = "") -> Iterator[str]:
    """Somebody else's text, each line behind a bar that it can't get out of."""
    if text is None:
        yield f"{' ' * by}(erased)"
        return
    plain = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    for number, line in enumerate(plain[:LONGEST_SHOWN].split("\n")):
        yield f"{' ' * by}{role if number == 0 else ' ' * len(role)}| {line}"
    if len(plain) > LONGEST_SHOWN:
        yield f"{' ' * by}({len(plain) - LONGEST_SHOWN} more characters, which are in the file)"


def printable(line: str) -> str:
    """A line with whatever could drive a terminal written as an escape: controls, bidi marks, invisible characters."""
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


# The command ---------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _options().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _verify(options)
    except (MisuseError, OSError) as error:
        print(f"elspeth-verify: {printable(str(error))}", file=sys.stderr)
        return USED_WRONGLY


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="elspeth-verify",
        description="Hold a proof or an export of elspeth-dagster to the signature under it. Exit code 0: all that "
        "could be checked holds; 1: something is wrong; 2: used wrongly, or not readable.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a proof, a zip, or the folder of an export")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument(
        "--key",
        metavar="VKEY",
        action="append",
        help="the verifier key, or a file with it; not from whoever sent FILE. Several may be given",
    )
    key.add_argument("--without-key", action="store_true", help="check all but who signed")
    parser.add_argument("--checkpoint", metavar="NOTE", type=Path, help="an earlier checkpoint of yours, for an export")
    parser.add_argument("--row", metavar="KEY", help="tell the story of this row of an export")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON document")
    return parser


def _verify(options: argparse.Namespace) -> int:
    findings = Findings()
    ring = Ring(map(_given_key, options.key or ()))
    held = None if options.checkpoint is None else _held_checkpoint(options.checkpoint, ring)
    evidence = None
    try:
        evidence = _evidence(options, ring, held, findings)
    except WrongError as error:
        findings.note("whole", str(error))
    if evidence is None:
        return _tell(options, [], findings)
    with closing(evidence.store):
        return _tell(options, _stories(evidence, options.row), findings)


def _evidence(options: argparse.Namespace, ring: Ring, held: Checkpoint | None, findings: Findings) -> Evidence:
    path: Path = options.file
    if path.is_dir():
        return check_export(folder_box(path), ring, held, findings)
    with path.open("rb") as file:
        is_zip = file.read(4) == LOCAL
    if is_zip:
        return check_export(zip_box(path), ring, held, findings)
    if held is not None or options.row is not None:
        raise MisuseError("--checkpoint and --row go with an export, and this is none")
    if path.stat().st_size > LARGEST_PROOF:
        raise MisuseError(f"{path} has more than {LARGEST_PROOF} bytes, more than a proof may have")
    document = parsed(path.read_bytes(), "the file")
    if not isinstance(document, dict) or document.get("format") != PROOF:
        raise WrongError(f"the file says another format than {PROOF}")
    return check_proof(document, ring, findings)


def _given_key(given: str) -> Key:
    try:
        return key_of(given if "+" in given and not Path(given).is_file() else Path(given).read_text("utf-8"))
    except WrongError as error:
        raise MisuseError(str(error)) from None


def _held_checkpoint(path: Path, ring: Ring) -> Checkpoint:
    findings = Findings()
    try:
        note = note_of(path.read_text("utf-8"), "your checkpoint")
        ring.check(note, "your checkpoint", findings)
        if findings.wrong:
            raise MisuseError(findings.wrong[0])
        return checkpoint_of(note, "your checkpoint")
    except (WrongError, UnicodeDecodeError) as error:
        raise MisuseError(str(error)) from None


def _stories(evidence: Evidence, row_key: str | None) -> Iterator[str]:
    """The story of the row of a proof, or of the rows of an export that were asked for."""
    if row_key is None and not evidence.is_proof:
        return
    rows = list(islice(_rows_with(evidence, row_key), MOST_OF_A_KIND))
    if not rows:
        yield f"No row with the key {row_key!r} is in the file."
    for row in rows:
        yield from story(evidence, row)


def _rows_with(evidence: Evidence, row_key: str | None) -> Iterator[Record]:
    for row in evidence.store.all_of(evidence.run_id, "rows"):
        if row_key in (None, row["row_key"]):
            yield row


def _tell(options: argparse.Namespace, told: Iterable[str], findings: Findings) -> int:
    lines = list(told)
    if options.json:
        document = {"holds": not findings.wrong, "checked": findings.held, "not_checked": findings.unchecked}
        print(json.dumps({**document, "wrong": findings.wrong, "story": lines}, indent=2))
        return IS_WRONG if findings.wrong else HOLDS
    parts = (("Checked", findings.held), ("Not checked", findings.unchecked), ("WRONG", findings.wrong))
    for head, said in parts:
        if said:
            lines += ["", head, *(f"  {line}" for line in said)]
    verdict = "All that could be checked holds." if not findings.wrong else "THIS EVIDENCE DOES NOT HOLD."
    for line in [*lines, "", verdict]:
        print(printable(line))
    return IS_WRONG if findings.wrong else HOLDS


if __name__ == "__main__":
    sys.exit(main())
