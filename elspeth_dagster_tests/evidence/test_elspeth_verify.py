"""The second verifier: it agrees with what others publish, and refuses, by name, whatever was done to a proof."""

import base64
import copy
import hashlib
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elspeth_dagster import elspeth_verify
from elspeth_dagster.core.merkle import Tree
from elspeth_dagster.core.notes import Signer, new_signer_key
from elspeth_dagster.landscape import proving
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.core.test_merkle import INCLUSION, LEAVES, ROOTS
from elspeth_dagster_tests.evidence.conftest import Sealed
from elspeth_dagster_tests.evidence.verifying import Change, changed, of_table, run_alone, verify


@pytest.fixture(scope="module")
def proofs(sealed: Sealed) -> dict[str, bytes]:
    """The proofs of rows, by key; that of R1 from its first run as `first`."""
    with Landscape.open(sealed.url, create=False) as landscape:
        of_second = {key: proving.prove(landscape, sealed.second, key) for key in ("R1", "R3", "R4", "R5")}
        return {**of_second, "first": proving.prove(landscape, sealed.first, "R1")}


# What others publish ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_it_follows_the_published_proofs(index: int, size: int, proof: list[str]) -> None:
    leaf, hashes = elspeth_verify.leaf_of(LEAVES[index]), [bytes.fromhex(text) for text in proof]
    assert elspeth_verify.root_by(leaf, index, size, hashes) == bytes.fromhex(ROOTS[size])
    for wrong in (hashes[:-1], [*hashes, bytes(32)], [bytes(32), *hashes]):
        if wrong != hashes:
            assert elspeth_verify.root_by(leaf, index, size, wrong) != bytes.fromhex(ROOTS[size])


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_it_comes_to_the_published_roots(size: int) -> None:
    tree = elspeth_verify.Growing()
    for leaf in LEAVES[:size]:
        tree.add(elspeth_verify.leaf_of(leaf))
    assert tree.root() == bytes.fromhex(ROOTS[size])


def test_both_programs_agree_on_every_proof_of_small_trees() -> None:
    for size in range(1, 66):
        leaves = [hashlib.sha256(bytes([number])).digest() for number in range(size)]
        tree = Tree(leaves)
        for index in range(size):
            assert elspeth_verify.root_by(leaves[index], index, size, tree.inclusion(index)) == tree.root()


def test_openssl_agrees_on_the_signature_of_a_seal(sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path) -> None:
    text, _, line = json.loads(proofs["R1"])["note"].partition("\n\n")
    public = base64.b64decode(sealed.vkey.split("+", 2)[2])[1:]
    (tmp_path / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    (tmp_path / "signature").write_bytes(base64.b64decode(line.split(" ")[2])[-64:])
    given = ["-keyform", "DER", "-inkey", "key", "-in", "text", "-sigfile", "signature"]
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", *given]
    for tail, code in (("\n", 0), ("\n\n", 1)):
        (tmp_path / "text").write_text(text + tail)
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == code


# As a stranger runs it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["R1", "R3", "R4", "R5", "first"])
def test_a_proof_holds(sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any, row: str) -> None:
    (tmp_path / "proof").write_bytes(proofs[row])
    code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
    assert (code, found["wrong"]) == (0, [])
    assert any(line.startswith("the seal is in the log") for line in found["checked"])


def test_alone_it_tells_what_was_asked_what_came_back_and_what_was_made_of_it(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "proof").write_bytes(proofs["R3"])
    (tmp_path / "key").write_text(sealed.vkey + "\n")
    told = run_alone(tmp_path, "proof", "--key", "key")
    assert told.returncode == 0, told.stderr
    for part in (
        "Row 'R3' of assessment 'trial'",
        "| R3,text one of row 3.,text two of row 3.",
        "user| Judge the depth of cs1: text one of row 3.",
        "(retry) to openai, model gpt-4o-mini",
        "came back",
        "(these are the reply's own values)",
        "refused: not_finite",
        "What became of the row: failed",
        "All that could be checked holds.",
    ):
        assert part in told.stdout


def test_a_reply_that_was_taken_from_an_earlier_run_is_told_and_proven(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "proof").write_bytes(proofs["R1"])
    _, found = verify(tmp_path / "proof", sealed.vkey, capsys)
    assert sum(f"of run {sealed.first}, without asking again" in line for line in found["story"]) == 4
    assert any(f"that the seal of run {sealed.first} is over" in line for line in found["checked"])


def test_hostile_text_can_not_drive_the_terminal(sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "proof").write_bytes(proofs["R5"])
    told = run_alone(tmp_path, "proof", "--key", sealed.vkey)
    assert told.returncode == 0
    assert all(line.isprintable() for line in told.stdout.splitlines())
    assert "\\x1b[31mtext\\u202e of one R5\\u200b" in told.stdout


def test_without_a_key_it_says_that_nobody_is_known_to_have_signed(
    proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "proof").write_bytes(proofs["R4"])
    assert elspeth_verify.main([str(tmp_path / "proof"), "--without-key"]) == 0
    assert "who signed the seal: no key was given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing", "--key", "KEY"], "No such file"),
        (["proof", "--key", "nonsense"], "No such file"),
        (["proof", "--key", "a+00000000+AAAA"], "no Ed25519 key"),
        (["proof", "--key", "KEY", "--row", "R1"], "go with an export"),
        (["proof"], "required"),
    ],
)
def test_used_wrongly_it_says_so_with_2(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "proof").write_bytes(proofs["R4"])
    told = run_alone(tmp_path, *(sealed.vkey if word == "KEY" else word for word in arguments))
    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr


# What was done to a proof -------------------------------------------------------------------------------------------


def edit(table: str, column: str, value: Any) -> Change:
    return lambda proof: of_table(proof, table)[0]["record"].update({column: value})


def drop(table: str, number: int = 0) -> Change:
    return lambda proof: proof["records"].remove(of_table(proof, table)[number])


def swap_records(proof: dict[str, Any]) -> None:
    first, second = of_table(proof, "replies")[:2]
    first["record"], second["record"] = second["record"], first["record"]


def swap_bodies(proof: dict[str, Any]) -> None:
    first, second = proof["payloads"][:2]
    first["base64"], second["base64"] = second["base64"], first["base64"]


def cut_a_proof(proof: dict[str, Any]) -> None:
    of_table(proof, "calls")[0]["proof"].pop()


def say_of_another_row(proof: dict[str, Any]) -> None:
    proof["row_key"] = "R2"


def take_the_log_away(proof: dict[str, Any]) -> None:
    proof["log"]["entries"] = [one for one in proof["log"]["entries"] if "run_seal" not in one["entry"]]


def change_the_log(proof: dict[str, Any]) -> None:
    [entry] = [one for one in proof["log"]["entries"] if "run_start" in one["entry"]][-1:]
    entry["entry"] = entry["entry"].replace("sha256:", "sha256:0")[:-1] + "}"


def move_to_a_table(proof: dict[str, Any]) -> None:
    of_table(proof, "replies")[0]["index"] = 0


def add_a_key(proof: dict[str, Any]) -> None:
    proof["scope_keys"]["7777"] = "00" * 32


def forge_the_key(proof: dict[str, Any]) -> None:
    [scope] = proof["scope_keys"]
    proof["scope_keys"][scope] = "00" * 32


def drop_a_payload(proof: dict[str, Any]) -> None:
    proof["payloads"].pop()


def change_the_seal(proof: dict[str, Any]) -> None:
    proof["note"] = proof["note"].replace("status completed", "status interrupted")


def sign_no_more(proof: dict[str, Any]) -> None:
    proof["note"] = proof["note"].partition("— ")[0]


def add_a_field(proof: dict[str, Any]) -> None:
    of_table(proof, "answers")[0]["record"]["score"] = "99"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("answers", "status", "refused"), "is not what was sealed"),
        (edit("token_outcomes", "outcome", "assessed"), "is not what was sealed"),
        (edit("calls", "sent_at", 1.5), "no JSON that this format has"),
        (edit("calls", "sent_at", "1"), "has a value in calls.sent_at that can't stand there"),
        (swap_records, "is not what was sealed"),
        (cut_a_proof, "is not what was sealed"),
        (move_to_a_table, "where the sealed tree has no replies"),
        (add_a_field, "has other columns"),
        (drop("replies"), "has no reply, not even an unknown one"),
        (drop("rows"), "which is not there"),
        (drop("calls", 1), "were left out: there are tries [2]"),
        (drop("token_outcomes"), "has no outcome"),
        (drop("batches"), "refers by batch_id to batches"),
        (drop("node_states"), "refers by state_id to node_states"),
        (swap_bodies, "holds other bytes than its name says"),
        (drop_a_payload, "is not in the file"),
        (forge_the_key, "holds other bytes than its name says"),
        (add_a_key, "the key of scope 7777 is in the file, which is not about this row"),
        (say_of_another_row, "the proof says to be about row 'R2', and holds other rows: 'R3'"),
        (take_the_log_away, "the log has 1 starts and 0 seals of run"),
        (change_the_log, "is not in the log of the checkpoint"),
        (change_the_seal, "the signature of the seal doesn't fit"),
        (sign_no_more, "the seal is not signed"),
    ],
)
def test_whatever_is_done_to_a_proof_is_found_and_named(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any, change: Change, said: str
) -> None:
    (tmp_path / "proof").write_bytes(changed(proofs["R3"], change))
    code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
    assert code == 1
    assert any(said in line for line in found["wrong"]), found["wrong"]


def test_a_record_of_another_row_is_refused_although_it_was_sealed(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    other = json.loads(proofs["R4"])

    def add(proof: dict[str, Any]) -> None:
        proof["records"] += of_table(other, "calls")
        proof["records"].sort(key=lambda one: one["index"])
        proof["payloads"] = sorted_by_name(
            {one["ref"]: one for one in [*other["payloads"], *proof["payloads"]]}.values()
        )
        proof["scope_keys"] |= other["scope_keys"]

    (tmp_path / "proof").write_bytes(changed(proofs["R3"], add))
    code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
    call = of_table(other, "calls")[0]["record"]["call_id"]
    assert code == 1 and f"calls {call} is not about row 'R3': it was put into the proof" in found["wrong"]


def sorted_by_name(payloads: Any) -> list[dict[str, Any]]:
    return sorted(payloads, key=lambda one: elspeth_verify.stored_name(one["ref"]))


def test_a_proof_that_is_cut_off_is_refused(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    for size in (10, len(proofs["R4"]) // 2, len(proofs["R4"]) - 1):
        (tmp_path / "proof").write_bytes(proofs["R4"][:size])
        code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
        assert code == 1 and "the file is no JSON" in found["wrong"][0]


def test_another_key_is_refused_by_its_name(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "proof").write_bytes(proofs["R4"])
    other = Signer.read(new_signer_key("auditor.example/trial")).verifier.vkey
    code, found = verify(tmp_path / "proof", other, capsys)
    name = "+".join(sealed.vkey.split("+")[:2])
    assert code == 1 and f"the seal is signed by another key than yours: {name}" in found["wrong"]


def test_whoever_holds_several_keys_gives_them_all(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "proof").write_bytes(proofs["R4"])
    other = Signer.read(new_signer_key("auditor.example/trial")).verifier.vkey
    code, found = verify(tmp_path / "proof", other, capsys, "--key", sealed.vkey)
    assert (code, found["wrong"]) == (0, [])


def test_an_old_seal_or_checkpoint_is_refused_by_name(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    first = json.loads(proofs["first"])
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        f"the seal is of run {sealed.first}": lambda proof: proof.update(note=first["note"]),
        "it is older": lambda proof: proof["log"].update(checkpoint=first["log"]["checkpoint"]),
    }
    for said, change in changes.items():
        (tmp_path / "proof").write_bytes(changed(proofs["R3"], change))
        code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
        assert code == 1 and any(said in line for line in found["wrong"]), found["wrong"]


def test_records_of_an_earlier_run_that_tell_of_nothing_taken_are_refused(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    def forget_an_answer(proof: dict[str, Any]) -> None:
        drop("answers")(proof)

    (tmp_path / "proof").write_bytes(changed(proofs["R1"], forget_an_answer))
    code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
    assert code == 1 and any("tells of no reply about row 'R1'" in line for line in found["wrong"])


def test_a_key_that_yours_has_handed_over_to_is_believed_and_no_other() -> None:
    old, new, stranger = (Signer.read(new_signer_key(name)) for name in ("old", "new", "stranger"))
    for signer, believed in ((old, True), (stranger, False)):
        told = {"kind": "key_rotation", "new": new.verifier.vkey, "old": old.verifier.vkey, "origin": "o"}
        signature = base64.b64encode(signer.sign(elspeth_verify.canonical(told))).decode()
        entry = {**{name: told[name] for name in ("kind", "new", "old")}, "signature": signature, "index": 3, "at": "…"}
        ring, findings = elspeth_verify.Ring([elspeth_verify.key_of(old.verifier.vkey)]), elspeth_verify.Findings()
        elspeth_verify.believe_rotation(elspeth_verify.canonical(entry).decode(), 3, "o", ring, findings)
        assert (elspeth_verify.key_of(new.verifier.vkey) in ring.keys) is believed
        assert bool(findings.wrong) is not believed


# Hostile files ------------------------------------------------------------------------------------------------------

DEEP = b"[" * 200_000
PLACES = [
    ["records", 3],
    ["records", 2, "index"],
    ["records", 2, "proof"],
    ["records", 2, "record"],
    ["payloads", 0],
    ["payloads", 0, "ref"],
    ["log", "entries"],
    ["log", "entries", 0],
]
HUGE_NUMBER = b'{"format":' + b"9" * 100_000 + b"}"


@pytest.mark.parametrize("data", [b"", b"null", b"\xff\xfe", DEEP, HUGE_NUMBER, b'{"format":"elspeth-proof v1"}'])
def test_nonsense_is_refused(sealed: Sealed, tmp_path: Path, capsys: Any, data: bytes) -> None:
    (tmp_path / "proof").write_bytes(data)
    code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
    assert code == 1 and len(found["wrong"]) == 1 and found["checked"] == []


@pytest.mark.parametrize(
    "values", [None, True, 1, "x", [], {}, [None], {"": None}, -1, "\x1b[2J", [[]], {"table": "runs"}]
)
def test_other_kinds_of_values_anywhere_are_findings_and_never_a_crash(
    sealed: Sealed, proofs: dict[str, bytes], tmp_path: Path, capsys: Any, values: Any
) -> None:
    document = json.loads(proofs["R4"])
    for path in [*([name] for name in document), *PLACES]:
        spoilt = copy.deepcopy(document)
        at: Any = spoilt
        for step in path[:-1]:
            at = at[step]
        if at[path[-1]] == values:
            continue
        at[path[-1]] = values
        (tmp_path / "proof").write_bytes(elspeth_verify.canonical(spoilt))
        code, found = verify(tmp_path / "proof", sealed.vkey, capsys)
        is_said = code == 1 and bool(found["wrong"])
        assert is_said or path == ["log"], path


def test_a_zip_that_would_explode_is_refused_unread(sealed: Sealed, tmp_path: Path, capsys: Any) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", bytes(50_000_000))
    code, found = verify(tmp_path / "bomb.zip", sealed.vkey, capsys)
    assert code == 1 and "another tool packed it" in found["wrong"][0]
    endless = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0x0800, 0, 0, 0x21, 0, 0xFFFFFFFF, 0xFFFFFFFF, 1, 0) + b"a"
    (tmp_path / "endless.zip").write_bytes(endless)
    code, found = verify(tmp_path / "endless.zip", sealed.vkey, capsys)
    assert (code, found["wrong"]) == (1, ["the zip is cut off"])


def test_a_folder_with_links_out_of_it_is_refused(sealed: Sealed, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "manifest.json").symlink_to("/dev/zero")
    code, found = verify(tmp_path / "export", sealed.vkey, capsys)
    assert (code, found["wrong"]) == (1, ["'manifest.json' is no plain file"])
