"""Bytes to physical lines, as they came: the reader of every text format begins here.

Lines are read as bytes and decoded record by record, so that a byte that isn't UTF-8 costs its own record only.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO, Literal

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.stages.finding import Refused, RejectionReason

MAX_RECORD_BYTES = 16 * 1024 * 1024

# UTF-32-LE begins like UTF-16-LE
_FOREIGN_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True, slots=True)
class Line:
    """A physical line, or the lines of one record: number of the first, bytes, and their count in the source.

    Where `size` is more than MAX_RECORD_BYTES, `data` is only the beginning.
    """

    number: int
    data: bytes
    size: int


def physical_lines(stream: BinaryIO, name: str, newline: Literal["", "\n"]) -> Iterator[Line]:
    r"""The lines of a stream with their line ends, one at a time; a UTF-8 byte order mark is taken off.

    `newline` "" ends lines at \n, \r\n and \r, "\n" at \n only. Raises SourceError for an empty stream and for
    UTF-16 and UTF-32.
    """
    text = TextIOWrapper(stream, encoding="latin-1", newline=newline)  # latin-1: each byte is one character
    number, last = 0, ""
    try:
        while piece := text.readline(MAX_RECORD_BYTES + 1):
            cut_in_crlf, last = last.endswith("\r") and piece == "\n", piece
            if cut_in_crlf:
                continue
            number += 1
            data = piece.encode("latin-1")
            size, last = _skip_rest(text, piece, newline or "\r\n")
            yield Line(number, without_bom(data, name) if number == 1 else data, size)
    finally:
        if not stream.closed:
            text.detach()  # or it would close a stream that isn't ours
    if number == 0:
        raise _empty(name)


def without_bom(data: bytes, name: str) -> bytes:
    """The beginning of a file without its UTF-8 byte order mark.

    Raises SourceError if there is nothing else, or if the mark is one of UTF-16 or UTF-32.
    """
    if data.startswith(_FOREIGN_BOMS):
        raise SourceError(f"{name}: is UTF-16 or UTF-32. Convert it to UTF-8.")
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data:
        raise _empty(name)
    return data


def without_newline(data: bytes) -> bytes:
    """A line without its line end."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def decoded(record: Line) -> str:
    """A record's text; raises Refused if it is too large, isn't UTF-8 or holds NUL."""
    if record.size > MAX_RECORD_BYTES:
        raise Refused(
            RejectionReason.TOO_LARGE,
            f"The record has {record.size} bytes, of which only the first {len(record.data)} are kept; "
            f"it may have {MAX_RECORD_BYTES}.",
        )
    if b"\0" in record.data:
        raise Refused(
            RejectionReason.NUL,
            "The record holds a NUL byte, which no database keeps as text; save the file as UTF-8.",
        )
    try:
        return record.data.decode()
    except UnicodeDecodeError as error:
        found = f"Byte {error.start + 1} of the record (0x{record.data[error.start]:02x}) is not UTF-8"
        raise Refused(RejectionReason.ENCODING, f"{found}; save the file as UTF-8.") from None


def _skip_rest(text: TextIOWrapper, piece: str, ends: str) -> tuple[int, str]:
    """Passes over what is left of a line longer than a record may be; its size, and its last piece."""
    size = len(piece)
    while len(piece) > MAX_RECORD_BYTES and piece[-1] not in ends:
        piece = text.readline(MAX_RECORD_BYTES + 1)
        size += len(piece)
    return size, piece


def _empty(name: str) -> SourceError:
    return SourceError(f"{name}: is empty. Check what wrote it.")
