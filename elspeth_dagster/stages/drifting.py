"""Whether numbers are distributed otherwise than earlier ones: the two-sample Kolmogorov-Smirnov test.

It asks nothing of the distributions, and is careful with ties, which whole numbers have many of. Of many columns some
would seem to drift by chance, so the p-values are adjusted together (Benjamini and Hochberg 1995). Both by SciPy:
https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.ks_2samp.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import false_discovery_control, ks_2samp


class Comparison(NamedTuple):
    """A column now and before: means, the greatest distance of the distributions (0 to 1), the adjusted p-value."""

    column: str
    mean_before: float
    mean_now: float
    distance: float
    p_value: float


def compare(now: Mapping[str, Sequence[float]], before: Mapping[str, Sequence[float]]) -> list[Comparison]:
    """Each column that has numbers on both sides, the farthest apart first."""
    both = [column for column in now if len(now[column]) and len(before.get(column, ()))]
    if not both:
        return []
    found = [ks_2samp(before[column], now[column], method="asymp") for column in both]
    # Of one number against one nothing can be said, and SciPy says NaN.
    adjusted = false_discovery_control([1.0 if np.isnan(one.pvalue) else float(one.pvalue) for one in found])
    compared = [
        Comparison(column, *_means(before[column], now[column]), float(one.statistic), float(p_value))
        for column, one, p_value in zip(both, found, adjusted, strict=True)
    ]
    return sorted(compared, key=lambda one: -one.distance)


def _means(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(before)), float(np.mean(now))
