"""What a host's worker loads: `celery -A elspeth_dagster.celery_app worker --concurrency 2 -n %h`.

It takes steps from Redis and runs each in a process of its own. Before it takes the first one it looks at its host's
settings and landscape, and refuses to start where they can't work.

While it lives it renews its hold on the steps it has, so that a lost host's steps are found soon, however long a step
may take (kombu itself stamps a step's message once, when it is taken).
"""

import os
import time
from typing import Any

from celery import bootsteps, signals
from celery.worker import state
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task, create_task

from elspeth_dagster.brokering import celery_settings
from elspeth_dagster.core.errors import ElspethError, SettingsError
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.landscape.ledger import Landscape

RENEWALS = 10
"""How many renewals there are in the time after which a host is taken for lost."""


class HoldRenewer(bootsteps.StartStopStep):
    """Renews the hold of a worker on the steps that it has taken."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._timer: Any = None
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Renew now and then, for as long as this connection lasts."""
        seconds = _settings.host_lost_seconds / RENEWALS
        self._timer = consumer.timer.call_repeatedly(seconds, self._renew, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Renew no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _renew(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        held = {request.delivery_info and request.message.delivery_tag for request in _held()}
        if held:
            with channel.conn_or_acquire() as client:
                client.zadd(channel.unacked_index_key, dict.fromkeys(held, time.time()), xx=True)


def _held() -> list[Any]:
    return [each for each in {*state.reserved_requests, *state.active_requests} if not each.acknowledged]


@signals.worker_init.connect
def check_this_host(**_: Any) -> None:
    """Look at what a step will need. Ends the worker with a sentence where that can't work."""
    try:
        if _settings.executor != "celery":
            raise SettingsError("ELSPETH_EXECUTOR must be celery for the worker, as for the code server")
        Landscape.open(_settings.landscape_url).close()
    except ElspethError as error:
        raise SystemExit(f"This host can't take steps: {error}") from error


_settings = Settings.from_env(os.environ)
_broker = os.environ.get("ELSPETH_CELERY_BROKER")
app = make_app(
    {"broker": _broker, "backend": _broker, "config_source": celery_settings(_settings.host_lost_seconds)}
)
app.steps["consumer"].add(HoldRenewer)

execute_plan = create_task(app)
execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)
