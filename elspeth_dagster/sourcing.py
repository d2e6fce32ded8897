"""Which files a slice is read from: the one of each partition, or those that the inbox's sensor took into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from elspeth_dagster.core.canonical import Json, canonical_json, sha256
from elspeth_dagster.core.errors import SourceError, SourceMissingError
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.landscape import inboxes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.resources.source import open_source
from elspeth_dagster.stages.finding import Found
from elspeth_dagster.stages.reading import Record, Rejection, find_records, judged


class Read(NamedTuple):
    """A file that was read: for which partition, its name, what it held."""

    partition: str | None
    source: str
    sha256: str
    size: int
    records: int

    def told(self, *, with_partition: bool = False) -> dict[str, Json]:
        """What is put on record of it."""
        return {name: fact for name, fact in self._asdict().items() if with_partition or name != "partition"}


class Slice:
    """The files of a run's partitions, read one after another as one source; of no partition, the one file.

    `missing` are those that were not there, where `source.missing` lets them be skipped, as errors would name them.
    """

    def __init__(self, landscape: Landscape, spec: AssessmentSpec, root: Path, partitions: Sequence[str]) -> None:
        self._spec = spec
        self._root = root
        self._partitions: Sequence[str | None] = partitions or [None]
        self._files = [(key, path) for key in self._partitions for path in _paths(landscape, spec, key)]
        self._are_named = spec.source.inbox is not None or len(self._partitions) > 1
        self._read: list[Read] = []
        self.missing: list[str] = []

    def records(self) -> Iterator[Record | Rejection]:
        """Every record, as it is judged. Raises SourceError as `open_source` and `read_records` do."""
        return judged((found for file in self._files for found in self._found(*file)), self._spec.source)

    def _found(self, partition: str | None, path: str) -> Iterator[Found]:
        values = self._spec.partitions.values_of(partition) if self._spec.partitions and partition else {}
        try:
            with open_source(path, self._root, partition, values) as (stream, name):
                records = 0
                for found in find_records(stream, name, self._spec.source):
                    records += 1
                    yield replace(found, file=name if self._are_named else None, partition=partition)
        except SourceMissingError as error:
            if self._spec.source.missing == "fail":
                raise
            self.missing.append(str(error))
        else:
            self._read.append(Read(partition, name, stream.sha256, stream.size, records))

    @property
    def is_missing(self) -> bool:
        """Whether not one of its files was there; known once it was read."""
        return bool(self.missing) and not self._read

    @property
    def versions(self) -> dict[str | None, str | None]:
        """What the source of each partition is known by; known once it was read."""
        return {partition: self._version(partition) for partition in self._partitions}

    def _version(self, partition: str | None) -> str | None:
        """The hash of its one file, or of the list of their hashes; None without any."""
        hashes = [one.sha256 for one in self._read if one.partition == partition]
        if self._spec.source.inbox is None:
            return hashes[0] if hashes else None
        return sha256(canonical_json(hashes))

    def facts(self) -> dict[str, Json]:
        """What was read, with size and hash, and what was not there; known once it was read."""
        missing: dict[str, Json] = {"missing": list(self.missing)} if self.missing else {}
        if self._are_named:
            return {"files": [one.told(with_partition=len(self._partitions) > 1) for one in self._read], **missing}
        only = self._read[0].told() if self._read else {}
        return {**{name: fact for name, fact in only.items() if name != "records"}, **missing}


def _paths(landscape: Landscape, spec: AssessmentSpec, partition: str | None) -> list[str]:
    """The paths of a slice's files, with their places for the partition key. Raises SourceError if there are none."""
    if spec.source.inbox is None:
        return [spec.source.path or ""]
    with landscape.read() as connection:
        held = inboxes.files_of(connection, spec.name, partition or "")
    if not held:
        raise SourceError(
            f"{spec.source.inbox}: no files were taken into partition {partition!r}. The sensor {spec.name}_inbox makes"
            " the partitions of an inbox; launch one of these."
        )
    return held
