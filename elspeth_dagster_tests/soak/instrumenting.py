"""Putting something before or after a real function, which does what it always did.

A place is `module:attribute` or `module:Class.attribute`. One that no longer exists is an error, so that a point
of the walk can't be lost in silence.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

Before = Callable[..., None]
After = Callable[..., None]


def owner_of(place: str) -> tuple[Any, str]:
    """What has the function, and under which name."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *between, name = path.split(".")
    for part in between:
        owner = getattr(owner, part)
    getattr(owner, name)
    return owner, name


def replace(place: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put in the place of a function what `make` makes of it."""
    owner, name = owner_of(place)
    real = getattr(owner, name)
    setattr(owner, name, functools.wraps(real)(make(real)))


def surround(place: str, *, before: Before | None = None, after: After | None = None) -> None:
    """Call `before` and `after` with a function's arguments, when it begins and when it has returned."""

    def make(real: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*args: Any, **kwargs: Any) -> None:
            if before is not None:
                before(*args, **kwargs)

        def end(*args: Any, **kwargs: Any) -> None:
            if after is not None:
                after(*args, **kwargs)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            begin(*args, **kwargs)
            result = await real(*args, **kwargs)
            end(*args, **kwargs)
            return result

        def called(*args: Any, **kwargs: Any) -> Any:
            begin(*args, **kwargs)
            result = real(*args, **kwargs)
            end(*args, **kwargs)
            return result

        return awaited if inspect.iscoroutinefunction(real) else called

    replace(place, make)
