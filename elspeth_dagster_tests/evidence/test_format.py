"""The specification, the second verifier and the landscape tell of the same tables."""

import re
from pathlib import Path

import pytest

from elspeth_dagster import elspeth_verify
from elspeth_dagster.landscape.columns import Instant, Number
from elspeth_dagster.landscape.record_bytes import SEALED
from elspeth_dagster.landscape.sealed_records import payload_columns
from elspeth_dagster_tests.test_docs import blocks, text


def test_the_page_lists_the_tables_as_the_second_verifier_has_them() -> None:
    listed = re.findall(r"```\n(runs  .*?)```", text("evidence-format.md"), re.DOTALL)
    assert listed == [elspeth_verify.FORMAT.removeprefix("\n")]


def test_they_come_in_the_order_in_which_they_are_sealed() -> None:
    assert list(elspeth_verify.TABLES) == [table.name for table in SEALED]


@pytest.mark.parametrize("table", SEALED, ids=lambda table: table.name)
def test_a_table_has_the_columns_that_the_format_says(table) -> None:  # type: ignore[no-untyped-def]
    told = elspeth_verify.TABLES[table.name]
    assert {one.name for one in told} == set(table.columns.keys())
    assert [one.name for one in told if one.is_key] == [one.name for one in table.primary_key.columns]
    assert {one.name for one in told if one.is_number} == {
        column.name for column in table.columns if isinstance(column.type, Number | Instant)
    }
    assert {one.name for one in told if one.is_optional} == {one.name for one in table.columns if one.nullable}
    assert {one.name for one in told if one.is_payload} == set(payload_columns(table))


@pytest.mark.parametrize("table", SEALED, ids=lambda table: table.name)
def test_a_table_refers_to_what_the_format_says(table) -> None:  # type: ignore[no-untyped-def]
    """A reference together with the run is told at its own column; `runs` is told once for all."""
    told = {(one.name, one.target) for one in elspeth_verify.TABLES[table.name] if one.target not in (None, "runs")}
    held = {
        (element.parent.name, element.column.table.name)
        for constraint in table.foreign_key_constraints
        for element in constraint.elements
        if element.parent.name != "run_id" and element.column.table.name not in ("payloads", "scopes", "runs")
    }
    assert told == held


def test_the_tool_named_on_the_page_is_the_one_that_is_there() -> None:
    page = text("evidence-format.md")
    assert "elspeth_dagster/elspeth_verify.py" in page and Path(elspeth_verify.__file__).name == "elspeth_verify.py"
    used = {word for block in blocks("evidence-format.md", "") for word in re.findall(r"--[a-z-]+", block)}
    options = {option for action in elspeth_verify._options()._actions for option in action.option_strings}
    assert used & {"--key", "--row", "--checkpoint"} <= options
