"""What all pages share: the landscape, opened for reading, and how this explorer was started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from elspeth_dagster.landscape.remembering import Memory

if TYPE_CHECKING:
    from elspeth_dagster.landscape.ledger import Landscape


@dataclass(frozen=True)
class Looking:
    """The landscape, what it is called on the pages, where Dagster's own pages are, if anywhere, and what is known."""

    landscape: Landscape
    name: str
    dagster_url: str | None = None
    memory: Memory = field(default_factory=Memory)

    def dagster_run(self, run_id: str) -> str | None:
        """The address of a run in Dagster's own pages."""
        return f"{self.dagster_url}/runs/{run_id}" if self.dagster_url else None


def looking(request: Request) -> Looking:
    """What the page of this request works with."""
    found: Looking = request.app.state.looking
    return found
