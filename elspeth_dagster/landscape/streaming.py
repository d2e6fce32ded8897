"""Reading more than fits into memory: rows come from the database a page at a time, on both."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def streamed(connection: sa.Connection, query: sa.Executable, page: int, **values: Any) -> Any:
    """What a query finds, not fetched before it is asked for; to be closed, by `with`.

    The option goes with the statement: a connection would keep it.
    """
    streaming = query.execution_options(stream_results=True, max_row_buffer=page)
    return connection.execute(streaming, values)
