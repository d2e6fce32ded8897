"""`verify`: whether the record is whole and unchanged."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from elspeth_dagster.cli.exits import FOUND_WRONG
from elspeth_dagster.cli.opening import sealing
from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import remark, show, show_json


@click.command()
@click.argument("run", required=False)
@click.option("--all", "all_runs", is_flag=True, help="Verify every run.")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    metavar="FILE",
    help="A file, folder/ or fsspec URL with checkpoints that were kept outside; besides those of ELSPETH_ANCHORS. "
    "May be given several times.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="VKEY",
    help="The verifier key that you know the record is signed by; besides that of ELSPETH_SIGNING_KEY.",
)
@click.option(
    "--tsa-certificates",
    "certificates",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The certificates (PEM) that timestamping services are trusted by: checks their timestamps, by openssl.",
)
@click.option("--seal-missing", is_flag=True, help="First seal the runs that ended and have no seal.")
@json_option
@landscape_option
def verify(
    run: str | None,
    all_runs: bool,
    anchors: tuple[str, ...],
    keys: tuple[str, ...],
    certificates: Path | None,
    seal_missing: bool,
    as_json: bool,
    url: str,
) -> None:
    """Verify that the record is whole and unchanged, or say what is not.

    Of the installation's log: that no entry is missing or changed, by its checkpoints and those that are held outside.
    Of each run: that its records are those that were sealed, that its seal is signed, that every reference leads
    somewhere, that every row, call and state has its end, and that every payload has the bytes that its name says.
    Each finding names the record, and the rows and questions whose results are in doubt. Payloads that were erased are
    counted, not blamed.

    A checkpoint from outside (--anchor, ELSPETH_ANCHORS) and a key from outside (--key) make the difference: without
    them, whoever could rewrite all of the record could have done so. docs/evidence.md says who can do what, and what
    finds it.

    \b
    elspeth-dagster verify latest
    elspeth-dagster verify --all --anchor /audit/checkpoints.txt --key "$(cat our.vkey)"
    elspeth-dagster verify --seal-missing            only seal what has no seal yet
    """
    from elspeth_dagster.cli import verifying

    if run and all_runs:
        raise click.UsageError("Name a run or give --all, not both.")
    if not (run or all_runs or seal_missing):
        raise click.UsageError("Name a run, or give --all or --seal-missing.")
    with sealing(url) as landscape:
        if seal_missing:
            for line in verifying.seal_missing(landscape):
                remark(line)
        if not (run or all_runs):
            return
        report = verifying.verify(landscape, run, anchors, keys, certificates)
    if as_json:
        show_json(report.document())
    else:
        show(verifying.told(report))
    if not report.is_sound:
        sys.exit(FOUND_WRONG)
