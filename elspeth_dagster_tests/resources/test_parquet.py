"""Tables are written a row group at a time, so that a large one needs no more memory than a small one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from elspeth_dagster.landscape.records import NodeState
from elspeth_dagster.resources import parquet
from elspeth_dagster.resources.parquet import Table
from elspeth_dagster_tests.landscape.sample import a_run, only

SCHEMA = pa.schema([("text", pa.string())])


def batches(count: int, rows: int, text: str, taken: list[int]) -> Iterator[pa.RecordBatch]:
    for number in range(count):
        taken.append(number)
        yield pa.RecordBatch.from_pydict({"text": [text] * rows}, SCHEMA)


def written(folder: Path, *given: pa.RecordBatch) -> list[int]:
    """The rows of each row group."""
    table = Table(SCHEMA, iter(given), only(NodeState, a_run("r1")))
    parquet._write(table, UPath(folder / "table.parquet"))
    found = pq.ParquetFile(folder / "table.parquet").metadata
    return [found.row_group(number).num_rows for number in range(found.num_row_groups)]


def test_columns_are_read_a_row_group_at_a_time_and_none_that_is_not_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3], "b": [4, 5, 6]}), tmp_path / "t.parquet", row_group_size=2)
    pages = list(parquet.read_pages(str(tmp_path / "t.parquet"), ["b", "absent"]))
    assert [page.to_pydict() for page in pages] == [{"b": []}, {"b": [4, 5]}, {"b": [6]}]


@pytest.mark.parametrize(
    ("rows", "text", "groups"),
    [(5000, "short", [20_000, 20_000, 10_000]), (500, "long" * 1000, [2500, 2500])],
    ids=["by rows", "by bytes"],
)
def test_a_row_group_has_so_many_rows_or_bytes(tmp_path: Path, rows: int, text: str, groups: list[int]) -> None:
    assert written(tmp_path, *batches(10, rows, text, [])) == groups


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    assert written(tmp_path) == []
    assert pq.read_table(tmp_path / "table.parquet").schema == SCHEMA


def test_no_more_is_taken_than_a_row_group_needs() -> None:
    taken: list[int] = []
    next(parquet._groups(batches(100, 10_000, "short", taken)))
    assert taken == [0, 1]
