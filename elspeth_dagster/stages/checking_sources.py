"""A source held against its partitions and its sensor: paths that no partition can have, files nothing looks for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from elspeth_dagster.core.partitions_spec import BETWEEN_DIMENSIONS, PARTITION, DimensionSpec, PartitionsSpec
from elspeth_dagster.core.spec import AssessmentSpec, KeyPath, Problem

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]*@")
NOT_IN_A_PARTITION_KEY = ("/", "\\", "..", "::")
NOT_IN_A_DIMENSION = (BETWEEN_DIMENSIONS, "[", "]", ",")


def source_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    """Why a source can't be cut or watched as it is declared."""
    yield from _path_problems(spec)
    yield from _asset_problems(spec)
    yield from _inbox_problems(spec)
    yield from _sensor_problems(spec)
    yield from _backfill_problems(spec)
    if spec.partitions is not None:
        yield from _static_key_problems(spec.partitions)


def _path_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    path, here = spec.source.path, ("source", "path")
    if path is None:
        return
    yield from _password_problems(path, here)
    named = list(dict.fromkeys(PLACEHOLDER.findall(path)))
    dimensions = list((spec.partitions and spec.partitions.multi) or ())
    for name in named:
        if name not in (PARTITION, *dimensions):
            yield Problem(here, f"`{{{name}}}` stands for nothing; only {_only(dimensions)}. Write that, or a name.")
    if PARTITION in named and spec.partitions is None:
        yield Problem(here, "`{partition}` stands for nothing without `partitions`. Declare them, or name one file.")
    if spec.partitions is not None and PARTITION not in named:
        yield from _lacking(dimensions, named)


def _only(dimensions: list[str]) -> str:
    places = [f"`{{{name}}}`" for name in (PARTITION, *sorted(dimensions))]
    return f"{places[0]} does" if len(places) == 1 else f"{', '.join(places[:-1])} and {places[-1]} do"


def _lacking(dimensions: list[str], named: list[str]) -> Iterator[Problem]:
    """Why several partitions would have the same rows."""
    here = ("source", "path")
    if not dimensions:
        yield Problem(here, "Every partition would read the same file. Write `{partition}` where its key belongs.")
    for name in dimensions:
        if name not in named:
            yield Problem(here, f"Every {name} would read the same file. Write `{{{name}}}` where its value belongs.")


def _password_problems(path: str, here: KeyPath) -> Iterator[Problem]:
    if PASSWORD_IN_URL.search(path):
        yield Problem(here, "The url holds a password, which would be put on record. Leave it to the environment.")


def _asset_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    parts = (spec.source.asset or spec.name).split("/")
    if not all(part.strip() for part in parts):
        yield Problem(("source", "asset"), "A part of the asset's key is blank. Write it like `team/table`.")
    if spec.source.asset and parts[0] == spec.name:
        yield Problem(
            ("source", "asset"), "It is an asset of this assessment itself. Name another, or rename this one."
        )


def _inbox_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    inbox, here = spec.source.inbox, ("source", "inbox")
    if inbox is None:
        return
    yield from _password_problems(inbox, here)
    folder, _, name = inbox.rpartition("/")
    if "*" not in name or any(sign in folder for sign in "*?[") or "**" in name:
        yield Problem(here, "It must have `*` in its last part, and nowhere else, such as `data/inbox/*.csv`.")
    if PLACEHOLDER.search(inbox):
        yield Problem(here, "The files of an inbox get their partition from the sensor. Take `{…}` out.")
    if spec.partitions is None or spec.partitions.dynamic is None:
        yield Problem(here, "The sensor adds a partition for files that have come. Give `partitions: {dynamic: …}`.")
    if spec.sensor is None or spec.sensor.max_age_seconds is None:
        yield Problem(here, "Nothing would take the files out of it. Give `sensor: {max_age_seconds: …}`.")


def _sensor_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    sensor = spec.sensor
    if sensor is None:
        return
    if spec.source.asset is not None:
        yield Problem(("sensor",), "It looks for files, and the source is an asset. Take it out.")
    of_inbox = [name for name in ("files", "max_age_seconds") if getattr(sensor, name) is not None]
    for name in of_inbox if spec.source.path is not None else ():
        yield Problem(("sensor", name), "It goes with `source.inbox`; each file of `source.path` has its own run. "
                      "Take it out.")  # fmt: skip
    if spec.source.inbox is not None and sensor.changed != "ignore":
        yield Problem(
            ("sensor", "changed"), "A file of an inbox is taken once. Take it out; what changed gets a new name."
        )


def _backfill_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    """Why several partitions can't be one run."""
    here, source = ("backfill",), spec.source
    if spec.backfill == "per_partition":
        return
    if spec.partitions is None:
        yield Problem(here, "`single_run` takes several partitions at once. Declare `partitions`, or take it out.")
    if source.path is None:
        kind = "asset" if source.asset is not None else "inbox"
        yield Problem(here, f"`single_run` reads a file per partition, and `source.{kind}` has none. Take it out.")
    if source.missing == "skip":
        told = "In one run the partitions with a file and those without can't end apart, as `source.missing: skip` has"
        yield Problem(here, f"{told} it. Take either out.")


def _static_key_problems(partitions: PartitionsSpec) -> Iterator[Problem]:
    yield from _key_problems(partitions, ("partitions",), NOT_IN_A_PARTITION_KEY)
    for name, dimension in (partitions.multi or {}).items():
        signs = (*NOT_IN_A_PARTITION_KEY, *NOT_IN_A_DIMENSION)
        yield from _key_problems(dimension, ("partitions", "multi", name), signs)


def _key_problems(dimension: DimensionSpec, path: KeyPath, refused: tuple[str, ...]) -> Iterator[Problem]:
    keys = dimension.static or []
    named = ", ".join(f"'{sign}'" for sign in refused)
    for i, key in enumerate(keys):
        here = (*path, "static", i)
        if key in keys[:i]:
            yield Problem(here, f"The partition key {key!r} is there twice. Take one out.")
        if not key.strip() or not key.isprintable() or any(sign in key for sign in refused):
            yield Problem(here, f"The partition key {key!r} can't name a file. Leave out {named} and line breaks.")
