"""Which endpoint of a pool a question goes to.

    a row's ranking    all endpoints in an order that follows from the row's key; each is the first of as many rows as
                       its weight says. All questions of a row go to the same endpoint, in any process and run, so that
                       the provider's cache knows the beginning of their prompts
    in trouble         the next in the row's ranking, so its rows are spread over the others, again by weight
    no room            wait there a little; then whoever has room, since a slow endpoint must not hold back the rest
    tried in vain      those where this question was not tried yet go first

The ranking is weighted rendezvous hashing (https://www.snia.org/sites/default/files/SDC15_presentations/dist_sys/
Jason_Resch_New_Consistent_Hashings_Rev.pdf): an endpoint that is added or taken out moves only its own rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

PATIENCE_SECONDS = 1.0


class Standing(NamedTuple):
    """How an endpoint is: whether it answers and has not asked to wait for long; whether one more can be sent now."""

    is_well: bool
    has_room: bool


def ranking(key: str, endpoints: Sequence[tuple[str, float]]) -> tuple[int, ...]:
    """The places of the endpoints, which are names with weights, in the order in which a row prefers them."""
    scores = [_score(key, name, weight) for name, weight in endpoints]
    return tuple(sorted(range(len(endpoints)), key=scores.__getitem__))


def _score(key: str, name: str, weight: float) -> float:
    """Exponentially distributed with its weight as the rate: the least of several is one of them that often."""
    lot = hashlib.blake2b(f"{name}\0{key}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return -math.log((int.from_bytes(lot) + 0.5) / 2**56) / weight


def choose(
    ranked: Sequence[int], standings: Sequence[Standing], tried: Collection[int] = (), *, is_patient: bool
) -> int | None:
    """The place of the endpoint to ask, or to wait at; None where none is well."""
    order = ranked if not tried else sorted(ranked, key=tried.__contains__)
    well = [place for place in order if standings[place].is_well]
    if not well:
        return None
    if is_patient or standings[well[0]].has_room:
        return well[0]
    return next((place for place in well if standings[place].has_room), well[0])
