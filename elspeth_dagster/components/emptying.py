"""A run for the files that have come into an inbox: when there are enough of them, or when one has waited long enough.

First the files are taken into a partition, in one transaction of the landscape; then that partition is asked for. A
tick that died in between is made up for by the next one, from what was taken: a file is in exactly one partition, and a
partition has its run. The cursor may be lost: it only saves asking again for what has been asked for.
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from elspeth_dagster.components.opening import opened_landscape
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.core.timing_spec import SensorSpec
from elspeth_dagster.landscape import inboxes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.resources.landscape import made_if_missing
from elspeth_dagster.resources.listing import files_like
from elspeth_dagster.stages.settling import Sightings, Version, complete, flushes, kept, looked, remembered

AT_ONCE = 100
"""The most runs that a tick asks for; the next one goes on."""
MOST_FILES = 1000
"""The most files of a partition where it isn't declared."""


class Cursor(NamedTuple):
    """What is remembered from tick to tick: the files that wait, and the last partition that was asked for."""

    seen: Sightings
    asked: str

    @classmethod
    def of(cls, text: str | None) -> "Cursor":
        """The cursor that a tick left; an empty one before the first."""
        document = json.loads(text) if text else {}
        return cls(remembered(document.get("seen", {})), document.get("asked", ""))

    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps({"seen": kept(self.seen), "asked": self.asked})


def inbox_sensor(spec: AssessmentSpec, root: Path, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """The sensor that empties an assessment's inbox; off until somebody turns it on."""
    assert spec.sensor is not None
    inbox = Inbox(spec, spec.sensor, root)
    return dg.SensorDefinition(
        name=f"{spec.name}_inbox",
        job=job,
        evaluation_fn=inbox.tick,
        minimum_interval_seconds=spec.sensor.every_seconds,
        description=f"Assesses {spec.name}: the files that have come, as one partition, when there are "
        f"{spec.sensor.files or MOST_FILES} of them or one has waited for {spec.sensor.max_age_seconds} seconds.",
    )


class Inbox:
    """One assessment's inbox, looked into once a tick."""

    def __init__(self, spec: AssessmentSpec, sensor: SensorSpec, root: Path) -> None:
        self._name = spec.name
        self._pattern = spec.source.inbox or ""
        self._partitions = spec.partitions.dynamic if spec.partitions else None
        self._sensor = sensor
        self._root = root

    def tick(self, context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """The runs to start, or why there is none. Raises SourceError or LandscapeError when it can't be known."""
        now, before = time.time(), Cursor.of(context.cursor)
        with made_if_missing(), opened_landscape(context) as landscape:
            seen = looked(before.seen, self._untaken(landscape), now)
            waiting = complete(seen, self._marked(), self._sensor, now)
            for files in flushes(waiting, self._sensor, now, MOST_FILES):
                for file in inboxes.take(landscape, self._name, self._next_key(landscape), files):
                    seen.pop(file, None)
            with landscape.read() as connection:
                due = inboxes.partitions_after(connection, self._name, before.asked)[:AT_ONCE]
        return self._result(Cursor(seen, due[-1] if due else before.asked), due, len(waiting))

    def _untaken(self, landscape: Landscape) -> dict[str, Version]:
        """The files in the inbox that are in no partition."""
        found = files_like(self._pattern, self._root)
        if self._sensor.marker is not None:
            found = {name: version for name, version in found.items() if not name.endswith(self._sensor.marker)}
        with landscape.read() as connection:
            taken = inboxes.taken(connection, self._name, list(found))
        return {name: version for name, version in found.items() if name not in taken}

    def _marked(self) -> set[str]:
        """The files whose marker is there."""
        if (marker := self._sensor.marker) is None:
            return set()
        return {name.removesuffix(marker) for name in files_like(self._pattern + marker, self._root)}

    def _next_key(self, landscape: Landscape) -> str:
        """The key of the next partition: a number, which orders them, and when it was made."""
        with landscape.read() as connection:
            last = inboxes.last_partition(connection, self._name) or "0"
        number = int(last.partition("_")[0]) + 1
        return f"{number:06}_{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"

    def _result(self, cursor: Cursor, due: list[str], waiting: int) -> dg.SensorResult:
        if not due:
            told = f"{waiting} complete files wait, {len(cursor.seen) - waiting} are still being written."
            return dg.SensorResult(skip_reason=told, cursor=cursor.text())
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=key, partition_key=key) for key in due],
            dynamic_partitions_requests=[dg.AddDynamicPartitionsRequest(str(self._partitions), due)],
            cursor=cursor.text(),
        )
