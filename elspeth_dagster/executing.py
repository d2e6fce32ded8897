"""The executor that hands a run's steps to Celery workers on several hosts.

It is dagster-celery's, with settings under which a lost host's steps go to another one (`brokering`). Before the first
step it puts on the run by what all hosts must go (`hosting`), and refuses what they could not share.
"""

import os
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster_celery.executor import CeleryExecutor

from elspeth_dagster.brokering import celery_settings
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.hosting import tags_of_run
from elspeth_dagster.landscape.ledger import Landscape


class HostsExecutor(CeleryExecutor):
    """dagster-celery's executor, for hosts that have agreed."""

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[Any]:
        """Run the plan's steps on the workers. Raises SettingsError before any, where hosts could not work together."""
        settings = Settings.from_env(os.environ)
        with Landscape.open(settings.landscape_url) as landscape:
            tags = tags_of_run(landscape, settings.storage or "")
        plan_context.instance.add_run_tags(plan_context.run_id, tags)
        yield from super().execute(plan_context, execution_plan)


@dg.executor(
    name="celery",
    config_schema={"retries": get_retries_config()},
    requirements=dg.multiple_process_executor_requirements(),
)
def celery_on_hosts(context: dg.InitExecutorContext) -> HostsExecutor:
    """Hands steps to Celery workers on several hosts, through a Redis."""
    broker, settings = os.environ["ELSPETH_CELERY_BROKER"], Settings.from_env(os.environ)
    retries: Any = context.executor_config["retries"]
    return HostsExecutor(
        retries=RetryMode.from_config(retries),
        broker=broker,
        backend=broker,
        config_source=celery_settings(settings.host_lost_seconds),
    )


def celery_executor_from_env() -> dg.ExecutorDefinition:
    """The executor, whose url of the broker stays in the environment: it may hold a password."""
    return celery_on_hosts
