"""The landscape as a Dagster resource: opened once per process, closed when its step is done.

A run makes the landscape where there is none; whoever looks in from outside of a run, as a sensor does, makes none,
unless it has something to put there.
"""

import contextlib
from collections.abc import Generator, Iterator
from contextvars import ContextVar

import dagster as dg
from pydantic import ConfigDict, Field

from elspeth_dagster.landscape.anchoring import read_anchors
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.signing import load_signer

_makes_one = ContextVar("makes_one", default=False)


@contextlib.contextmanager
def made_if_missing() -> Iterator[None]:
    """Let the landscape be made, where there is none, also outside of a run, for the time of a block."""
    token = _makes_one.set(True)
    try:
        yield
    finally:
        _makes_one.reset(token)


class LandscapeResource(dg.ConfigurableResource[Landscape]):
    """The audit database that every row, call, reply and answer is written to before it is used.

    Ops and assets that take `landscape: dg.ResourceParam[Landscape]` get the open landscape. Never nest this resource
    in another one: Dagster would open it twice.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # there may be passwords in it

    url: str = Field(
        description="SQLAlchemy URL: sqlite:////data/landscape.sqlite, or postgresql://user:password@host/name. "
        "Give one with a password by EnvVar.",
        json_schema_extra={"dagster__is_secret": True},
    )
    signing_key: str | None = Field(
        default=None,
        description="Path of the key file that seals are signed with, mode 0600: `elspeth-dagster keys generate` makes "
        "one, `keys command` one for a KMS. Without it seals are unsigned.",
    )
    anchors: str | None = Field(
        default=None,
        description="Where the log's checkpoints are put outside of the database: full paths, fsspec URLs, "
        "`command:…` or `tsa:…`, separated by commas. Give those with a password by EnvVar.",
        json_schema_extra={"dagster__is_secret": True},
    )

    explorer_url: str | None = Field(
        default=None,
        description="Where `elspeth-dagster explorer` is reached: materializations link to their run's page there.",
    )

    @contextlib.contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Landscape, None, None]:
        signer, anchors = load_signer(self.signing_key), read_anchors(self.anchors)
        create = context.run is not None or _makes_one.get()
        with Landscape.open(self.url, create=create, signer=signer, anchors=anchors) as landscape:
            landscape.explorer_url = self.explorer_url
            yield landscape
