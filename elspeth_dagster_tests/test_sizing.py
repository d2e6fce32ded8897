"""The sizing page says what its script computes, and the script computes what was measured."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    spec = util.spec_from_file_location("sizing", DOCS / "sizing.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["sizing"] = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_table_that_the_script_prints(sizing: ModuleType) -> None:
    printed = CliRunner().invoke(sizing.main, [])
    table, meanwhile = printed.stdout.strip().split("\n\n")
    page = (DOCS / "sizing.md").read_text()
    assert printed.exit_code == 0 and table in page and meanwhile in page


@pytest.mark.parametrize("of", ["PROCESS_CALLS", "CALL_BYTES", "ROW_BYTES", "WAL_BYTES", "IMAGE_BYTES", "DUMP_BYTES"])
def test_the_page_has_the_numbers_that_the_script_goes_by(sizing: ModuleType, of: str) -> None:
    assert f"{getattr(sizing, of):,}" in (DOCS / "sizing.md").read_text()


def test_what_is_computed_is_what_was_measured(sizing: ModuleType) -> None:
    found = sizing.sized(1_000_000, sizing.Workload())
    assert found.disk / found.calls == pytest.approx(2564, rel=0.02)
    assert sizing.wal_of_a_call(1_000_000, 200_000) == pytest.approx(6050, rel=0.25)
    assert sizing.wal_of_a_call(1_000_000, 10**7) < 3_700 * 1.2
    assert sizing.wal_of_a_call(10**9, 300_000) == pytest.approx(3_700 + 3.1 * 5_500, rel=0.02)


def test_the_narrowest_limit_decides(sizing: ModuleType) -> None:
    by = sizing.Workload
    assert sizing.rate_of(by(requests_per_minute=600, tokens_per_minute=None)) == 10
    assert sizing.rate_of(by(requests_per_minute=600, tokens_per_minute=12_000, tokens_per_call=100)) == 2
    assert sizing.rate_of(by(requests_per_minute=None, tokens_per_minute=None)) == sizing.PROCESS_CALLS


def test_more_in_flight_than_a_step_has_takes_more_steps(sizing: ModuleType) -> None:
    found = sizing.sized(600, sizing.Workload(requests_per_minute=6_000, tokens_per_minute=None, latency_seconds=2))
    assert (found.in_flight, found.steps, found.connections, found.seconds) == (200, 4, 16, 6)
    fast = sizing.sized(600, sizing.Workload(requests_per_minute=180_000, tokens_per_minute=None, latency_seconds=0.01))
    assert fast.steps == 3
