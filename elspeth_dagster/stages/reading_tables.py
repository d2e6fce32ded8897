"""Parquet and pandas DataFrames: records that come with types, and without bytes or lines of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.source_spec import ColumnType, SourceSpec
from elspeth_dagster.stages.coercing import Unusable
from elspeth_dagster.stages.finding import Found, RejectionReason, check_columns

_BATCH_ROWS = 1000
_SPOOL_BYTES = 64 * 1024 * 1024


def find_parquet(stream: BinaryIO, name: str, source: SourceSpec) -> Iterator[Found]:
    """The records of a Parquet file (https://parquet.apache.org/docs/file-format/), a thousand at a time.

    Its index is at its end, so the stream is first read into a temporary file. Raises SourceError for what is no
    Parquet and for columns other than declared.
    """
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file:
        shutil.copyfileobj(stream, file)
        if not file.tell():
            raise SourceError(f"{name}: is empty. Check what wrote it.")
        try:
            yield from _from_parquet(pq.ParquetFile(file), name, source)
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            KeyError,
        ) as error:  # an unknown time zone is a KeyError
            problem = f"{type(error).__name__}: {error}"
            raise SourceError(f"{name}: can't be read as Parquet ({problem}). Export it anew.") from error


def find_frame(frame: pd.DataFrame, name: str, source: SourceSpec) -> Iterator[Found]:
    """The records of a DataFrame, in its order; its index is left out. Raises SourceError like `find_parquet`."""
    header = list(frame.columns)
    check_columns(header, name, source.columns)
    kinds = [source.columns[column] for column in header]
    for row in frame.itertuples(index=False, name=None):
        values = (_from_pandas(value, kind) for value, kind in zip(row, kinds, strict=True))
        yield Found(None, None, dict(zip(header, values, strict=True)))


def _from_parquet(file: pq.ParquetFile, name: str, source: SourceSpec) -> Iterator[Found]:
    header = list(file.schema_arrow.names)
    check_columns(header, name, source.columns)
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        for row in zip(*(_cells(column) for column in batch.columns), strict=True):
            yield Found(None, None, dict(zip(header, row, strict=True)))


def _cells(column: Iterable[pa.Scalar]) -> Iterator[object]:
    for cell in column:
        try:
            yield cell.as_py()
        except UnicodeDecodeError:
            yield Unusable(RejectionReason.ENCODING)
        except (ValueError, OverflowError):  # an instant that Python's datetime can't hold
            yield Unusable(RejectionReason.OUT_OF_RANGE)


def _from_pandas(value: Any, kind: ColumnType) -> object:
    """A cell as Python has it; NaN, NaT and NA are None, and what pandas had to widen is narrowed again."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, np.number | np.bool_) and not isinstance(value, np.timedelta64):
        value = value.item()
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "date" and isinstance(value, datetime) and value.tzinfo is None and value.time() == time():
        return value.date()
    return value
