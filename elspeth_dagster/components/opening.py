"""The landscape for a sensor, which no run opens it for."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterResourceFunctionError

from elspeth_dagster.landscape.ledger import Landscape


@contextmanager
def opened_landscape(context: dg.SensorEvaluationContext) -> Iterator[Landscape]:
    """The landscape of this deployment, if there is one. Raises LandscapeError, also where Dagster wraps it.

    A resource that the sensor asked for by name would be opened before the tick, and fail it.
    """
    assert context.repository_def is not None
    bound = context.repository_def.get_top_level_resources()
    try:
        with dg.build_resources({"landscape": bound["landscape"]}, context.instance) as opened:
            yield opened.landscape
    except DagsterResourceFunctionError as error:
        raise error.user_exception from error
