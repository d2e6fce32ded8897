"""Many names in a sentence: how many there are, and the first of them. Never more are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

NAMED = 5


@dataclass
class Some:
    """What was found wanting, counted; only the first few are kept by name."""

    number: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, names: Iterable[str]) -> None:
        """Count these too."""
        for name in names:
            self.number += 1
            if len(self.first) < NAMED:
                self.first.append(name)

    def __bool__(self) -> bool:
        return self.number > 0

    def __str__(self) -> str:
        return ", ".join(self.first) + (", …" if self.number > len(self.first) else "")


def in_order(names: Sequence[str]) -> str:
    """Names that stand in an order: all of a few; of many the first, the last, and how many there are."""
    return ", ".join(names) if len(names) <= NAMED else f"{names[0]} … {names[-1]} ({len(names)})"
