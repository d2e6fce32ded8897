"""Which cells of an answer column are not what its field declares: by type, bounds, length, or values."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from elspeth_dagster.core.spec import AnswerField
from elspeth_dagster.stages.tabling import ANSWER_TYPES


def outside(cells: pa.ChunkedArray, field: AnswerField) -> list[int]:
    """The places of the cells that the field does not allow; null is allowed. All of them where the type is another."""
    if cells.type != ANSWER_TYPES[field.type]:
        return list(range(len(cells)))
    wrong = pa.chunked_array([[False] * len(cells)], pa.bool_())
    for refused in _refused(cells, field):
        wrong = pc.or_(wrong, pc.fill_null(refused, False))
    return [place for place, is_wrong in enumerate(wrong.to_pylist()) if is_wrong]


def _refused(cells: pa.ChunkedArray, field: AnswerField) -> Iterator[pa.ChunkedArray]:
    if field.minimum is not None:
        yield pc.less(cells, field.minimum)
    if field.maximum is not None:
        yield pc.greater(cells, field.maximum)
    if field.max_length is not None:
        yield pc.greater(pc.utf8_length(cells), field.max_length)
    if field.values is not None:
        yield pc.and_(pc.is_valid(cells), pc.invert(pc.is_in(cells, pa.array(field.values))))
