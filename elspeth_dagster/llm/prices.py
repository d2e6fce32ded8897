"""What a call cost: integer nano-dollars (10⁻⁹ USD), by the assessment's own price or the list that genai-prices keeps.

List prices know no discounts: it is an estimate to plan and to stop by, not the provider's invoice.
The library resolves which prices hold for a model now, some 0.2 ms; that is kept for a minute (some prices change with
the time of day), and a call is a multiplication, some 5 µs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from elspeth_dagster.core.spec import PriceSpec
from elspeth_dagster.stages.calling import Usage

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

    Price = Decimal | TieredPrices

NANO = 10**9
MILLION = 10**6


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's prices: USD per call, and USD per million tokens of what was sent, known to the cache, and answered."""

    per_call: Decimal
    prompt: Price
    cached: Price
    completion: Price

    def dollars(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> Decimal:
        """The price of one call in USD."""
        tokens = (
            _rate(self.prompt, prompt_tokens) * (prompt_tokens - cached_tokens)
            + _rate(self.cached, prompt_tokens) * cached_tokens
            + _rate(self.completion, prompt_tokens) * completion_tokens
        )
        return self.per_call + tokens / MILLION


def listing_of(price: PriceSpec | None) -> Listing | None:
    """The prices that an assessment declares for its model, if it does."""
    if price is None:
        return None
    cached = price.input_mtok if price.cache_read_mtok is None else price.cache_read_mtok
    per_call = _exact(price.requests_kcount or 0) / 1000
    return Listing(per_call, _exact(price.input_mtok), _exact(cached), _exact(price.output_mtok))


def _exact(value: float) -> Decimal:
    return Decimal(str(value))


def cost_nanousd(provider: str, model: str, usage: Usage | None, own: Listing | None = None) -> int | None:
    """What a call cost in nano-dollars, rounded half to even; None where model or usage is not known.

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
    dollars = listing.dollars(usage.prompt_tokens, cached_tokens, usage.completion_tokens)
    return int((dollars * NANO).to_integral_value(ROUND_HALF_EVEN))


def bound_nanousd(
    provider: str, model: str, request_bytes: int, max_tokens: int | None, own: Listing | None = None
) -> int | None:
    """The most that a call can cost, in nano-dollars; None where the reply's length or the price isn't
    known.

    A prompt has at most as many tokens as its request has bytes: byte-level tokenizers make no token of less than one.
    """
    is_free = provider == "local" and own is None
    if max_tokens is None and not is_free:
        return None
    return cost_nanousd(provider, model, Usage(request_bytes, max_tokens), own)


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
    return Listing(nothing_used.total_price, price.input_mtok, cached, price.output_mtok)


def _rate(price: Price, prompt_tokens: int) -> Decimal:
    """USD per million tokens: a prompt that is longer than a tier's start pays that tier for every token."""
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else price.base
