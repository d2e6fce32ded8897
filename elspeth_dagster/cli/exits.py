"""The exit codes beside 0, and how a known error comes to one."""

from __future__ import annotations

from typing import Any

import click

from elspeth_dagster.cli.printing import remark
from elspeth_dagster.core.errors import ElspethError, LandscapeError, ReviewError

FOUND_WRONG, USED_WRONGLY = 1, 2


class Commands(click.Group):
    """Commands whose known errors are one sentence on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ElspethError as error:
            lines = str(error).split("\n") if isinstance(error, ReviewError) else [str(error)]
            for line in [f"Error: {lines[0]}", *lines[1:]]:
                remark(line)
            ctx.exit(FOUND_WRONG if isinstance(error, LandscapeError | ReviewError) else USED_WRONGLY)
