"""Who is killed when: a plan that follows from a seed.

point       the launch kills itself at a named point, each of them in turn
moment      the launch, at any moment
step        of a launch with a process per step, the one that asks
worker      of a launch with a process per step, the first process alone, while its steps go on
group       the same with all its processes
postmaster  PostgreSQL itself, at any moment of a launch
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Literal, NamedTuple

from elspeth_dagster_tests.soak.failpoints import POINTS

Whom = Literal["point", "moment", "step", "worker", "group", "postmaster"]
LAUNCH_SECONDS = 1.6  # about how long one takes that nobody disturbs
LAUNCH_IN_PROCESSES_SECONDS = 7.0
SHARE_OF_MOMENTS, SHARE_OF_STEPS = 0.25, 0.07


class Kill(NamedTuple):
    """One kill: whom, and where (`point:n`) or when (seconds after the launch began)."""

    whom: Whom
    where: str = ""
    after: float = 0.0
    tries: int = 0

    @property
    def in_processes(self) -> bool:
        """Whether the launch has a process per step."""
        return self.whom in ("step", "worker", "group")

    def sooner(self) -> Kill:
        """The same again, sooner: the launch was over before it came to it."""
        point, _, nth = self.where.partition(":")
        where = f"{point}:{max(1, int(nth) // 2)}" if point else ""
        return self._replace(where=where, after=self.after * 0.7, tries=self.tries + 1)

    def __str__(self) -> str:
        return f"{self.whom} {self.where or f'after {self.after:.2f} s'}"


def plan(draw: random.Random, *, steps: int, workers: int = 0, postmasters: int = 0) -> list[Kill]:
    """So many kills of each kind, in any order. Of those of steps most are at points, each point as often."""
    moments, apart = round(steps * SHARE_OF_MOMENTS), round(steps * SHARE_OF_STEPS)
    kills = at_points(draw, steps - moments - apart)
    kills += [Kill("moment", after=draw.uniform(0.1, LAUNCH_SECONDS)) for _ in range(moments)]
    kills += [Kill("step", after=draw.uniform(0, 0.15)) for _ in range(apart)]
    for number in range(workers):
        whom: Whom = "worker" if number % 2 else "group"
        kills.append(Kill(whom, after=draw.uniform(0.5, LAUNCH_IN_PROCESSES_SECONDS)))
    kills += [Kill("postmaster", after=draw.uniform(0.1, LAUNCH_SECONDS)) for _ in range(postmasters)]
    draw.shuffle(kills)
    return kills


def at_points(draw: random.Random, count: int) -> list[Kill]:
    """Kills at the named points in turn, at any of the times that a slice passes them."""
    names = draw.sample(list(POINTS), len(POINTS))
    return [at_point(draw, names[number % len(names)]) for number in range(count)]


def at_point(draw: random.Random, name: str) -> Kill:
    """A kill at a named point, at any of the times that a slice passes it."""
    return Kill("point", where=f"{name}:{draw.randint(1, POINTS[name].passes)}")


def by_whom(kills: list[Kill]) -> dict[str, int]:
    """How many of each kind."""
    return dict(Counter(kill.whom for kill in kills))


def by_point(kills: list[Kill]) -> dict[str, int]:
    """How many at each point."""
    return dict(Counter(kill.where.partition(":")[0] for kill in kills if kill.where))
