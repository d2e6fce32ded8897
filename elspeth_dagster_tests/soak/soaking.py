"""Slice after slice, launch after launch: killed as planned, launched again until one survives, then compared."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project
from elspeth_dagster_tests.soak import checking
from elspeth_dagster_tests.soak.checking import gather, is_done, torn_tables
from elspeth_dagster_tests.soak.databases import Databases, Postgres, databases
from elspeth_dagster_tests.soak.kills import Kill
from elspeth_dagster_tests.soak.launching import Launch, Zygote
from elspeth_dagster_tests.soak.slices import FORMS, MISBEHAVIOUR, WORSE, Form, make_project

TIMEOUT_SECONDS, SHORT_TIMEOUT_SECONDS = 60.0, 1.0
KILLS_PER_SLICE = (1, 4)
TRIES_PER_KILL = 6
MOST_NEVER_DONE = 3
FRUITLESS_LAUNCHES = 3
ASKING_PIDS = (
    "SELECT s.pid FROM node_states s LEFT JOIN node_state_ends e ON e.state_id = s.state_id "
    "WHERE e.state_id IS NULL AND s.node_id = 'trial.ask_batches' ORDER BY s.started_at DESC"
)


@dataclass
class Tally:
    """What has come of it so far."""

    kills: list[Kill] = field(default_factory=list)
    missed: list[Kill] = field(default_factory=list)
    slices: int = 0
    launches: int = 0
    never_done: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def is_fine(self) -> bool:
        """Whether nothing is wrong, and no kill was left out."""
        return not (self.wrong.total() or self.never_done or self.missed)

    def add(self, found: dict[str, list[str]], counted: dict[str, int]) -> None:
        """The figures of one more slice."""
        self.wrong.update({name: len(what) for name, what in found.items()})
        self.counts.update(counted)


class Soak:
    """Launches, kills and compares, on one kind of database, with one provider."""

    def __init__(
        self,
        databases: Databases,
        zygote: Zygote,
        server: FaultServer,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.tally = Tally()
        self._databases = databases
        self._zygote = zygote
        self._server = server
        self._draw = random.Random(seed)
        self._broken: str | None = None
        self._say = say
        self._undisturbed: dict[Form, bytes] = {}
        self._seed = seed

    @classmethod
    @contextmanager
    def on(cls, dialect: str, seed: int, say: Callable[[str], None] = lambda line: None) -> Iterator[Self]:
        """A soak with a database server, a provider and a zygote of its own."""
        with databases(dialect) as places, Zygote() as zygote, FaultServer() as server:
            yield cls(places, zygote, server, seed, say)

    def run(self, kills: list[Kill], broken: str | None = None, per_slice: tuple[int, int] = KILLS_PER_SLICE) -> Tally:
        """Make all these kills, so many per slice, with a fault put into the package if one is named."""
        self.tally, self._broken = Tally(), broken
        self._server.configure(seed=self._seed, **MISBEHAVIOUR)
        left = list(kills)
        while left and self.tally.never_done < MOST_NEVER_DONE:
            form = FORMS[self.tally.slices % len(FORMS)]
            undisturbed = self._results_of_undisturbed(form)
            planned = [left.pop(0) for _ in range(min(len(left), self._draw.randint(*per_slice)))]
            left += self._soak_slice(form, planned, undisturbed)
        return self.tally

    def run_undisturbed(self, form: Form, broken: str | None = None) -> Tally:
        """A launch of which nobody is killed, with a provider that misbehaves more: are attempts what it counted?"""
        self.tally, self._broken = Tally(slices=1, launches=1), broken
        self._server.configure(seed=self._seed, **WORSE)
        with self._a_slice(form, SHORT_TIMEOUT_SECONDS) as (project, folder):
            launch = self._zygote.launch(project, folder, broken=broken)
            self.tally.never_done += launch.wait() != 0
            self._compare(form, project, folder, torn_tables(project))
        return self.tally

    def _results_of_undisturbed(self, form: Form) -> bytes:
        if form not in self._undisturbed:
            with self._a_slice(form) as (project, folder):
                assert self._zygote.launch(project, folder).wait() == 0, (folder / "log").read_text()[-4000:]
                self._undisturbed[form] = checking.table(project, "results") or b""
        return self._undisturbed[form]

    @contextmanager
    def _a_slice(self, form: Form, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[tuple[Project, Path]]:
        """A new project with a new landscape, and a folder for notes; the provider remembers nothing."""
        self._server.reset()
        with tempfile.TemporaryDirectory(prefix="elspeth-slice-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            with self._databases.landscape(folder) as url:
                yield make_project(folder / "project", url, self._server.base_url, form, timeout_seconds), folder

    def _soak_slice(self, form: Form, planned: list[Kill], undisturbed: bytes) -> list[Kill]:
        """Kill as planned, then launch until one survives, then compare; returns the kills that did not come to it."""
        waiting, torn, fruitless, launches = list(planned), list[str](), 0, list[Launch]()
        self.tally.slices += 1
        with self._a_slice(form) as (project, folder):
            while fruitless < FRUITLESS_LAUNCHES:
                kill = waiting.pop(0) if waiting else None
                launch, killed = self._live(project, folder, kill)
                launches.append(launch)
                torn += torn_tables(project)
                if kill is not None and not killed:
                    waiting.append(kill)
                if self._is_done(project, launches):
                    break
                fruitless += kill is None
            else:
                self.tally.never_done += 1
                self._say(f"never done: {(folder / 'log').read_text()[-3000:]}")
                self._await_orphans(launches)
            self._compare(form, project, folder, torn, undisturbed)
        return self._again(waiting)

    def _is_done(self, project: Project, launches: list[Launch]) -> bool:
        """Whether the slice is done, and stays so when the steps that outlived their workers are gone too."""
        if not is_done(project):
            return False
        self._await_orphans(launches)
        return is_done(project)

    def _await_orphans(self, launches: list[Launch]) -> None:
        for launch in launches:
            launch.await_orphans()

    def _again(self, waiting: list[Kill]) -> list[Kill]:
        """The kills to be tried in the next slice; those that were tried often enough are missed."""
        sooner = [kill.sooner() for kill in waiting]
        self.tally.missed += [kill for kill in sooner if kill.tries >= TRIES_PER_KILL]
        return [kill for kill in sooner if kill.tries < TRIES_PER_KILL]

    def _live(self, project: Project, folder: Path, kill: Kill | None) -> tuple[Launch, bool]:
        """One launch, and whether it was killed as planned."""
        began = time.monotonic()
        launch = self._zygote.launch(
            project,
            folder,
            kill=kill.where if kill is not None and kill.where else None,
            broken=self._broken,
            in_processes=kill is not None and kill.in_processes,
            job="retrying_job" if kill is not None and kill.whom == "step" else "trial_job",
        )
        killed = kill is not None and self._kill(kill, launch, project)
        code = launch.wait()
        killed = killed or launch.killed_itself
        if killed:
            assert kill is not None
            self.tally.kills.append(kill)
        self.tally.launches += 1
        number, seconds = len(self.tally.kills), time.monotonic() - began
        said = f"{'killed' if killed else 'planned'}: {kill}" if kill is not None else "undisturbed"
        self._say(f"slice {self.tally.slices:3}  kill {number:3}  exit {code:3}  {seconds:5.2f} s  {said}")
        return launch, killed

    def _kill(self, kill: Kill, launch: Launch, project: Project) -> bool:
        """Do what is done from outside; whether there was somebody to kill."""
        if kill.whom == "point":
            return False
        if kill.whom == "step":
            return self._kill_the_asking_step(kill, launch, project)
        if launch.is_over(kill.after):
            return False
        if kill.whom == "postmaster":
            assert isinstance(self._databases, Postgres)
            self._databases.kill()
            self._databases.start_again()
            return True
        return launch.kill(whole_group=kill.whom == "group")

    def _kill_the_asking_step(self, kill: Kill, launch: Launch, project: Project) -> bool:
        while not launch.is_over(0.05):
            try:
                asking = [row["pid"] for row in project.facts(ASKING_PIDS)]
            except LandscapeError:
                continue
            if asking and asking[0] != launch.pid:
                return not launch.is_over(kill.after) and launch.kill_step(asking[0])
        return False

    def _compare(
        self, form: Form, project: Project, folder: Path, torn: list[str], undisturbed: bytes | None = None
    ) -> None:
        """Put the figures of a slice into the tally; where there are no other results, it has none to differ from."""
        evidence = gather(project, folder, self._server.stats()["requests"], form.keys, undisturbed)
        evidence.torn += torn
        found = checking.wrong(evidence)
        if undisturbed is None:
            del found["results_differ"]
        self.tally.add(found, checking.counts(evidence))
        if any(found.values()):
            self._say(f"wrong: {checking.dump(found)}")


def figures(tally: Tally) -> str:
    """A table of what was counted, and of what must be nothing."""
    lines = [("kills", len(tally.kills)), ("slices", tally.slices), ("launches", tally.launches)]
    lines += [*tally.counts.items(), *tally.wrong.items()]
    lines += [("slices_never_done", tally.never_done), ("kills_missed", len(tally.missed))]
    return "\n".join(f"  {name:32}{value:8}" for name, value in lines)
