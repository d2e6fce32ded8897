"""What can be chosen when a run is launched: whether it asks, and which earlier replies it may use.

ops: {case_studies: {config: {reuse: landscape}}}
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Reuse = Literal["lineage", "landscape", "none"]
RunMode = Literal["ask", "replay", "verify"]


class Launch(NamedTuple):
    """A launch's choices.

    mode    ask: ask the provider. replay: take every reply from the record of one run, and send nothing. verify: ask
            some questions of one run once more (a run that makes only the asset `verification`).
    reuse   lineage: go on with what earlier runs of this slice were answered, also when they completed. landscape:
            take any recorded reply to the same question. none: ask everything anew. Not said: a re-execution, and a
            run after one that did not complete, goes on with its lineage; any other asks anew.
    of_run  which run is replayed; not said: the last one of this slice that completed.
    """

    mode: RunMode = "ask"
    reuse: Reuse | None = None
    of_run: str | None = None
