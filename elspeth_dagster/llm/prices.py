"""What a call cost: integer nano-dollars (10⁻⁹ USD), by the assessment's own price or the list that genai-prices keeps.

List prices know no discounts: it is an estimate to plan and to stop by, not the provider's invoice.
The library resolves which prices hold for a model now, some 0.2 ms; that is kept for a minute (some prices change with
the time of day), and a call is a multiplication of whole numbers, some 2 µs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from elspeth_dagster.core.spec import PriceSpec
from elspeth_dagster.stages.calling import Usage

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

NANO = 10**9
LARGEST_CREDIBLE = 10**15  # a call of a million dollars; sums of such fit any database
UNIT = 10**21  # prices are kept in 10⁻²¹ USD: a token's at a price with up to 15 decimals a million is a whole number
UNITS_A_NANO = UNIT // NANO

Rate = tuple[int, tuple[tuple[int, int], ...]]
"""What a token costs; and where the price has tiers, from more than how many prompt tokens on it costs what."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's prices in 10⁻²¹ USD: per call, and per token of what was sent, known to the cache, and answered."""

    per_call: int
    prompt: Rate
    cached: Rate
    completion: Rate

    def nanodollars(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """The price of one call, rounded half to even."""
        units = (
            self.per_call
            + _each(self.prompt, prompt_tokens) * (prompt_tokens - cached_tokens)
            + _each(self.cached, prompt_tokens) * cached_tokens
            + _each(self.completion, prompt_tokens) * completion_tokens
        )
        whole, rest = divmod(units, UNITS_A_NANO)
        return whole + (2 * rest + (whole & 1) > UNITS_A_NANO)


def listing_of(price: PriceSpec | None) -> Listing | None:
    """The prices that an assessment declares for its model, if it does."""
    if price is None:
        return None
    cached = price.input_mtok if price.cache_read_mtok is None else price.cache_read_mtok
    per_call = _exact(price.requests_kcount or 0) / 1000
    return _listed(per_call, _exact(price.input_mtok), _exact(cached), _exact(price.output_mtok))


def _exact(value: float) -> Decimal:
    return Decimal(str(value))


def _listed(
    per_call: Decimal,
    prompt: Decimal | TieredPrices,
    cached: Decimal | TieredPrices,
    completion: Decimal | TieredPrices,
) -> Listing:
    """From USD per call, and USD per million tokens."""
    return Listing(int(per_call * UNIT), _rate(prompt), _rate(cached), _rate(completion))


def cost_nanousd(provider: str, model: str, usage: Usage | None, own: Listing | None = None) -> int | None:
    """What a call cost in nano-dollars, rounded half to even; None where model or usage is not known,
    or makes a call dearer than a million dollars.

    `own` prices go before the list's. `model` is best the one that the reply names: an Azure deployment's name says
    nothing. `local` costs 0 where it has no price of its own.
    """
    if provider == "local" and own is None:
        return 0
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    cached_tokens = usage.cached_tokens or 0
    if usage.completion_tokens < 0 or not 0 <= cached_tokens <= usage.prompt_tokens:
        return None
    listing = own or _listing(provider, model, int(time.time() // 60))
    if listing is None:
        return None
    cost = listing.nanodollars(usage.prompt_tokens, cached_tokens, usage.completion_tokens)
    return cost if cost <= LARGEST_CREDIBLE else None  # usage that lies


def bound_nanousd(
    provider: str, model: str, request_bytes: int, max_tokens: int | None, own: Listing | None = None
) -> int | None:
    """The most that a call can cost, in nano-dollars; None where the reply's length or the price isn't
    known.

    A prompt has at most as many tokens as its request has bytes: byte-level tokenizers make no token of less than one.
    Some of them may be known to the cache, which may be dearer.
    """
    if provider == "local" and own is None:
        return 0
    listing = own or _listing(provider, model, int(time.time() // 60))
    if max_tokens is None or max_tokens < 0 or listing is None:
        return None
    is_dear = _each(listing.cached, request_bytes) > _each(listing.prompt, request_bytes)
    bound = listing.nanodollars(request_bytes, request_bytes if is_dear else 0, max_tokens)
    return bound if bound <= LARGEST_CREDIBLE else None


@lru_cache(maxsize=1024)
def _listing(provider: str, model: str, minute: int) -> Listing | None:
    """The model's prices in this minute; None for a model without a price for prompt and completion."""
    import genai_prices  # slow, and definitions are loaded far more often than prices are asked

    try:
        nothing_used = genai_prices.calc_price(genai_prices.Usage(), model, provider_id=provider)
    except LookupError:
        return None
    price = nothing_used.model_price
    if price.input_mtok is None or price.output_mtok is None:
        return None
    cached = price.input_mtok if price.cache_read_mtok is None else price.cache_read_mtok
    return _listed(nothing_used.total_price, price.input_mtok, cached, price.output_mtok)


def _rate(price: Decimal | TieredPrices) -> Rate:
    if isinstance(price, Decimal):
        return _of_a_token(price), ()
    return _of_a_token(price.base), tuple((tier.start, _of_a_token(tier.price)) for tier in price.tiers)


def _of_a_token(usd_a_million: Decimal) -> int:
    return int(usd_a_million * (UNIT // 10**6))


def _each(rate: Rate, prompt_tokens: int) -> int:
    """What a token costs: a prompt that is longer than a tier's start pays that tier for every token."""
    base, tiers = rate
    for start, price in tiers:
        if prompt_tokens > start:
            base = price
    return base
