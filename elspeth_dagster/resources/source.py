"""Opening a source file, wherever it is, and knowing afterwards which bytes it had."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from upath import UPath

from elspeth_dagster.core.canonical import PREFIX
from elspeth_dagster.core.errors import SourceError

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
def open_source(path: str, root: Path, partition: str | None) -> Iterator[tuple[SourceReader, str]]:
    """The stream of a source and the name that errors call it by.

    `{partition}` in `path` stands for the partition key. A relative path starts at `root`; a url (s3://, abfs://,
    memory:// …) is opened by the fsspec filesystem that is installed for it. Raises SourceError if there is no
    such file, if it may not be read, or if the partition key would lead to another folder.
    """
    resolved = _with_partition(path, partition)
    location = resolved if _URL.match(resolved) else str(root / resolved)
    name = _without_secrets(location)
    stream = _open(location, name, partition)
    with stream:
        yield SourceReader(stream, name), name


def _with_partition(path: str, partition: str | None) -> str:
    if "{partition}" not in path:
        return path
    if not partition:
        raise SourceError(f"{_without_secrets(path)}: needs a partition key. Launch the run for a partition.")
    if any(part in partition for part in ("/", "\\", "..", "::")) or not partition.isprintable():
        raise SourceError(
            f"{_without_secrets(path)}: partition key {partition!r} can't stand in a path; "
            "it may not hold '/', '\\', '..', '::' or control characters."
        )
    return path.replace("{partition}", partition)


def _without_secrets(location: str) -> str:
    return _SECRETS_OF_URL.sub("***", location) if _URL.match(location) else location


def _open(location: str, name: str, partition: str | None) -> BinaryIO:
    of_partition = f" (partition {partition!r})" if partition else ""
    try:
        return (UPath(location) if _URL.match(location) else Path(location)).open("rb")
    except FileNotFoundError:
        problem = "there is no such file. Check `source.path`, or wait until the file is there"
    except IsADirectoryError:
        problem = "is a folder. Let `source.path` name a file in it"
    except PermissionError:
        problem = "may not be read by this process. Check its permissions, or the credentials"
    except Exception as error:  # each filesystem of fsspec has its own errors
        why = f": {error}" if location == name else ""  # the text may repeat a url's secrets
        problem = f"can't be opened ({type(error).__name__}{why})"
    raise SourceError(f"{name}{of_partition}: {problem}.")
