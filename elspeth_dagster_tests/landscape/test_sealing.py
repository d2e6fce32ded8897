"""Seals, the log, keys and anchors: what is made, by whom, where it goes, and what is refused."""

from __future__ import annotations

import itertools
import stat
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.checkpoints import RunSeal
from elspeth_dagster.core.errors import AuditError, NoteError, SettingsError
from elspeth_dagster.core.merkle import leaf_hash, root_of
from elspeth_dagster.core.notes import Note, Signer, Verifier, new_signer_key
from elspeth_dagster.landscape import anchoring, auditing, erasing, installation_log, runs, sealing
from elspeth_dagster.landscape.columns import Hash, Number, Ref, written_ref
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.record_bytes import SEALED, records
from elspeth_dagster.landscape.records import Token
from elspeth_dagster.landscape.signing import load_signer, make_commanded, make_key
from elspeth_dagster.landscape.words import RunStatus, TokenKind
from elspeth_dagster_tests.landscape.sealed import FIRST, OURS, SECOND, begin_run, write_run
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers

WRITERS = 4
SECRET = "sk-of-somebody"
BY_PARENT = {
    "replies": "call_id IN (SELECT call_id FROM calls WHERE run_id = :run)",
    "node_state_ends": "state_id IN (SELECT state_id FROM node_states WHERE run_id = :run)",
}


def as_bytes(value: object) -> object:
    """A key's part as it is compared."""
    return value.encode() if isinstance(value, str) else value


def seal_of(landscape: Landscape, run_id: str) -> RunSeal:
    """What the seal of a run says."""
    with landscape.read() as connection:
        seal = sealing.of_run(connection, run_id)
    assert seal is not None
    return RunSeal.read(Note.read(seal.note).text)


def test_the_root_is_that_of_the_format_from_the_plain_columns(landscape: Landscape) -> None:
    """Made here once more, with nothing of ours but canonical JSON and the tree."""
    write_run(landscape, FIRST)
    sealing.seal_ended(landscape)
    hashes = []
    with landscape.read() as connection:
        for table in SEALED:
            query = f"SELECT * FROM {table.name} WHERE {BY_PARENT.get(table.name, 'run_id = :run')}"
            found = [dict(row) for row in connection.execute(sa.text(query), {"run": FIRST}).mappings()]
            key = [column.name for column in table.primary_key]
            for row in sorted(found, key=lambda row: [as_bytes(row[name]) for name in key]):
                plain = {name: written_ref(value) if isinstance(value, bytes) else value for name, value in row.items()}
                hashes.append(leaf_hash(canonical_json([table.name, plain])))
    told = seal_of(landscape, FIRST)
    assert (told.size, told.root) == (len(hashes), root_of(hashes))
    assert told.counts == {table.name: told.counts[table.name] for table in SEALED}


def test_numbers_beyond_what_json_keeps_and_any_text_have_the_same_bytes(landscape: Landscape) -> None:
    begin_run(landscape, FIRST)
    text = '\x01\x1f\x7f"\\/\t\n\u2028é\N{GRINNING FACE}'
    landscape.write(Token(text, FIRST, TokenKind.SLICE, None))
    with landscape.read() as connection:
        [record] = records(connection, next(table for table in SEALED if table.name == "tokens"), FIRST)
    assert record.data() == canonical_json(["tokens", record.columns()])
    calls = next(table for table in SEALED if table.name == "calls")
    values = [b"\1" * 32 if isinstance(column.type, Hash | Ref) else 2**53 if isinstance(column.type, Number) else None
              for _, column in sorted(calls.columns.items())]  # fmt: skip
    data = record._replace(table=calls, values=values).data()
    assert b'"call_index":"9007199254740992"' in data and b'"sent_at":null' in data


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "without the guard something lands"])
def test_nothing_lands_in_a_run_that_is_sealed_while_four_write_to_it(
    landscape: Landscape, database_url: str, guarded: bool
) -> None:
    begin_run(landscape, FIRST)
    if not guarded:
        drop_triggers(landscape._database, "tokens_no_more")
    is_over, written = threading.Event(), itertools.count()

    def write(name: int) -> None:
        with Landscape.open(database_url) as own, suppress(AuditError):
            for number in itertools.count():
                own.write(Token(f"{name}-{number:06d}", FIRST, TokenKind.BATCH, None))
                next(written)
                if is_over.is_set():
                    return

    writers = [threading.Thread(target=write, args=[name]) for name in range(WRITERS)]
    for writer in writers:
        writer.start()
    while next(written) < 40:
        is_over.wait(0.01)
    runs.end(landscape, FIRST, RunStatus.INTERRUPTED, "stopped")
    sealing.seal_ended(landscape)
    is_over.wait(0.2)
    is_over.set()
    for writer in writers:
        writer.join()
    with landscape.read() as connection:
        there = connection.scalar(sa.text("SELECT count(*) FROM tokens")) or 0
    late = there - seal_of(landscape, FIRST).counts["tokens"]
    assert late == 0 if guarded else late > 0
    assert auditing.verify(landscape).is_sound is guarded


def test_a_run_whose_seal_was_lost_is_sealed_by_the_next_one_after_its_parent(landscape: Landscape) -> None:
    write_run(landscape, FIRST)
    write_run(landscape, SECOND, FIRST)
    assert {finding.kind for finding in auditing.verify(landscape).findings} == {"seal"}
    assert sealing.seal_ended(landscape, first=SECOND).run_ids == [FIRST, SECOND]
    assert seal_of(landscape, SECOND).parent == (FIRST, seal_of(landscape, FIRST).root)
    assert sealing.seal_ended(landscape).run_ids == []
    assert auditing.verify(landscape).is_sound


def test_tiles_that_somebody_left_who_died_are_taken_over(landscape: Landscape) -> None:
    write_run(landscape, FIRST)
    sealing._tree(landscape, FIRST)
    assert sealing.seal_ended(landscape).run_ids == [FIRST]
    assert auditing.verify(landscape).is_sound


def test_a_run_that_goes_on_is_not_sealed(landscape: Landscape) -> None:
    begin_run(landscape, FIRST)
    assert sealing.seal_ended(landscape, first=FIRST).run_ids == []
    assert auditing.verify(landscape).is_sound


def test_two_who_seal_at_once_make_one_seal(landscape: Landscape, database_url: str) -> None:
    write_run(landscape, FIRST)
    at_once, made = threading.Barrier(2), []

    def seal() -> None:
        with Landscape.open(database_url) as own:
            at_once.wait()
            made.extend(sealing.seal_ended(own).run_ids)

    both = [threading.Thread(target=seal) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert made == [FIRST]
    assert auditing.verify(landscape).is_sound


def test_many_records_fill_many_tiles(sqlite_url: str) -> None:
    with Landscape.open(sqlite_url) as landscape:
        write_run(landscape, FIRST, rows=300)
        sealing.seal_ended(landscape)
        with landscape.read() as connection:
            tiles = connection.execute(sa.text("SELECT length(hashes) / 32 FROM seal_tiles WHERE table_name = 'calls' "
                                               "ORDER BY tile")).scalars().all()  # fmt: skip
        assert tiles == [256, 256, 88]
        assert auditing.verify(landscape).is_sound


class TestKeys:
    """The key that is in force, and how another takes over."""

    def test_nothing_is_sealed_unsigned_once_there_is_a_key(self, landscape: Landscape) -> None:
        landscape.signer = OURS
        write_run(landscape, FIRST)
        landscape.signer = None
        assert "ELSPETH_SIGNING_KEY" in sealing.seal_ended(landscape).warnings[0]
        landscape.signer = OURS
        assert sealing.seal_ended(landscape).run_ids == [FIRST]

    def test_another_key_is_refused_before_a_run_begins(self, landscape: Landscape) -> None:
        landscape.signer = OURS
        write_run(landscape, FIRST)
        landscape.signer = Signer.read(new_signer_key("theirs"))
        with pytest.raises(SettingsError, match="keys rotate"):
            begin_run(landscape, SECOND)
        with landscape.read() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM runs")) == 1

    def test_a_key_takes_over_by_the_signature_of_the_one_before(self, landscape: Landscape) -> None:
        new = Signer.read(new_signer_key("new"))
        landscape.signer = OURS
        write_run(landscape, FIRST)
        sealing.seal_ended(landscape)
        installation_log.rotate(landscape, OURS, new.verifier)
        landscape.signer = new
        write_run(landscape, SECOND, FIRST)
        sealing.seal_ended(landscape)
        for key in (OURS.verifier, new.verifier):
            assert auditing.verify(landscape, keys=[key]).findings == []
        stranger = Signer.read(new_signer_key("stranger")).verifier
        assert [each.kind for each in auditing.verify(landscape, keys=[stranger]).findings] == ["signature"]
        with pytest.raises(NoteError):
            installation_log.rotate(landscape, new, new.verifier)

    def test_what_was_sealed_before_there_was_a_key_stays_valid(self, landscape: Landscape) -> None:
        write_run(landscape, FIRST)
        sealing.seal_ended(landscape)
        landscape.signer = OURS
        write_run(landscape, SECOND)
        sealing.seal_ended(landscape)
        report = auditing.verify(landscape)
        assert report.findings == []
        assert any(FIRST in remark for remark in report.remarks)

    def test_a_key_file_is_its_owners_alone_and_never_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        made = make_key(path, "ours")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        loaded = load_signer(str(path))
        assert loaded is not None and loaded.verifier == made.verifier == Verifier.read(made.verifier.vkey)
        with pytest.raises(SettingsError, match="never overwritten"):
            make_key(path, "ours")
        path.chmod(0o640)
        with pytest.raises(SettingsError, match="open to others"):
            load_signer(str(path))

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"PRIVATE+KEY+ours+00000000+" + SECRET.encode()])
    def test_a_file_that_holds_no_key_is_refused_without_showing_it(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "key").write_bytes(content)
        (tmp_path / "key").chmod(0o600)
        with pytest.raises(SettingsError) as refused:
            load_signer(str(tmp_path / "key"))
        assert SECRET not in str(refused.value)
        with pytest.raises(SettingsError, match="No such file"):
            load_signer(str(tmp_path / "nowhere"))


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """A program that signs by a key of openssl's making, in a folder with its public key."""
    private, public, program = tmp_path / "private.pem", tmp_path / "public.pem", tmp_path / "sign"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    sign = f"openssl pkeyutl -sign -rawin -inkey {private} -in {tmp_path}/bytes"
    program.write_text(f'#!/bin/sh\ncat > {tmp_path}/bytes\n[ "$1" != raw ] && {sign} | base64 -w0 || {sign}\n')
    program.chmod(0o700)
    return tmp_path


class TestSigningByACommand:
    """A key that never leaves its place."""

    @pytest.mark.parametrize("how", ["raw", "base64"])
    def test_a_run_is_sealed_by_what_a_command_signs(self, landscape: Landscape, vault: Path, how: str) -> None:
        made = make_commanded(vault / "signer", "kms", vault / "public.pem", [str(vault / "sign"), how])
        assert stat.S_IMODE((vault / "signer").stat().st_mode) == 0o600
        landscape.signer = load_signer(str(vault / "signer"))
        write_run(landscape, FIRST)
        sealing.seal_ended(landscape)
        assert auditing.verify(landscape, keys=[made.verifier]).findings == []
        installation_log.rotate(landscape, landscape.signer or made, OURS.verifier)
        landscape.signer = OURS
        write_run(landscape, SECOND)
        sealing.seal_ended(landscape)
        assert auditing.verify(landscape, keys=[made.verifier]).findings == []

    def test_a_command_that_does_not_sign_stops_no_run_and_no_erasure(self, landscape: Landscape, vault: Path) -> None:
        make_commanded(vault / "signer", "kms", vault / "public.pem", [str(vault / "sign"), "raw"])
        landscape.signer = load_signer(str(vault / "signer"))
        (vault / "sign").write_text(f"#!/bin/sh\necho {SECRET}\nexit 3\n")
        write_run(landscape, FIRST)
        [told] = sealing.seal_if_possible(landscape, first=FIRST)
        assert "ended with 3" in told and SECRET not in told
        erased = erasing.erase(landscape, erasing.Wanted(run=FIRST), "a request", "a clerk")
        assert erased.payloads and "ended with 3" in erased.warnings[0]

    def test_a_command_by_another_key_and_a_key_of_another_kind_are_refused(self, vault: Path) -> None:
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", vault / "private.pem"], check=True)
        with pytest.raises(SettingsError, match="made no signature by kms"):
            make_commanded(vault / "signer", "kms", vault / "public.pem", [str(vault / "sign"), "raw"])
        with pytest.raises(SettingsError, match="can't be run"):
            make_commanded(vault / "signer", "kms", vault / "public.pem", [str(vault / "nothing")])
        x25519 = subprocess.run(["openssl", "genpkey", "-algorithm", "x25519"], capture_output=True, check=True).stdout
        pub = subprocess.run(["openssl", "pkey", "-pubout"], input=x25519, capture_output=True, check=True).stdout
        (vault / "public.pem").write_bytes(pub)
        with pytest.raises(SettingsError, match="no public key for Ed25519"):
            make_commanded(vault / "signer", "kms", vault / "public.pem", [str(vault / "sign")])
        assert not (vault / "signer").exists()


class TestAnchors:
    """Where checkpoints go outside of the database."""

    def test_each_anchor_gets_each_checkpoint_once(self, landscape: Landscape, tmp_path: Path) -> None:
        outside = [str(tmp_path / "file.txt"), f"file://{tmp_path}/url.txt", f"{tmp_path}/folder/"]
        landscape.anchors, landscape.signer = (*outside, f"command:tee -a {tmp_path}/told.txt"), OURS
        for run_id in (FIRST, SECOND):
            write_run(landscape, run_id)
            assert sealing.seal_ended(landscape).warnings == []
            sealing.seal_ended(landscape)
        for place in [*outside, str(tmp_path / "told.txt")]:
            assert len(anchoring.held(place)) == 2
            assert auditing.verify(landscape, anchors=[place]).findings == []
        with landscape.read() as connection:
            assert auditing.overdue(connection) == []

    def test_an_anchor_that_fails_stops_nothing_is_on_record_and_told_without_secrets(
        self, landscape: Landscape, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        landscape.anchors = (
            f"{tmp_path}/file/x",
            f"command:false {SECRET}",
            f"command:sh -c 'echo {SECRET} >&2; exit 3'",
            f"ftp://me:{SECRET}@127.0.0.1:1/x",
            f"command:no-such-program {SECRET}",
        )
        write_run(landscape, FIRST)
        sealed = sealing.seal_ended(landscape)
        assert sealed.run_ids == [FIRST]
        assert len(sealed.warnings) == 5
        with landscape.read() as connection:
            told = str(connection.execute(sa.text("SELECT * FROM anchor_receipts")).all())
            assert auditing.overdue(connection) == ["no checkpoint reached an anchor outside ever"]
        assert told.count("(failed)") == 5
        assert SECRET not in told + str(sealed.warnings)

    def test_a_failed_anchor_is_tried_again(self, landscape: Landscape, tmp_path: Path) -> None:
        (tmp_path / "in the way").write_text("")
        landscape.anchors = (f"{tmp_path}/in the way/x",)
        write_run(landscape, FIRST)
        assert sealing.seal_ended(landscape).warnings
        (tmp_path / "in the way").unlink()
        assert sealing.seal_ended(landscape).warnings == []
        assert len(anchoring.held(landscape.anchors[0])) == 1

    @pytest.mark.parametrize("setting", ["relative/path", "command:", "command:'open"])
    def test_an_anchor_that_makes_no_sense_is_refused(self, setting: str) -> None:
        with pytest.raises(SettingsError, match="ELSPETH_ANCHORS"):
            anchoring.read_anchors(setting)

    def test_an_anchor_that_is_asked_for_and_holds_nothing_is_an_error(
        self, landscape: Landscape, tmp_path: Path
    ) -> None:
        for place, text in (("nowhere.txt", None), ("empty.txt", "nothing")):
            if text is not None:
                (tmp_path / place).write_text(text)
            with pytest.raises(SettingsError, match=place):
                auditing.verify(landscape, anchors=[str(tmp_path / place)])
