"""The landscape as a command opens it: for reading, or with the key that seals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa

    from elspeth_dagster.landscape.ledger import Landscape


@contextmanager
def sealing(url: str) -> Iterator[Landscape]:
    """The landscape with the deployment's key and anchors."""
    from elspeth_dagster.landscape.anchoring import read_anchors
    from elspeth_dagster.landscape.ledger import Landscape
    from elspeth_dagster.landscape.signing import load_signer

    signer = load_signer(os.environ.get("ELSPETH_SIGNING_KEY"))
    anchors = read_anchors(os.environ.get("ELSPETH_ANCHORS"))
    with Landscape.open(url, create=False, signer=signer, anchors=anchors) as landscape:
        yield landscape


@contextmanager
def reading(url: str) -> Iterator[sa.Connection]:
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape, landscape.read() as connection:
        yield connection
