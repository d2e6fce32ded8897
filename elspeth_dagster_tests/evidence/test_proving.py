"""A proof holds what is about its row, and nothing that is about another."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.core.errors import LandscapeError, NotOnRecordError, SettingsError
from elspeth_dagster.landscape import guards, proving, scopes, sealing
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Artifact
from elspeth_dagster.landscape.words import ScopeKind
from elspeth_dagster_tests.evidence.conftest import HOSTILE, Sealed, by_hand, erase_row
from elspeth_dagster_tests.evidence.verifying import bodies, of_table, verify
from elspeth_dagster_tests.landscape.sample import a_run, an_open_run, only

ROWS = ["R0", "R1", "R2", "R3", "R4", "R5"]
TEXTS = {row: rf"(one|two) of row {row[1]}\." for row in ROWS[:5]} | {"R5": "(one|two) of R5"}


@pytest.mark.parametrize("row", ROWS)
def test_no_text_name_or_key_of_another_row_is_in_it(landscape: Landscape, sealed: Sealed, row: str) -> None:
    proof = proving.prove(landscape, sealed.second, row)
    document = json.loads(proof)
    texts = b"\n".join([proof, *bodies(document).values()])
    found = {other for other, text in TEXTS.items() if re.search(text.encode(), texts)}
    assert found == {row}
    with landscape.read() as connection:
        known = {
            one.scope.subject: one.scope for one in scopes._latest(connection, "trial", ScopeKind.ROW, ROWS).values()
        }
    assert document["scope_keys"] == {str(known[row].scope_id): known[row].naming_key.hex()}
    for other, scope in known.items():
        named = f"hmac-sha256:{scope.scope_id}:" in proof.decode()
        assert (named or scope.naming_key.hex() in proof.decode() or f'"{other}"' in proof.decode()) is (other == row)
    assert b"ragged" not in texts


def test_it_has_the_rows_membership_and_nobody_elses(landscape: Landscape, sealed: Sealed) -> None:
    document = json.loads(proving.prove(landscape, sealed.second, "R2"))
    assert [len(of_table(document, table)) for table in ("batches", "batch_members", "token_parents", "rows")] == [
        1
    ] * 4
    assert of_table(document, "batch_members")[0]["record"]["ordinal"] == 2
    assert len(of_table(document, "answers")) == 4
    assert {one["record"]["kind"] for one in of_table(document, "tokens")} == {"slice", "batch", "row"}


def test_an_error_in_words_that_may_speak_of_other_rows_is_left_out(landscape: Landscape, sealed: Sealed) -> None:
    with landscape.read() as connection:
        ended = connection.scalars(sa.text("SELECT error FROM node_state_ends WHERE error LIKE '%HTTP 401%'")).all()
    assert ended
    document = json.loads(proving.prove(landscape, sealed.first, "R1"))
    assert len(of_table(document, "node_states")) == len(of_table(document, "node_state_ends")) + 1
    assert of_table(document, "run_ends") == []  # another run took over: that is said in words
    assert b"HTTP 401" not in b"".join(bodies(document).values())


def test_it_is_the_same_from_both_databases_and_at_any_time(
    landscape: Landscape, sealed: Sealed, copied: Sealed
) -> None:
    with Landscape.open(copied.url, create=False) as other:
        assert proving.prove(landscape, sealed.second, "R1") == proving.prove(other, copied.second, "R1")
    assert proving.prove(landscape, sealed.second[:8], "#1") == proving.prove(landscape, sealed.second, "R1")


def test_a_record_that_was_changed_after_the_seal_is_not_proven(own: Sealed) -> None:
    spoil(own, "UPDATE answers SET detail = 'Nothing.' WHERE status = 'refused'", "answers")
    with Landscape.open(own.url, create=False) as landscape:
        with pytest.raises(LandscapeError, match=r"answers \(state_id .*query_key cs1_.*\) is not what was sealed"):
            proving.prove(landscape, own.second, "R4")
        proving.prove(landscape, own.second, "R1")


def test_hashes_that_do_not_lead_to_the_sealed_root_prove_nothing(own: Sealed) -> None:
    spoil(own, "UPDATE seal_tiles SET hashes = zeroblob(length(hashes)) WHERE table_name = 'rows'", "seal_tiles")
    with (
        Landscape.open(own.url, create=False) as landscape,
        pytest.raises(LandscapeError, match="don't lead to its root"),
    ):
        proving.prove(landscape, own.second, "R1")


def spoil(own: Sealed, statement: str, table: str) -> None:
    """Change the record by plain SQL, with the guards off."""
    database = Database.open(own.url)
    with database.write() as connection:
        for name in connection.scalars(
            sa.text(f"SELECT name FROM sqlite_master WHERE tbl_name = '{table}' AND type = 'trigger'")
        ).all():
            connection.execute(sa.text(f"DROP TRIGGER {name}"))
        assert connection.execute(sa.text(statement)).rowcount
        guards.install(connection)
    database.close()


def test_what_was_erased_is_said_and_the_rest_still_holds(own: Sealed, tmp_path: Path, capsys: Any) -> None:
    erase_row(own, "R4")
    with Landscape.open(own.url, create=False) as landscape:
        (tmp_path / "proof").write_bytes(proving.prove(landscape, own.second, "R4"))
    code, found = verify(tmp_path / "proof", own.vkey, capsys)
    assert (code, found["wrong"]) == (0, [])
    assert any("payloads that were erased: their names are still sealed" in line for line in found["not_checked"])
    assert "    (erased)" in found["story"]


def test_without_a_seal_or_a_row_it_is_refused(landscape: Landscape, sealed: Sealed, sqlite_url: str) -> None:
    with pytest.raises(NotOnRecordError, match="has no row 'R9' on record; near it"):
        proving.prove(landscape, sealed.second, "R9")
    with Landscape.open(sqlite_url) as other:
        other.write(*by_hand(an_open_run("r1")))
        with pytest.raises(NotOnRecordError, match="run r1 has no seal"):
            proving.prove(other, "r1", "key")


def test_only_tables_of_the_rows_partition_that_carry_it_are_in_it(sqlite_url: str) -> None:
    facts = by_hand(a_run("r1"))
    table = only(Artifact, facts)
    others = [
        table._replace(
            artifact_id=f"r1-{name}-{partition}",
            asset_key=f"{partition}/{name}",
            partition_key=partition,
            uri=f"file:///{partition}/{name}",
        )
        for partition in ("2026-01-31", "2026-02-01")
        for name in ("answers", "failures")
    ]
    with Landscape.open(sqlite_url) as landscape:
        landscape.write(*facts[:-1], *others, facts[-1])
        sealing.seal_ended(landscape)
        document = json.loads(proving.prove(landscape, "r1", "key"))
    found = [one["record"]["artifact_id"] for one in of_table(document, "artifacts")]
    assert found == ["r1-answers-2026-01-31", "r1-artifact"]


def test_the_command_writes_a_new_file_for_its_owner_alone(sealed: Sealed, tmp_path: Path, capsys: Any) -> None:
    to = tmp_path / "R5.json"
    command = ["prove", sealed.second, "--row", "R5", "--to", str(to), "--landscape", sealed.url]
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0 and f"elspeth-verify {to} --key VKEY" in told.output
    assert to.stat().st_mode & 0o777 == 0o600
    code, found = verify(to, sealed.vkey, capsys)
    assert code == 0 and any(HOSTILE.split("\n")[1] in line for line in found["story"])
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2 and "can't be made: File exists" in again.output


def test_a_file_that_can_not_be_written_whole_is_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), proving.new_file(tmp_path / "half") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError), proving.new_file(tmp_path / "no" / "where"):
        pass
