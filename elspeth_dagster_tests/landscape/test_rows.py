"""A slice's records are put on record in their order, so that a retried step knows where to go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from elspeth_dagster import admitting
from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.landscape import rows
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Node, Payload, Run
from elspeth_dagster.stages.finding import RejectionReason
from elspeth_dagster.stages.reading import Record, Rejection
from elspeth_dagster_tests.landscape.sample import a_run, only

NODE = "r1-read"


@pytest.fixture
def begun(landscape: Landscape) -> Landscape:
    """A landscape with a run that has admitted nothing."""
    nodes = [fact for fact in a_run("r1") if isinstance(fact, Node)]
    landscape.write(only(Payload, a_run("r1")), only(Run, a_run("r1")), *nodes)
    return landscape


def source(breaks_at: int | None = None) -> Iterator[Record | Rejection]:
    """Seven records, every third one bad."""
    for index in range(7):
        if index == breaks_at:
            raise SourceError("the file: broke off.")
        if index % 3 == 2:
            yield Rejection(index, None, None, RejectionReason.RAGGED, "It is ragged.", b"raw")
        else:
            yield Record(index, None, f"R{index}", {"id": f"R{index}"}, None)


def until(landscape: Landscape) -> int:
    with landscape.read() as connection:
        return rows.recorded_until(connection, "r1", NODE)


def test_admitting_goes_on_where_it_broke_off(begun: Landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admitting, "RECORDS_AT_ONCE", 3)
    assert until(begun) == 0
    with pytest.raises(SourceError):
        admitting.admit(begun, "r1", "a", NODE, source(breaks_at=4))
    assert until(begun) == 3
    for _ in range(2):
        assert admitting.admit(begun, "r1", "a", NODE, source()) == (5, 2)
        assert until(begun) == 7
    keys = [row.row.row_key for page in rows.in_source_order(begun, "r1", NODE, 2) for row in page]
    assert keys == ["R0", "R1", "R3", "R4", "R6"]
