"""How the declared partitions are Dagster's."""

from datetime import date, timedelta

import dagster as dg

from elspeth_dagster.core.partitions_spec import DimensionSpec, PartitionsSpec


def partitions_definition(spec: PartitionsSpec | None) -> dg.PartitionsDefinition | None:
    """The partitions of an assessment's assets; None for an assessment without."""
    if spec is None:
        return None
    if spec.multi is not None:
        return dg.MultiPartitionsDefinition({name: _dimension(one) for name, one in spec.multi.items()})
    return _dimension(spec)


def _dimension(spec: DimensionSpec) -> dg.PartitionsDefinition:
    if spec.daily is not None:
        end = spec.until and (date.fromisoformat(spec.until) + timedelta(days=1)).isoformat()
        return dg.DailyPartitionsDefinition(start_date=spec.daily, end_date=end)
    if spec.static is not None:
        return dg.StaticPartitionsDefinition(spec.static)
    return dg.DynamicPartitionsDefinition(name=spec.dynamic)
