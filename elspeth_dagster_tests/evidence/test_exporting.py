"""An export is whole, the same from anywhere, needs nothing else, and no bit of it can be changed unnoticed."""

import base64
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from elspeth_dagster import elspeth_verify
from elspeth_dagster.cli import main
from elspeth_dagster.core.errors import NotOnRecordError, SettingsError
from elspeth_dagster.core.merkle import Frontier, leaf_hash
from elspeth_dagster.core.notes import Signer, new_signer_key
from elspeth_dagster.landscape import exporting, installation_log, proving, sealing
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.record_bytes import SEALED
from elspeth_dagster.landscape.signing import load_signer
from elspeth_dagster_tests.evidence import rebuilding
from elspeth_dagster_tests.evidence.conftest import Sealed, by_hand, erase_row
from elspeth_dagster_tests.evidence.verifying import run_alone, verify
from elspeth_dagster_tests.landscape.sample import a_run
from elspeth_dagster_tests.project import KEY

FLIPS = 200


@pytest.fixture(scope="module")
def exported(sealed: Sealed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the second run's export as `folder` and `run.zip`."""
    to = tmp_path_factory.mktemp("exported")
    with Landscape.open(sealed.url, create=False) as landscape:
        exporting.export(landscape, sealed.second, to / "folder")
        exporting.export(landscape, sealed.second, to / "run.zip")
    return to


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The same, from anywhere --------------------------------------------------------------------------------------------


def test_it_is_the_same_bytes_twice_and_from_both_databases(
    exported: Path, sealed: Sealed, copied: Sealed, tmp_path: Path
) -> None:
    for number, url in enumerate((sealed.url, copied.url)):
        with Landscape.open(url, create=False) as landscape:
            exporting.export(landscape, sealed.second, tmp_path / f"{number}")
            exporting.export(landscape, sealed.second, tmp_path / f"{number}.zip")
        assert files(tmp_path / f"{number}") == files(exported / "folder")
        assert (tmp_path / f"{number}.zip").read_bytes() == (exported / "run.zip").read_bytes()


def test_what_the_log_takes_later_does_not_change_it(exported: Path, own: Sealed, tmp_path: Path) -> None:
    with Landscape.open(own.url) as landscape:
        landscape.decide(lambda connection: installation_log.append(connection, "run_start", run_id="later"))
        exporting.export(landscape, own.second, tmp_path / "later")
    assert files(tmp_path / "later") == files(exported / "folder")


def test_a_zip_holds_the_same_files_and_any_tool_reads_it(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported / "run.zip") as packed:
        assert packed.testzip() is None
        packed.extractall(tmp_path)
    assert files(tmp_path) == files(exported / "folder")


def test_no_credential_and_no_signing_key_is_in_it(exported: Path, sealed: Sealed) -> None:
    held = b"".join(files(exported / "folder").values())
    for line in lines_of(exported / "folder", "payloads.jsonl"):
        held += base64.b64decode(json.loads(line)["base64"])
    assert KEY.encode() not in held
    secret = sealed.key.read_bytes().strip().removeprefix(b"PRIVATE+KEY+").split(b"+", 2)[2]
    assert len(secret) == 44 and secret not in held


def test_only_its_owner_can_read_it(exported: Path) -> None:
    modes = {path.stat().st_mode & 0o077 for path in [exported / "folder", *exported.rglob("*")] if path != exported}
    assert modes == {0}


# Whole and holding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "run.zip"])
def test_it_holds(exported: Path, sealed: Sealed, capsys: Any, name: str) -> None:
    code, found = verify(exported / name, sealed.vkey, capsys)
    assert (code, found["wrong"], found["not_checked"]) == (0, [], [])
    assert any("records are those that were sealed: none changed, left out or added" in one for one in found["checked"])


def test_a_row_of_it_is_told(exported: Path, sealed: Sealed, tmp_path: Path) -> None:
    told = run_alone(tmp_path, str(exported / "run.zip"), "--key", sealed.vkey, "--row", "R5")
    assert told.returncode == 0 and "Row 'R5'" in told.stdout and "\\x1b[31mtext" in told.stdout
    none = run_alone(tmp_path, str(exported / "folder"), "--key", sealed.vkey, "--row", "R\u202e9")
    assert none.returncode == 0 and "No row with the key 'R\\u202e9' is in the file." in none.stdout


def test_every_answer_can_be_told_from_it_alone(exported: Path, sealed: Sealed, landscape: Landscape) -> None:
    command = [sys.executable, "-I", rebuilding.__spec__.origin or "", str(exported / "folder")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    with landscape.read() as connection:
        counted = connection.scalar(sa.text("SELECT count(*) FROM answers WHERE run_id = :run"), {"run": sealed.second})
    assert len(answers) == counted == 24
    assert {answer["run"] for answer in answers if answer["row"] in ("R0", "R1", "R2")} == {sealed.first}
    for answer in answers:
        text = answer["prompt"].partition(": ")[2]
        assert answer["row"] in text or f"row {answer['row'][1]}." in text
        assert answer["config"] == "trial"
        if answer["values"]:
            assert str(answer["values"]["score"]) in answer["reply"]["choices"][0]["message"]["content"]
    assert {answer["row"]: answer["outcome"] for answer in answers}["R3"] == "failed"


def test_two_hundred_flipped_bits_are_found(exported: Path, sealed: Sealed, tmp_path: Path, capsys: Any) -> None:
    chance, whole = random.Random(6962), (exported / "run.zip").read_bytes()
    missed = []
    for _ in range(FLIPS):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << bit
        (tmp_path / "spoilt.zip").write_bytes(spoilt)
        code, found = verify(tmp_path / "spoilt.zip", sealed.vkey, capsys)
        if code != 1 or not found["wrong"]:
            missed.append((place, bit))
    assert missed == []


def flips(folder: Path, chance: random.Random) -> Iterator[tuple[Path, bytes]]:
    """Each file of a folder, with one bit flipped, or empty where it is not."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        yield path, bytes(data or b"\n")


def test_whatever_is_done_to_a_file_of_the_folder_is_found_though_the_manifest_follows(
    exported: Path, sealed: Sealed, tmp_path: Path, capsys: Any
) -> None:
    folder = Path(shutil.copytree(exported / "folder", tmp_path / "folder"))
    for path, spoilt in flips(folder, random.Random(8785)):
        before = {name: (folder / name).read_bytes() for name in ("manifest.json", str(path.relative_to(folder)))}
        path.write_bytes(spoilt)
        if path.name != "manifest.json":
            follow(folder)
        code, found = verify(folder, sealed.vkey, capsys)
        assert code == 1 and found["wrong"], path
        for name, data in before.items():
            (folder / name).write_bytes(data)
    code, _ = verify(folder, sealed.vkey, capsys)
    assert code == 0


def follow(folder: Path) -> None:
    """Make the manifest say what the files are."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    listed = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    manifest["files"] = {str(path.relative_to(folder)): exporting._fingerprint(path) for path in listed}
    (folder / "manifest.json").write_bytes(exporting.canonical_json(manifest))


def lines_of(folder: Path, name: str) -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("table", [table.name for table in SEALED])
def test_a_record_left_out_doubled_or_moved_is_found(
    exported: Path, sealed: Sealed, tmp_path: Path, capsys: Any, table: str
) -> None:
    name = f"records/{table}.jsonl"
    lines = lines_of(exported / "folder", name)
    spoilt = [lines[1:], lines[:-1], [lines[0], *lines], lines[::-1]] if lines else []
    for number, other in enumerate(each for each in spoilt if each != lines):
        folder = Path(shutil.copytree(exported / "folder", tmp_path / f"{number}"))
        (folder / name).write_bytes(b"".join(other))
        follow(folder)
        code, found = verify(folder, sealed.vkey, capsys)
        assert code == 1 and "the records are not those that were sealed: they have another root" in found["wrong"]


@pytest.mark.parametrize("name", ["payloads.jsonl", "scopes.jsonl", "earlier.jsonl", "log.jsonl"])
def test_a_line_left_out_or_doubled_is_found(
    exported: Path, sealed: Sealed, tmp_path: Path, capsys: Any, name: str
) -> None:
    lines = lines_of(exported / "folder", name)
    for number, other in enumerate([lines[1:], lines[:-1], [lines[0], *lines], lines[::-1]]):
        folder = Path(shutil.copytree(exported / "folder", tmp_path / f"{number}"))
        (folder / name).write_bytes(b"".join(other))
        follow(folder)
        code, found = verify(folder, sealed.vkey, capsys)
        assert code == 1 and found["wrong"], number


def test_a_scope_that_says_to_be_of_another_row_is_found(
    exported: Path, sealed: Sealed, tmp_path: Path, capsys: Any
) -> None:
    folder = Path(shutil.copytree(exported / "folder", tmp_path / "folder"))
    text = (folder / "scopes.jsonl").read_text().replace('"subject":"R4"', '"subject":"R2"')
    (folder / "scopes.jsonl").write_text(text)
    follow(folder)
    code, found = verify(folder, sealed.vkey, capsys)
    assert code == 1 and "is of another row than rows" in found["wrong"][0]


def test_files_beside_those_of_an_export_are_found(exported: Path, sealed: Sealed, tmp_path: Path, capsys: Any) -> None:
    folder = Path(shutil.copytree(exported / "folder", tmp_path / "folder"))
    (folder / "records" / "notes.jsonl").touch()
    code, found = verify(folder, sealed.vkey, capsys)
    assert code == 1 and "'records/notes.jsonl' is a file that an export" in found["wrong"][0]


def test_records_that_were_sealed_in_another_order_are_refused(exported: Path, tmp_path: Path, capsys: Any) -> None:
    """The root fits, and is signed: by somebody who sealed something else than the format says."""
    folder = Path(shutil.copytree(exported / "folder", tmp_path / "folder"))
    (folder / "records" / "nodes.jsonl").write_bytes(b"".join(lines_of(folder, "records/nodes.jsonl")[::-1]))
    tree = Frontier()
    for table in SEALED:
        for line in lines_of(folder, f"records/{table.name}.jsonl"):
            tree.add(leaf_hash(line[:-1]))
    signer = Signer.read(new_signer_key("somebody"))
    sealed_text = (folder / "seal.note").read_text().partition("\n\n")[0].split("\n")
    sealed_text[2] = base64.b64encode(tree.root()).decode()
    (folder / "seal.note").write_text(signer.signed("\n".join(sealed_text) + "\n"))
    follow(folder)
    code, found = verify(folder, signer.verifier.vkey, capsys)
    assert code == 1 and "line 2 of records/nodes.jsonl is out of order" in found["wrong"]


# Held checkpoints ---------------------------------------------------------------------------------------------------


def test_an_earlier_checkpoint_is_a_beginning_of_the_log_or_the_log_was_rewritten(
    exported: Path, own: Sealed, tmp_path: Path, capsys: Any
) -> None:
    with Landscape.open(own.url, create=False) as landscape, landscape.read() as connection:
        notes = dict(map(tuple, connection.execute(sa.text("SELECT log_size, note FROM checkpoints"))))
    held = tmp_path / "held.note"
    for size, note in notes.items():
        held.write_text(note)
        _, found = verify(exported / "folder", own.vkey, capsys, "--checkpoint", str(held))
        assert f"the log begins with the {size} entries of your checkpoint" in found["checked"]
    size, note = min(notes.items())
    folder = Path(shutil.copytree(exported / "folder", tmp_path / "folder"))
    lines = lines_of(folder, "log.jsonl")
    (folder / "log.jsonl").write_bytes(b"".join([lines[0].replace(b'"at":"2', b'"at":"1'), *lines[1:]]))
    follow(folder)
    held.write_text(note)
    code, found = verify(folder, own.vkey, capsys, "--checkpoint", str(held))
    rewritten = f"the first {size} entries are not those of your checkpoint: the log was rewritten"
    assert code == 1 and rewritten in found["wrong"]


# Erased, unsigned, unfinished ---------------------------------------------------------------------------------------


def test_what_was_erased_is_said(own: Sealed, tmp_path: Path, capsys: Any) -> None:
    erase_row(own, "R4")
    with Landscape.open(own.url, create=False) as landscape:
        exporting.export(landscape, own.second, tmp_path / "folder")
    code, found = verify(tmp_path / "folder", own.vkey, capsys)
    assert (code, found["wrong"]) == (0, [])
    assert any("payloads that were erased" in line for line in found["not_checked"])
    assert b'"erased":true' in (tmp_path / "folder" / "payloads.jsonl").read_bytes()


def test_a_run_without_a_key_is_exported_and_said_to_be_unsigned(
    database_url: str, tmp_path: Path, capsys: Any
) -> None:
    unsealed = by_hand(a_run("r1"))
    with Landscape.open(database_url) as landscape:
        landscape.write(*unsealed)
        with pytest.raises(NotOnRecordError, match="run r1 has no seal"):
            exporting.export(landscape, "r1", tmp_path / "early")
        sealing.seal_ended(landscape)
        exporting.export(landscape, "r1", tmp_path / "run.zip")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".zip") == ["run.zip"]
    elspeth_verify.main([str(tmp_path / "run.zip"), "--without-key", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert "who signed the seal: no key was given, so anybody may have made it" in found["not_checked"]
    assert any("records are those that were sealed" in line for line in found["checked"])


def test_what_the_next_key_has_signed_is_believed_by_who_holds_the_first(
    own: Sealed, tmp_path: Path, capsys: Any
) -> None:
    old, new = load_signer(str(own.key)), Signer.read(new_signer_key("next"))
    assert old is not None
    with Landscape.open(own.url, signer=old) as landscape:
        installation_log.rotate(landscape, old, new.verifier)
    with Landscape.open(own.url, signer=new) as landscape:
        landscape.write(*by_hand(a_run("r9")))
        sealing.seal_ended(landscape)
        exporting.export(landscape, "r9", tmp_path / "r9.zip")
        (tmp_path / "r9.json").write_bytes(proving.prove(landscape, "r9", "key"))
    believed = f"key next+{new.verifier.key_id.hex()} follows yours, which has signed that: log entry "
    for name in ("r9.zip", "r9.json"):
        _, found = verify(tmp_path / name, own.vkey, capsys)
        assert any(line.startswith(believed) for line in found["checked"])
        assert f"the seal is signed by next+{new.verifier.key_id.hex()}" in found["checked"]
        _, found = verify(tmp_path / name, Signer.read(new_signer_key("next")).verifier.vkey, capsys)
        assert any("is signed by another key than yours" in line for line in found["wrong"])


# The command --------------------------------------------------------------------------------------------------------


def test_a_target_that_is_there_already_is_left_alone(landscape: Landscape, sealed: Sealed, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "run.zip").write_text("mine")
    for name in ("full", "run.zip", "no/where"):
        with pytest.raises(SettingsError):
            exporting.export(landscape, sealed.second, tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "mine", "run.zip"]


@pytest.mark.parametrize("form", ["elspeth", "openlineage", "prov"])
def test_the_command_writes_each_format(sealed: Sealed, tmp_path: Path, form: str) -> None:
    command = ["export", "latest", "--to", str(tmp_path / "it"), "--format", form, "--landscape", sealed.url]
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0, told.output
    assert told.output == f"{tmp_path}/it: run {sealed.second}\n"
    assert (tmp_path / "it").is_dir() is (form == "elspeth")
