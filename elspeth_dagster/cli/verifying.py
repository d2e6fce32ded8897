"""Verify for a person: what was found, sentence by sentence, and on the way a line now and then on how far it is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from elspeth_dagster.cli.printing import remark
from elspeth_dagster.core.errors import NoteError, SettingsError
from elspeth_dagster.core.notes import Verifier
from elspeth_dagster.landscape import auditing, installation_log, sealing
from elspeth_dagster.landscape.findings import Report
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.signing import read_signer

EVERY = 2.0  # seconds between two lines of progress


class Progress:
    """Says on stderr how far it is, when it takes longer."""

    def __init__(self) -> None:
        self._records: Counter[str] = Counter()
        self._next = time.monotonic() + EVERY

    def __call__(self, what: str, count: int) -> None:
        """Count these records of this kind."""
        self._records[what] += count
        if time.monotonic() >= self._next:
            remark(f"{what}: {self._records[what]:,} so far")
            self._next = time.monotonic() + EVERY


def verify(
    landscape: Landscape, run: str | None, anchors: Sequence[str], keys: Sequence[str], certificates: Path | None
) -> Report:
    """Verify one run, or all. Raises SettingsError for a key that is none, or an anchor that can't be read."""
    run_ids = None
    if run is not None:
        with landscape.read() as connection:
            run_ids = [auditing.run_named(connection, run)]
    return auditing.verify(
        landscape, run_ids, anchors=anchors, keys=_known(keys), certificates=certificates, progress=Progress()
    )


def _known(keys: Sequence[str]) -> list[Verifier]:
    try:
        return [Verifier.read(key.strip()) for key in keys]
    except NoteError as error:
        raise SettingsError(f"--key: {error}") from None


def told(report: Report) -> Iterator[str]:
    """The report in sentences."""
    for finding in report.findings:
        yield f"{finding.run_id or 'log'}: {finding}"
    if report.found > len(report.findings):
        yield f"… and {report.found - len(report.findings)} more"
    for line in report.remarks:
        yield f"Note: {line}."
    erased = f", {report.erased:,} payloads erased" if report.erased else ""
    counted = f"{len(report.runs):,} runs, {report.records:,} records, {report.payloads:,} payloads{erased}"
    yield f"{'Sound' if report.is_sound else f'{report.found:,} findings'}: {counted}."


def seal_missing(landscape: Landscape) -> Iterator[str]:
    """Seal every run that ended and has no seal, and say which."""
    sealed = sealing.seal_ended(landscape, at_most=None)
    yield from (f"Sealed run {run_id}." for run_id in sealed.run_ids)
    yield from sealed.warnings


def rotate(landscape: Landscape, path: str) -> Iterator[str]:
    """Hand over from the landscape's key to that of a file."""
    new = read_signer(path)
    if landscape.signer is None:
        raise SettingsError("ELSPETH_SIGNING_KEY must name the key that hands over")
    installation_log.rotate(landscape, landscape.signer, new.verifier)
    landscape.signer = new
    yield f"{new.verifier.vkey} signs from now on: set ELSPETH_SIGNING_KEY to {path}."
    yield from sealing.publish(landscape)
