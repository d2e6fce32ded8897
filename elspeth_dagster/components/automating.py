"""When Dagster asks for an assessment's assets by itself, and when it calls them overdue."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster._utils.schedules import is_valid_cron_schedule

from elspeth_dagster.core.spec import AssessmentSpec, Problem
from elspeth_dagster.core.timing_spec import AutomationSpec, FreshnessSpec

Condition = dg.AutomationCondition[Any]


def automation_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    """What is wrong with the declared condition."""
    declared = spec.automation
    if declared is None:
        return
    if declared.cron is not None and not is_valid_cron_schedule(declared.cron):
        yield Problem(("automation", "cron"), f'{declared.cron!r} is not a cron expression such as "0 6 * * *".')
    if spec.schedule is not None:
        yield Problem(("automation",), "`schedule` would ask for the same partitions once more. Give one of the two.")


def automation_condition(
    declared: AutomationSpec | None, ingredients: Iterable[dg.AssetKey], source: dg.AssetKey
) -> Condition | None:
    """Dagster's condition. Ingredients need not be there first, and a cron tick waits for no file."""
    if declared is None:
        return None
    waited_for = dg.AutomationCondition.any_deps_missing().ignore(dg.AssetSelection.assets(*ingredients))
    if declared.condition == "on_cron":
        assert declared.cron is not None
        only_observed = dg.AssetSelection.assets(*ingredients, source)
        return dg.AutomationCondition.on_cron(declared.cron).ignore(only_observed)
    whole = dg.AutomationCondition.on_missing() if declared.condition == "missing" else dg.AutomationCondition.eager()
    condition: Condition = whole.replace("any_deps_missing", waited_for)
    return condition


def freshness_policy(declared: FreshnessSpec | None) -> dg.FreshnessPolicy | None:
    """Dagster's policy, which its daemon evaluates."""
    if declared is None:
        return None
    warns = declared.warn_hours
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=declared.fail_hours), warn_window=None if warns is None else timedelta(hours=warns)
    )
