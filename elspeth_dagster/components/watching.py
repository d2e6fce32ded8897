"""A run for each partition whose file is complete, started by a sensor that looks for the files of `source.path`.

The cursor holds what the last tick saw of the files that are still to settle, and which version of the others was dealt
with. It may be lost: a run key names the partition (with `changed: ask` also the file's version), and Dagster starts no
run for a key that had one. A partition that has its results when its file is first seen is left alone.

A run tells Dagster which version it read. Of a file that changed and is left to you, the sensor tells it, once the file
is complete again: what was made of it is then stale, and `automation: eager` asks for it. Never does the sensor tell of
a file that it asks a run for: automation could ask for the same between the two, and both would be paid.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.partitions_spec import BETWEEN_DIMENSIONS, PARTITION, DimensionSpec
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.core.timing_spec import SensorSpec
from elspeth_dagster.describing import SOURCE
from elspeth_dagster.observing import news
from elspeth_dagster.resources.listing import files_like, values_in
from elspeth_dagster.resources.source import hash_of
from elspeth_dagster.stages.settling import Sightings, Version, complete, kept, looked, remembered

AT_ONCE = 100
"""The most runs that a tick asks for; the next one goes on."""
TOLD_AT_ONCE = 10
"""The most files that a tick reads to tell their version: it has a minute."""
NAMED = 5
A_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"


class Cursor(NamedTuple):
    """What is remembered from tick to tick: files that are still to settle, and the version of each dealt with.

    `told` has the version of those that changed afterwards and were told to Dagster.
    """

    seen: Sightings
    done: Mapping[str, str]
    told: Mapping[str, str]

    @classmethod
    def of(cls, text: str | None) -> "Cursor":
        """The cursor that a tick left; an empty one before the first."""
        document = json.loads(text) if text else {}
        return cls(remembered(document.get("seen", {})), document.get("done", {}), document.get("told", {}))

    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps({"seen": kept(self.seen), "done": self.done, "told": self.told})


def files_sensor(
    spec: AssessmentSpec,
    root: Path,
    job: UnresolvedAssetJobDefinition,
    partitions: dg.PartitionsDefinition | None,
) -> dg.SensorDefinition:
    """The sensor that starts a run when a file of `source.path` is complete; off until somebody turns it on."""
    assert spec.sensor is not None
    watch = Watch(spec, spec.sensor, root, partitions)
    return dg.SensorDefinition(
        name=f"{spec.name}_files",
        job=job,
        evaluation_fn=watch.tick,
        minimum_interval_seconds=spec.sensor.every_seconds,
        description=f"Assesses {spec.name}: a partition when its file is complete, each file once.",
    )


class Watch:
    """One assessment's files, looked at once a tick."""

    def __init__(
        self, spec: AssessmentSpec, sensor: SensorSpec, root: Path, partitions: dg.PartitionsDefinition | None
    ) -> None:
        self._path = spec.source.path or ""
        self._spec = spec
        self._sensor = sensor
        self._root = root
        self._partitions = partitions
        self._known = _expressions(spec)

    def tick(self, context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """The runs to start, or why there is none. Raises SourceError when the files can't be listed."""
        now, before = time.time(), Cursor.of(context.cursor)
        found = files_like(self._path, self._root)
        done = {name: text for name, text in before.done.items() if name in found}
        told = {name: text for name, text in before.told.items() if name in found}
        fresh = {name: version for name, version in found.items() if done.get(name) != _text(version)}
        changed = [name for name in fresh if name in done and self._sensor.changed == "ignore"]
        untold = {name: version for name, version in fresh.items() if told.get(name) != _text(version)}
        seen = looked(before.seen, untold, now)
        due = self._due(complete(seen, self._marked(), self._sensor, now))
        news_of = self._news(context.instance, {name: due[name] for name in due if name in changed})
        due = {name: key for name, key in due.items() if name not in changed}
        has_results = self._keys_with_results(context.instance) if due else set()
        asked = {name: key for name, key in due.items() if name in done or key not in has_results}
        asked = dict(list(asked.items())[:AT_ONCE])
        for name in [name for name in due if name in asked or due[name] in has_results]:
            done[name] = _text(seen.pop(name).version)
        for name in news_of:
            told[name] = _text(seen.pop(name).version)
        observed = [one for news_ in news_of.values() for one in news_]
        return self._result(Cursor(seen, done, told), asked, changed, observed)

    def _news(
        self, instance: dg.DagsterInstance, files: Mapping[str, str | None]
    ) -> dict[str, list[dg.AssetObservation]]:
        """What is new of some of these files; one that has gone meanwhile is left out."""
        source = dg.AssetKey([self._spec.name, SOURCE])
        found = {}
        for name, key in list(files.items())[:TOLD_AT_ONCE]:
            values = self._spec.partitions.values_of(key) if self._spec.partitions and key else {}
            with suppress(SourceError):
                found[name] = news(instance, {source: hash_of(self._path, self._root, key, values)}, key)
        return found

    def _due(self, whole: Sightings) -> dict[str, str | None]:
        """The complete files whose partition there is, each with its key."""
        keys = {name: self._key_of(name) for name in whole}
        return {name: key for name, key in keys.items() if self._partitions is None or key is not None}

    def _key_of(self, name: str) -> str | None:
        """The partition key of a file; None where there is no such partition (yet)."""
        values = values_in(self._path, name, self._known)
        if values is None or self._spec.partitions is None:
            return None
        key = values.get(PARTITION) or BETWEEN_DIMENSIONS.join(values[place] for place in sorted(values))
        return key if self._is_partition(key) and self._name_of(key) == name else None

    def _name_of(self, key: str) -> str:
        """The file that a run of a partition would read."""
        assert self._spec.partitions is not None
        name = self._path
        for place, value in self._spec.partitions.values_of(key).items():
            name = name.replace(f"{{{place}}}", value)
        return name

    def _is_partition(self, key: str) -> bool:
        if isinstance(self._partitions, dg.MultiPartitionsDefinition):
            dimensions = self._partitions.partitions_defs
            values = key.split(BETWEEN_DIMENSIONS)
            return len(values) == len(dimensions) and all(
                _has(dimension.partitions_def, value) for dimension, value in zip(dimensions, values, strict=True)
            )
        return self._partitions is not None and _has(self._partitions, key)

    def _marked(self) -> set[str]:
        """The files whose marker is there."""
        if (marker := self._sensor.marker) is None:
            return set()
        return {name.removesuffix(marker) for name in files_like(self._path + marker, self._root)}

    def _keys_with_results(self, instance: dg.DagsterInstance) -> set[str | None]:
        results = dg.AssetKey([self._spec.name, "results"])
        if self._partitions is None:
            return {None} if instance.get_latest_materialization_event(results) else set()
        return set(instance.get_materialized_partitions(results))

    def _result(
        self,
        cursor: Cursor,
        asked: Mapping[str, str | None],
        changed: list[str],
        observed: list[dg.AssetObservation],
    ) -> dg.SensorResult:
        if not asked:
            return dg.SensorResult(skip_reason=_why(cursor, changed), asset_events=observed, cursor=cursor.text())
        requests = [self._request(key, cursor.done[name]) for name, key in asked.items()]
        return dg.SensorResult(
            run_requests=requests,
            asset_events=observed,
            dynamic_partitions_requests=list(self._additions([key for key in asked.values() if key is not None])),
            cursor=cursor.text(),
        )

    def _request(self, key: str | None, version: str) -> dg.RunRequest:
        run_key = key or self._spec.name
        run_key = f"{run_key}@{version}" if self._sensor.changed == "ask" else run_key
        return dg.RunRequest(run_key=run_key, partition_key=key)

    def _additions(self, keys: list[str]) -> Iterator[dg.AddDynamicPartitionsRequest]:
        partitions = self._spec.partitions
        if partitions is None:
            return
        if partitions.dynamic is not None:
            yield dg.AddDynamicPartitionsRequest(partitions.dynamic, list(dict.fromkeys(keys)))
        for name, dimension in (partitions.multi or {}).items():
            if dimension.dynamic is not None:
                values = dict.fromkeys(partitions.values_of(key)[name] for key in keys)
                yield dg.AddDynamicPartitionsRequest(dimension.dynamic, list(values))


def _has(partitions: dg.PartitionsDefinition, key: str) -> bool:
    """Whether there is such a partition; a dynamic one is added when its file is there."""
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return key.isprintable() and not any(sign in key for sign in ("..", "\\", "::"))
    return partitions.has_partition_key(key)


def _expressions(spec: AssessmentSpec) -> dict[str, str]:
    """What the values of a path's places look like, as regular expressions."""
    partitions = spec.partitions
    if partitions is None or partitions.multi is None:
        return {}
    return {name: _expression(dimension) for name, dimension in partitions.multi.items()}


def _expression(dimension: DimensionSpec) -> str:
    return A_DAY if dimension.daily is not None else "[^/]+"


def _text(version: Version) -> str:
    return f"{version.size}-{version.stamp}"


def _why(cursor: Cursor, changed: list[str]) -> str:
    """Why a tick starts no run."""
    waited_for = [name for name in cursor.seen if name not in changed]
    told = f"No further file is complete: {len(cursor.done)} dealt with, {len(waited_for)} waited for."
    if changed:
        listed = ", ".join([*changed[:NAMED], *(["…"] if len(changed) > NAMED else [])])
        told += f" Changed since their run was asked for, and left to you: {listed}."
    return told
