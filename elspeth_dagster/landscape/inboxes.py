"""Inboxes: which files were taken together, as one partition. A file is taken once, whoever takes it and however often.

What a run then reads of them, with size and hash, is in the record; here is what keeps a file from being taken twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.operating import inbox_files

AT_ONCE = 500


def take(landscape: Landscape, assessment: str, partition_key: str, files: Sequence[str]) -> list[str]:
    """Take files into a partition, but for those that are in one already; return which it holds.

    A partition that holds files already stays as it is: its files were taken together.
    """

    def take_or_leave(connection: sa.Connection) -> list[str]:
        if held := files_of(connection, assessment, partition_key):
            return held
        known = taken(connection, assessment, files)
        new = [file for file in files if file not in known]
        lines = [
            {"assessment": assessment, "file": file, "partition_key": partition_key, "ordinal": ordinal}
            for ordinal, file in enumerate(new)
        ]
        if lines:
            connection.execute(inbox_files.insert(), lines)
        return new

    return landscape.decide(take_or_leave)


def files_of(connection: sa.Connection, assessment: str, partition_key: str) -> list[str]:
    """The files of a partition in the order in which they came; none for a partition that nobody took files into."""
    here = inbox_files.select().where(
        inbox_files.c.assessment == assessment, inbox_files.c.partition_key == partition_key
    )
    return [row.file for row in connection.execute(here.order_by(inbox_files.c.ordinal))]


def taken(connection: sa.Connection, assessment: str, files: Sequence[str]) -> set[str]:
    """Those of some files that are in a partition."""
    of_assessment = sa.select(inbox_files.c.file).where(inbox_files.c.assessment == assessment)
    pages = (files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE))
    return {file for page in pages for file in connection.scalars(of_assessment.where(inbox_files.c.file.in_(page)))}


def partitions_after(connection: sa.Connection, assessment: str, partition_key: str) -> list[str]:
    """The partitions that hold files and whose keys come after this one, in their order."""
    later = (
        sa.select(inbox_files.c.partition_key)
        .where(inbox_files.c.assessment == assessment, inbox_files.c.partition_key > partition_key)
        .distinct()
    )
    return sorted(connection.scalars(later))


def last_partition(connection: sa.Connection, assessment: str) -> str | None:
    """The last partition that files were taken into, by its key."""
    of_assessment = inbox_files.c.assessment == assessment
    last: str | None = connection.scalar(sa.select(sa.func.max(inbox_files.c.partition_key)).where(of_assessment))
    return last
