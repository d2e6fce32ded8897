"""Definitions are loaded far more often than anything runs, so loading them leaves aside what only a step needs."""

from __future__ import annotations

import subprocess
import sys

SLOW = ("aiohttp", "genai_prices", "krippendorff", "openai", "pandas", "psycopg", "pyarrow", "tokenizers", "xllamacpp")
LOADED = f"""
import sys
from elspeth_dagster.definitions import defs
defs().get_repository_def().get_all_jobs()
print(*(name for name in {SLOW!r} if name in sys.modules))
"""


def test_loading_the_definitions_imports_nothing_that_only_a_step_needs() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []
