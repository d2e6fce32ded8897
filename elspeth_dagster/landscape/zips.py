"""Zips that hold files and nothing else: no compression, no dates, no attributes that differ, in one order.

So the same files are the same zip on any machine, and no byte of one can change unnoticed (APPNOTE.TXT, 4.3). The form
is told in docs/evidence-format.md.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from elspeth_dagster.core.errors import LandscapeError

VERSION, MADE_BY, UTF_8, NEW_YEAR_1980, PLAIN_FILE = 20, 0x0314, 0x0800, 0x0021, 0x81A40000
LARGEST = 0xFFFFFFFF
AT_ONCE = 1 << 20


def pack(folder: Path, names: Iterable[str], target: IO[bytes]) -> None:
    """Write the files of a folder as a zip, in this order. Raises LandscapeError where they are too large for one."""
    central, count = b"", 0
    for name in names:
        at = target.tell()
        if at + (folder / name).stat().st_size > LARGEST - AT_ONCE:
            raise LandscapeError("this is more than the 4 GiB that fit into a zip: export it to a folder")
        central += _packed(folder, name, target, at)
        count += 1
    at = target.tell()
    target.write(central + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(central), at, 0))


def _packed(folder: Path, name: str, target: IO[bytes], at: int) -> bytes:
    """Write a file and its head; return its line of the central directory."""
    path, written = folder / name, name.encode()
    size = path.stat().st_size
    same = struct.pack("<HHHHIIIHH", UTF_8, 0, 0, NEW_YEAR_1980, _crc(path), size, size, len(written), 0)
    target.write(b"PK\3\4" + struct.pack("<H", VERSION) + same + written)
    with path.open("rb") as file:
        shutil.copyfileobj(file, target, AT_ONCE)
    versions, rest = struct.pack("<HH", MADE_BY, VERSION), struct.pack("<HHHII", 0, 0, 0, PLAIN_FILE, at)
    return b"PK\1\2" + versions + same + rest + written


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(AT_ONCE):
            crc = zlib.crc32(data, crc)
    return crc
