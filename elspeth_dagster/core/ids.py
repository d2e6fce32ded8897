"""Ids: ULIDs, 26 characters that sort by the time they were made.

An id is a name, never evidence of order: order is in ordinals and indexes of the record.
"""

from __future__ import annotations

from ulid import ULID


def new_id() -> str:
    """A new ULID (https://github.com/ulid/spec), 26 characters."""
    return str(ULID())
