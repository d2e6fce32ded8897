"""Two sealed runs of one slice, the second of which went on with the first one's replies: made once, and copied."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from elspeth_dagster.landscape import erasing
from elspeth_dagster.landscape.inserting import insert
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import TABLES, Fact, Payload
from elspeth_dagster.landscape.signing import load_signer, make_key
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts

NOT_BY_HAND = {
    *("Seal", "SealTile", "LogEntry", "Checkpoint", "AnchorReceipt"),
    *("Erasure", "ErasedPayload", "ErasedScope", "LegalHold", "LegalHoldRelease"),
}
"""The facts of a sample run that sealing and erasing make."""
HOSTILE = "\x1b[31mtext\u202e of one R5\u200b | not a bar\nsecond line."


def by_hand(facts: list[Fact]) -> list[Fact]:
    """Those that neither sealing nor erasing makes."""
    return [fact for fact in facts if type(fact).__name__ not in NOT_BY_HAND]


class Sealed(NamedTuple):
    """A landscape with two sealed runs, the verifier key, and the file of the key that signs."""

    url: str
    first: str
    second: str
    vkey: str
    key: Path


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """A run that stopped at its fourth row, and one that went on: errors, repairs, a refusal, a rejected record."""
    folder = tmp_path_factory.mktemp("sealed")
    signer = make_key(folder / "signing.key", "auditor.example/trial")
    with FaultServer() as server:
        project = Project(folder / "project", f"sqlite:///{folder}/landscape.sqlite", server.base_url)
        project.env |= {"ELSPETH_SIGNING_KEY": str(folder / "signing.key"), "ELSPETH_MAX_CONCURRENCY": "1"}
        project.declare(errors={"repair": 1, "retry_seconds": 2})
        project.write_rows([*rows_of_texts(5), {"id": "R5", "cs1_text": HOSTILE, "cs2_text": "two of R5"}])
        with (project.folder / "data" / "rows.csv").open("a") as file:
            file.write("R7,ragged\n")
        server.configure(rules=[{"status": 401, "contains": "row 3."}], record=True)
        first = project.run()
        server.configure(
            first_tries=[
                {"status": 500, "times": 1, "contains": "one of row 3."},
                {"act": "nan", "times": 1, "contains": "two of row 3."},
            ],
            rules=[{"act": "refusal", "contains": "one of row 4."}],
            record=True,
        )
        second = project.run()
        assert not first.success and second.success
    yield Sealed(project.landscape_url, first.run_id, second.run_id, signer.verifier.vkey, folder / "signing.key")


def facts_of(landscape: Landscape) -> list[Fact]:
    """All that is on record."""
    with landscape.read() as connection:
        kinds: Any = TABLES
        return [kind(*row) for kind, table in kinds.items() for row in connection.execute(table.select())]


def copy(source: str, target: str) -> None:
    """Read every record, and insert it into another landscape."""
    with Landscape.open(source, create=False) as landscape:
        facts = facts_of(landscape)
    leaning = [fact for fact in facts if isinstance(fact, Payload) and fact.dictionary_ref]
    alone = [fact for fact in facts if fact not in leaning]
    before = [fact for fact in alone if isinstance(fact, Payload) or TABLES[type(fact)].name == "scopes"]
    with Landscape.open(target) as landscape:
        landscape.decide(lambda connection: insert(connection, before))
        landscape.decide(lambda connection: insert(connection, leaning))
        landscape.decide(lambda connection: insert(connection, [fact for fact in alone if fact not in before]))


@pytest.fixture(scope="session")
def copied(sealed: Sealed, postgres: PostgresServer, postgres_template: str) -> Sealed:
    """The same on PostgreSQL."""
    url = postgres.url(postgres.create(postgres_template))
    copy(sealed.url, url)
    return sealed._replace(url=url)


@pytest.fixture
def landscape(sealed: Sealed) -> Iterator[Landscape]:
    """The landscape, to read from."""
    with Landscape.open(sealed.url, create=False) as opened:
        yield opened


@pytest.fixture
def own(sealed: Sealed, tmp_path: Path) -> Sealed:
    """A copy of its file that a test may spoil."""
    path = sealed.url.removeprefix("sqlite:///")
    shutil.copy(path, tmp_path / "own.sqlite")
    for beside in ("-wal", "-shm"):
        if os.path.exists(path + beside):  # noqa: PTH110
            shutil.copy(path + beside, tmp_path / f"own.sqlite{beside}")
    return sealed._replace(url=f"sqlite:///{tmp_path}/own.sqlite")


def erase_row(sealed: Sealed, row_key: str) -> None:
    """Erase whatever is about a row, as somebody asks for it."""
    with Landscape.open(sealed.url, create=False, signer=load_signer(str(sealed.key))) as landscape:
        erasing.erase(landscape, erasing.Wanted(row_key=row_key), "a request", "a clerk")
