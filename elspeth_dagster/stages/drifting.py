"""Whether numbers are distributed otherwise than earlier ones: the two-sample Kolmogorov-Smirnov test.

It asks nothing of the distributions, and is careful with ties, which whole numbers have many of. Of many columns some
would seem to drift by chance, so the p-values are adjusted together (Benjamini and Hochberg 1995). Both by SciPy:
https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.ks_2samp.html
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.stats import false_discovery_control, ks_2samp

Numbers: TypeAlias = "np.ndarray[Any, Any] | Sequence[float]"


class Comparison(NamedTuple):
    """A column now and before: means, the greatest distance of the distributions (0 to 1), the adjusted p-value."""

    column: str
    mean_before: float
    mean_now: float
    distance: float
    p_value: float


def compare(columns: Iterable[tuple[str, Numbers, Numbers]]) -> list[Comparison]:
    """Each column that has numbers on both sides, now and before, the farthest apart first."""
    found = [_compared(column, now, before) for column, now, before in columns if len(now) and len(before)]
    if not found:
        return []
    adjusted = false_discovery_control([one.p_value for one in found])
    compared = [one._replace(p_value=float(p_value)) for one, p_value in zip(found, adjusted, strict=True)]
    return sorted(compared, key=lambda one: -one.distance)


def _compared(column: str, now: Numbers, before: Numbers) -> Comparison:
    """A column by itself, its p-value not yet adjusted."""
    test = ks_2samp(before, now, method="asymp")
    # Of one number against one nothing can be said, and SciPy says NaN.
    p_value = 1.0 if np.isnan(test.pvalue) else float(test.pvalue)
    return Comparison(column, float(np.mean(before)), float(np.mean(now)), float(test.statistic), p_value)
