"""A run in which rows come to different ends, for those who read what is on record of it."""

from __future__ import annotations

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts


def run_trial(project: Project, server: FaultServer) -> str:
    """R0 went well, R1 was retried, R2 repaired, R3 failed, R4 had nothing to be asked about; record 5 was rejected."""
    server.configure(
        first_tries={"status": 429, "contains": "row 1.", "times": 1},
        rules=[
            {"act": "ok", "contains": "must be integer"},
            {"act": "wrong_types", "contains": "one of row 2."},
            {"act": "not_json", "contains": "two of row 3."},
        ],
    )
    project.declare(errors={"repair": 1, "retry_seconds": 30}, aggregate={"rows": 2})
    rows = [*rows_of_texts(5), {"id": "", "cs1_text": "lost", "cs2_text": "R99 is lost"}]
    rows[4]["cs2_text"] = " "
    project.write_rows(rows)
    run = project.run()
    assert run.success
    return run.run_id
