"""Money in words: exact, and what is not known never counted as free."""

from __future__ import annotations

NANO = 10**9
CENTS = 2


def money(nanousd: int) -> str:
    """Nano-dollars as dollars, exactly: at least two decimals, and as many as there are."""
    dollars, rest = divmod(abs(nanousd), NANO)
    decimals = f"{rest:09d}".rstrip("0").ljust(CENTS, "0")
    return f"{'-' if nanousd < 0 else ''}${dollars}.{decimals}"


def spent(nanousd: int | None, unpriced: int) -> str:
    """What calls cost, those without a known price apart: these are never free."""
    apart = f"{unpriced} without a known price"
    if nanousd is None:
        return apart if unpriced else "-"
    return f"{money(nanousd)} + {apart}" if unpriced else money(nanousd)


def at_most(bound_nanousd: int | None, unbounded: int) -> str:
    """The most that calls without a known reply can have cost, those without a known bound apart."""
    apart = f"{unbounded} without a known bound"
    if bound_nanousd is None:
        return apart if unbounded else "-"
    return f"{money(bound_nanousd)} + {apart}" if unbounded else money(bound_nanousd)
