"""The landscape as a Dagster resource: opened once per process, closed when its step is done.

A run makes the landscape where there is none; whoever looks in from outside of a run, as a sensor does, makes none.
"""

import contextlib
from collections.abc import Generator

import dagster as dg
from pydantic import Field

from elspeth_dagster.landscape.ledger import Landscape


class LandscapeResource(dg.ConfigurableResource[Landscape]):
    """The audit database that every row, call, reply and answer is written to before it is used.

    Ops and assets that take `landscape: dg.ResourceParam[Landscape]` get the open landscape. Never nest this resource
    in another one: Dagster would open it twice.
    """

    url: str = Field(
        description="SQLAlchemy URL: sqlite:////data/landscape.sqlite, or postgresql://user:password@host/name. "
        "Give one with a password by EnvVar.",
        json_schema_extra={"dagster__is_secret": True},
    )

    explorer_url: str | None = Field(
        default=None,
        description="Where `elspeth-dagster explorer` is reached: materializations link to their run's page there.",
    )

    @contextlib.contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Landscape, None, None]:
        with Landscape.open(self.url, create=context.run is not None) as landscape:
            landscape.explorer_url = self.explorer_url
            yield landscape
