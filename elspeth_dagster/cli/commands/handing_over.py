"""`prove` and `export`: files for those who have no database."""

from __future__ import annotations

from pathlib import Path

import click

from elspeth_dagster.cli.options import landscape_option
from elspeth_dagster.cli.printing import show


@click.command()
@click.argument("run")
@click.option("--row", "row_key", required=True, metavar="KEY", help="The row's key, or '#3' for the record's index.")
@click.option("--assessment", metavar="A", help="Where several assessments of the run have a row with this key.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The new file.")
@landscape_option
def prove(run: str, row_key: str, assessment: str | None, to: Path, url: str) -> None:
    """Write the story of one row as one file that anybody can check.

    In it are the row's records and texts, the hashes that lead from each record to the seal of the run, the seal, and
    what the installation's log says of it; and the key by which this row's texts can be held to their names. No data of
    other rows are in it. Whoever gets it checks it with `elspeth-verify FILE --key VKEY`: without this database or
    software, with a verifier key that he has from you by another way.

    \b
    elspeth-dagster prove 3f2a91c4 --row S-1001 --to S-1001.json
    """
    from elspeth_dagster.landscape import proving
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape:
        proof = proving.prove(landscape, run, row_key, assessment=assessment)
    with proving.new_file(to) as file:
        file.write(proof)
    show([f"{to}: {len(proof):,} bytes. Check it with: elspeth-verify {to} --key VKEY"])


@click.command("export")
@click.argument("run")
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    metavar="TO",
    help="A new folder, or a new file whose name ends in .zip; a new file for the other formats.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["elspeth", "openlineage", "prov"]),
    default="elspeth",
    show_default=True,
    help="What can be checked against the seal; or OpenLineage events; or PROV-JSON.",
)
@landscape_option
def export_run(run: str, to: Path, form: str, url: str) -> None:
    """Write all that a run left on record as files that need no database.

    The records, the texts that they name, the keys of the rows' scopes, the seal and the log up to it: every answer can
    be told from these files alone, and `elspeth-verify TO --key VKEY` checks that nothing was changed, left out or
    added. Two exports of a run are the same bytes. They hold all that people wrote: keep them as you keep that.

    \b
    elspeth-dagster export 3f2a91c4 --to export.zip
    elspeth-dagster export latest --to lineage.jsonl --format openlineage
    elspeth-dagster export latest --to provenance.json --format prov
    """
    from elspeth_dagster.landscape import exporting, lineage_events, provenance
    from elspeth_dagster.landscape.ledger import Landscape

    write = {"elspeth": exporting.export, "openlineage": lineage_events.export, "prov": provenance.export}[form]
    with Landscape.open(url, create=False) as landscape:
        run_id = write(landscape, run, to)
    show([f"{to}: run {run_id}"])
