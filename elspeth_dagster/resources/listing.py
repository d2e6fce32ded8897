"""Which files are there by a pattern, wherever they are, each with its size and what is known of its last change."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from upath import UPath

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.resources.source import has_folder, is_url, without_secrets
from elspeth_dagster.stages.settling import Version

PLACE = re.compile(r"\{(\w+)\}")
STAMPS = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "created")
"""What filesystems call the time or the fingerprint of a file's last change."""


def files_like(path: str, root: Path) -> dict[str, Version]:
    """The files of a path in which `{…}` and `*` stand for anything but `/`; hidden ones are left out.

    Names are as in `path`: urls, or relative where `path` is. Raises SourceError where they can't be listed, and where
    the local folder that they would be in is not there.
    """
    if not has_folder(path, root):
        raise SourceError(f"{root / path}: there is no such folder. Make it, mount it, or correct the path.")
    try:
        return dict(_of_url(path) if is_url(path) else _local(path, root))
    except Exception as error:  # each filesystem of fsspec has its own errors
        raise SourceError(f"{without_secrets(path)}: can't be listed ({type(error).__name__}).") from None


def as_pattern(path: str) -> str:
    """A path as a glob pattern: `{…}` stands for anything, `*` stays, all else is meant literally."""
    parts = re.split(r"\{\w+\}|\*", path)
    return "*".join(glob.escape(part) for part in parts)


def values_in(path: str, name: str, known: Mapping[str, str]) -> dict[str, str] | None:
    """What stands at the places of a path in a file's name; None for a name that doesn't fit.

    `known` has an expression for the values of a place, where they are not just anything.
    """
    seen: set[str] = set()

    def group(place: re.Match[str]) -> str:
        is_again = place[1] in seen
        seen.add(place[1])
        return f"(?P={place[1]})" if is_again else f"(?P<{place[1]}>{known.get(place[1], '[^/]+')})"

    pieces = re.split(r"(\{\w+\})", path)
    expression = "".join(PLACE.sub(group, piece) if PLACE.fullmatch(piece) else re.escape(piece) for piece in pieces)
    fits = re.fullmatch(expression, name, re.DOTALL)
    return None if fits is None else fits.groupdict()


def _local(path: str, root: Path) -> Iterator[tuple[str, Version]]:
    for name in glob.iglob(as_pattern(path), root_dir=root):  # noqa: PTH207 (Path's finds hidden files too)
        file = root / name
        with suppress(FileNotFoundError):  # it has gone meanwhile
            stat = file.stat()
            if S_ISREG(stat.st_mode):
                yield name, Version(stat.st_size, str(stat.st_mtime_ns))


def _of_url(path: str) -> Iterator[tuple[str, Version]]:
    files, inside = UPath(path).fs, UPath(path).path
    beginning = path.removesuffix(inside) if path.endswith(inside) else path[: path.index("://") + 3]
    for name, facts in files.glob(as_pattern(inside), detail=True).items():
        if facts["type"] == "file" and not any(part.startswith(".") for part in name.split("/")):
            yield beginning + _like(inside, name), Version(int(facts["size"] or 0), _stamp(facts))


def _like(inside: str, name: str) -> str:
    """A name with a slash at its beginning where the path has one; not all filesystems keep to theirs."""
    return "/" * inside.startswith("/") + name.lstrip("/")


def _stamp(facts: Mapping[str, Any]) -> str:
    return next((str(facts[name]) for name in STAMPS if facts.get(name) is not None), "")
