"""What the hosts of a run must agree on: the landscape, the package, the storage.

The process that hands out steps puts on the run by what it goes (`tags_of_run`); each step compares before it does
anything, and says which setting of its host to change. Where nobody put it there, as on one host, the run's record is
compared alone.
"""

import socket
from collections.abc import Mapping
from importlib.metadata import version

import dagster as dg
import sqlalchemy as sa

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.settings import check_reachable
from elspeth_dagster.identity import code_version
from elspeth_dagster.landscape import installation_log, runs
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.resources.references import STORAGE_TAG, mark

OF_MANY_HOSTS = ("celery", "celery-k8s", "k8s", "dask")
"""The names of Dagster's executors whose steps may run elsewhere than the run."""
LANDSCAPE_TAG, PACKAGE_TAG = "elspeth/landscape", "elspeth/package"


def tags_of_run(landscape: Landscape, storage: str) -> Mapping[str, str]:
    """By what a run goes: the landscape's identity, this package, and the storage's marker, which is made here.

    Raises SettingsError for a landscape that only one host can use, and for a storage that can't be written.
    """
    with landscape.read() as connection:
        check_reachable(connection.dialect.name)
    whose = landscape.decide(installation_log.begun)
    return {LANDSCAPE_TAG: whose, PACKAGE_TAG: _package(), STORAGE_TAG: mark(storage)}


def check_hosts_agree(context: dg.OpExecutionContext, landscape: Landscape) -> None:
    """Raise SettingsError where this step's host goes by another landscape or package than its run."""
    with landscape.read() as connection:
        if context.job_def.executor_def.name in OF_MANY_HOSTS:
            check_reachable(connection.dialect.name)
        _check_landscape(connection, context)
        _check_package(connection, context)


def check_recorded_here(context: dg.OpExecutionContext, landscape: Landscape) -> None:
    """Raise SettingsError where a step's run, which an earlier step put on record, is not in this host's landscape."""
    with landscape.read() as connection:
        if not runs.is_on_record(connection, context.run_id):
            raise _other_landscape(connection, "another")


def _check_landscape(connection: sa.Connection, context: dg.OpExecutionContext) -> None:
    expected = context.run.tags.get(LANDSCAPE_TAG)
    if expected is not None and expected != installation_log.origin(connection):
        raise _other_landscape(connection, expected)


def _other_landscape(connection: sa.Connection, expected: str) -> SettingsError:
    here = installation_log.origin(connection) or "an empty one"
    return SettingsError(
        f"the landscape of host {socket.gethostname()} is not the one that this run is recorded in ({expected}; here: "
        f"{here}). Set ELSPETH_LANDSCAPE_URL to the same database on all hosts"
    )


def _check_package(connection: sa.Connection, context: dg.OpExecutionContext) -> None:
    expected = context.run.tags.get(PACKAGE_TAG) or _on_record(connection, context.run_id)
    if expected in (None, _package()):
        return
    raise SettingsError(
        f"host {socket.gethostname()} has another elspeth-dagster than this run began with ({_package()}; the run: "
        f"{expected}). Install the same one on all hosts, start their workers anew, and launch again: what is answered "
        "is not asked again"
    )


def _on_record(connection: sa.Connection, run_id: str) -> str | None:
    if not runs.is_on_record(connection, run_id):
        return None
    run = runs.get(connection, run_id)
    return _told(run.package_version, run.code_version)


def _package() -> str:
    return _told(version("elspeth-dagster"), code_version())


def _told(package_version: str, code: str) -> str:
    return f"{package_version}, code {code.removeprefix('sha256:')[:12]}"
