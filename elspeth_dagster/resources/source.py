"""Opening a source file, wherever it is, and knowing afterwards which bytes it had."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from upath import UPath

from elspeth_dagster.core.canonical import PREFIX
from elspeth_dagster.core.errors import SourceError, SourceMissingError
from elspeth_dagster.core.partitions_spec import PARTITION

READ_AT_ONCE = 1 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SECRETS_OF_URL = re.compile(r"(?<=//)[^/@]*(?=@)|(?<=\?).*", re.DOTALL)


class SourceReader(io.BufferedIOBase, BinaryIO):
    """Reads a stream from beginning to end, and measures what it read: `size` in bytes and `sha256`.

    A stream that breaks off raises SourceError.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._digest = hashlib.sha256()
        self._at_end = False
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, all that is left if it is negative or None; b"" at the end."""
        size = -1 if size is None else size
        try:
            data = self._stream.read(size)
        except Exception as error:  # each filesystem of fsspec has its own errors
            kind = type(error).__name__
            raise SourceError(f"{self._name}: broke off after {self.size} bytes ({kind}).") from None
        self._digest.update(data)
        self.size += len(data)
        self._at_end = self._at_end or size < 0 or (size > 0 and not data)
        return data

    read1 = read

    @property
    def sha256(self) -> str:
        """`sha256:<hex>` of the whole source. Raises ValueError before it was read to its end."""
        if not self._at_end:
            raise ValueError("the source was not read to its end yet")
        return PREFIX + self._digest.hexdigest()


@contextmanager
def open_source(
    path: str, root: Path, partition: str | None, values: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[SourceReader, str]]:
    """The stream of a source and the name that errors call it by.

    `{partition}` in `path` stands for the partition key, `{date}` for the value of `values` with this name. A relative
    path starts at `root`; a url (s3://, abfs://, memory:// …) is opened by the fsspec filesystem that is installed for
    it. Raises SourceMissingError if there is no such file, SourceError if it may not be read, if the partition key
    would lead to another folder, or if the folder that the files are in is not there either.
    """
    resolved = _with_values(path, {**values, PARTITION: partition or ""})
    location = absolute(resolved, root)
    name = without_secrets(location)
    try:
        stream = _open(location, name, partition)
    except SourceMissingError as error:
        if not has_folder(path, root):
            raise SourceError(f"{error} Its folder is not there either: make it, or mount it.") from None
        raise
    with stream:
        yield SourceReader(stream, name), name


def hash_of(path: str, root: Path, partition: str | None, values: Mapping[str, str] = MappingProxyType({})) -> str:
    """`sha256:<hex>` of a source. Raises SourceError as `open_source` does."""
    with open_source(path, root, partition, values) as (stream, _):
        while stream.read(READ_AT_ONCE):
            pass
        return stream.sha256


def absolute(path: str, root: Path) -> str:
    """Where a path is: a url as it is, a relative path below `root`."""
    return path if is_url(path) else str(root / path)


def is_url(path: str) -> bool:
    """Whether fsspec opens it, and not the local filesystem."""
    return _URL.match(path) is not None


def has_folder(path: str, root: Path) -> bool:
    """Whether the folder is there that the files of a path with `{…}` or `*` are in, below `root`.

    A share that is not mounted must not look like files that have not come. Object stores have no folders.
    """
    return is_url(path) or (root / re.split(r"[{*]", path)[0].rpartition("/")[0]).is_dir()


def _with_values(path: str, values: Mapping[str, str]) -> str:
    places = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return places.sub(lambda place: _checked(path, place[0][1:-1], values), path)


def _checked(path: str, name: str, values: Mapping[str, str]) -> str:
    value = values[name]
    if not value:
        raise SourceError(f"{without_secrets(path)}: needs a partition key. Launch the run for a partition.")
    if any(part in value for part in ("/", "\\", "..", "::")) or not value.isprintable():
        raise SourceError(
            f"{without_secrets(path)}: {name} key {value!r} can't stand in a path; "
            "it may not hold '/', '\\', '..', '::' or control characters."
        )
    return value


def without_secrets(location: str) -> str:
    """A path or url as it may be shown."""
    return _SECRETS_OF_URL.sub("***", location) if is_url(location) else location


def _open(location: str, name: str, partition: str | None) -> BinaryIO:
    of_partition = f" (partition {partition!r})" if partition else ""
    try:
        return (UPath(location) if is_url(location) else Path(location)).open("rb")
    except FileNotFoundError:
        problem = "there is no such file. Check `source.path`, wait for the file, or give `source.missing: skip`"
        raise SourceMissingError(f"{name}{of_partition}: {problem}.") from None
    except IsADirectoryError:
        problem = "is a folder. Let `source.path` name a file in it"
    except PermissionError:
        problem = "may not be read by this process. Check its permissions, or the credentials"
    except Exception as error:  # each filesystem of fsspec has its own errors
        why = f": {error}" if location == name else ""  # the text may repeat a url's secrets
        problem = f"can't be opened ({type(error).__name__}{why})"
    raise SourceError(f"{name}{of_partition}: {problem}.")
