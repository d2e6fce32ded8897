"""When a file that arrives is complete: told by its marker, or by that it has stayed the same for a while.

A clock of the file's own says nothing: copies keep the time of their original, and other machines have other clocks.
So what counts is how long we have seen the file as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.timing_spec import SensorSpec


class Version(NamedTuple):
    """A file as it is now: size in bytes, and whatever its filesystem tells of its last change."""

    size: int
    stamp: str


class Sighting(NamedTuple):
    """A file as it is now, and since when (seconds of our clock) we have seen it so."""

    version: Version
    since: float


Sightings = Mapping[str, Sighting]


def kept(sightings: Sightings) -> dict[str, list[Json]]:
    """Sightings as JSON keeps them."""
    return {name: [*one.version, one.since] for name, one in sightings.items()}


def remembered(document: Mapping[str, Any]) -> dict[str, Sighting]:
    """Sightings that JSON kept."""
    return {name: Sighting(Version(size, stamp), since) for name, (size, stamp, since) in document.items()}


def looked(seen: Mapping[str, Sighting], found: Mapping[str, Version], now: float) -> dict[str, Sighting]:
    """The files that are there, each with since when it is as it is; one that went or changed begins anew."""
    return {
        name: seen[name] if name in seen and seen[name].version == version else Sighting(version, now)
        for name, version in found.items()
    }


def complete(
    sightings: Mapping[str, Sighting], marked: Collection[str], sensor: SensorSpec, now: float
) -> dict[str, Sighting]:
    """The files that are complete, the one that waits longest first."""
    whole = {name: one for name, one in sightings.items() if _is_complete(name, one, marked, sensor, now)}
    return dict(sorted(whole.items(), key=lambda file: (file[1].since, file[0])))


def _is_complete(name: str, sighting: Sighting, marked: Collection[str], sensor: SensorSpec, now: float) -> bool:
    """Whether a file is; an empty one is about to be written, unless its marker says otherwise."""
    if sensor.marker is not None:
        return name in marked
    return sighting.version.size > 0 and now - sighting.since >= sensor.settled_seconds


def flushes(waiting: Mapping[str, Sighting], sensor: SensorSpec, now: float, most: int) -> list[list[str]]:
    """The groups in which complete files leave an inbox: so many as were declared, and the rest when one is too old.

    `waiting` has the one that waits longest first; no group is larger than `most`.
    """
    names, size = list(waiting), min(sensor.files or most, most)
    whole = len(names) // size * size
    groups = [names[start : start + size] for start in range(0, whole, size)]
    rest = names[whole:]
    if rest and now - waiting[rest[0]].since >= (sensor.max_age_seconds or 0):
        groups.append(rest)
    return groups
