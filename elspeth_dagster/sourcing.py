"""Which files a slice is read from: the one of its partition, or those that the inbox's sensor took into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from elspeth_dagster.core.canonical import Json, canonical_json, sha256
from elspeth_dagster.core.errors import SourceError, SourceMissingError
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.landscape import inboxes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.resources.source import open_source
from elspeth_dagster.stages.finding import Found
from elspeth_dagster.stages.reading import Record, Rejection, find_records, judged


class Slice:
    """The files of one partition, read one after another as one source.

    `missing` are those that were not there, where `source.missing` lets them be skipped, as errors would name them.
    """

    def __init__(self, landscape: Landscape, spec: AssessmentSpec, root: Path, partition: str | None) -> None:
        self._spec = spec
        self._root = root
        self._partition = partition
        self._paths = _paths(landscape, spec, partition)
        self._values = spec.partitions.values_of(partition) if spec.partitions and partition else {}
        self._read: list[Mapping[str, Json]] = []
        self.missing: list[str] = []

    def records(self) -> Iterator[Record | Rejection]:
        """Every record, as it is judged. Raises SourceError as `open_source` and `read_records` do."""
        return judged((found for path in self._paths for found in self._found(path)), self._spec.source)

    def _found(self, path: str) -> Iterator[Found]:
        try:
            with open_source(path, self._root, self._partition, self._values) as (stream, name):
                records = 0
                for found in find_records(stream, name, self._spec.source):
                    records += 1
                    yield found if self._spec.source.inbox is None else replace(found, file=name)
        except SourceMissingError as error:
            if self._spec.source.missing == "fail":
                raise
            self.missing.append(str(error))
        else:
            self._read.append({"source": name, "sha256": stream.sha256, "size": stream.size, "records": records})

    @property
    def is_missing(self) -> bool:
        """Whether not one of its files was there; known once it was read."""
        return bool(self.missing) and not self._read

    @property
    def version(self) -> str | None:
        """What its source is known by: the hash of its one file, or of the list of their hashes; None without any."""
        hashes = [str(one["sha256"]) for one in self._read]
        if self._spec.source.inbox is None:
            return hashes[0] if hashes else None
        return sha256(canonical_json(hashes))

    def facts(self) -> dict[str, Json]:
        """What was read, with size and hash, and what was not there; known once it was read."""
        missing: dict[str, Json] = {"missing": list(self.missing)} if self.missing else {}
        if self._spec.source.inbox is not None:
            return {"files": [dict(one) for one in self._read], **missing}
        [only] = self._read or [{}]
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
