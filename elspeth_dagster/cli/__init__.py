"""The command line: `elspeth-dagster`. It works on the landscape, knows no Dagster, and starts without a database.

A command is a module of `commands`, two where they are a pair. What a command needs is imported in the command, so that
`--help` is there at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from elspeth_dagster.cli.commands import (
    calls,
    cost,
    erase,
    estimate,
    explain,
    explorer,
    handing_over,
    hold,
    keys,
    reclaim,
    review,
    runs,
    schema,
    verify,
)
from elspeth_dagster.cli.exits import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="elspeth-dagster")
def main() -> None:
    """Ask the record of LLM assessments why a row got its score, what was asked, and what it cost.

    Every run of an assessment writes what it does into an audit database, the landscape: each source row, each
    prompt, call and reply, each answer and outcome. Most commands read it. Few write: `review import` adds what people
    say of answers, `reclaim` the end of a run that died, `verify --seal-missing` a seal, `keys rotate` another key,
    `hold` legal holds, and `upgrade` brings the schema up. `erase` takes away texts that must go, leaves their names
    and a record of itself. No command changes any other fact.

    \b
    Why did this row get this score?     elspeth-dagster explain latest --row S-1001
    And this one question of it?         elspeth-dagster explain latest --row S-1001 --question cs1_diagnosis
    Which runs are there?                elspeth-dagster runs --assessment case_studies
    Which calls went wrong?              elspeth-dagster calls 3f2a91c4 --errors
    Which may have been paid for naught? elspeth-dagster calls 3f2a91c4 --unknown
    What did it cost?                    elspeth-dagster cost 3f2a91c4
    What will it cost?                   elspeth-dagster estimate my_project/defs/case_studies
    Which runs died and are still open?  elspeth-dagster reclaim
    What do people think of its answers? elspeth-dagster review export 3f2a91c4 --sample 50 --to sheet.csv
    May I read it in a browser?          elspeth-dagster explorer
    Is the record whole and unchanged?   elspeth-dagster verify --all
    How do I prove this one decision?    elspeth-dagster prove 3f2a91c4 --row S-1001 --to S-1001.json
    And hand over the whole run?         elspeth-dagster export 3f2a91c4 --to export.zip
    What would go if this row must?      elspeth-dagster erase --row S-1001 --reason ... --by ...

    RUN is a run's id, the first characters of it, or `latest`. Text from rows and replies is printed with control
    characters escaped; --json gives it exactly. An error is one sentence on stderr.

    \b
    Exit codes: 0 fine
                1 something is wrong: not on record, refused, or the record can't be used or was changed
                2 used wrongly: an unknown command, option or setting
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


for command in (
    explain.explain,
    runs.runs,
    calls.calls,
    cost.cost,
    estimate.estimate,
    reclaim.reclaim,
    review.review,
    explorer.explorer,
    verify.verify,
    keys.keys,
    handing_over.prove,
    handing_over.export_run,
    erase.erase,
    hold.hold,
    schema.roles,
    schema.upgrade,
):
    main.add_command(command)
