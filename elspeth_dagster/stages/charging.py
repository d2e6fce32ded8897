"""What a call counts for in a budget, when what it cost is not known: never nothing where it may have been paid."""

from __future__ import annotations

from elspeth_dagster.stages.calling import ErrorClass, Exchange

UNPAID = frozenset({ErrorClass.UNREACHABLE, ErrorClass.NOT_SENT})
"""What never reached a provider."""
PAID_STATUSES = (200, 299)
"""An answer with another status is not billed."""


def charge(bound_nanousd: int, cost_nanousd: int | None, exchange: Exchange | None) -> int:
    """The cost where it is known, nothing where none can have come up, else the most that it can have been.

    Without an exchange nobody knows whether the call was sent.
    """
    if exchange is None:
        return bound_nanousd
    if cost_nanousd is not None:
        return cost_nanousd
    least, most = PAID_STATUSES
    is_unpaid = exchange.status is not None and not least <= exchange.status <= most
    return 0 if is_unpaid or exchange.error in UNPAID else bound_nanousd
