"""What a host's worker loads: `celery -A elspeth_dagster.celery_app worker --concurrency 2 -n %h`.

It takes steps from Redis and runs each in a process of its own. Before it takes the first one it looks at its host's
settings and landscape, and refuses to start where they can't work.

While it lives it renews its hold on the steps it has, so that a lost host's steps are found soon, however long a step
may take (kombu itself stamps a step's message once, when it is taken). A worker that has lost Redis lets go of its
steps, since another one will get them. Only who began a step last says how it ended.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from celery import Task, bootsteps, signals
from celery.exceptions import Ignore
from celery.states import STARTED, SUCCESS
from celery.worker import state
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task, create_task

from elspeth_dagster.brokering import celery_settings
from elspeth_dagster.core.errors import ElspethError, SettingsError
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.identity import code_version
from elspeth_dagster.landscape.ledger import Landscape

RENEWALS = 10
"""How many renewals there are in the time after which a host is taken for lost."""
LET_GO_SECONDS = 15
"""How long a step's process may take to bring home what is in flight, once its worker has lost Redis."""


class Step(Task):
    """A step of a run, in a process of this host's worker."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the step reports. Nothing is reported of one that was interrupted, or that another worker has begun."""
        try:
            return super().__call__(*args, **kwargs)
        except DagsterExecutionInterruptedError:
            # Reported, it would fail the run. A process that is gone has its step handed out again.
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            self._check_ours()

    def _check_ours(self) -> None:
        known = self.backend.get_task_meta(self.request.id, cache=False)
        whose = known["result"] if known["status"] == STARTED else None
        if known["status"] == SUCCESS or (whose and (whose["hostname"], whose["pid"]) != self._here()):
            raise Ignore

    def _here(self) -> tuple[str, int]:
        return self.request.hostname, os.getpid()


class HoldRenewer(bootsteps.StartStopStep):
    """Renews the hold of a worker on the steps that it has taken; without Redis it lets go of them."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._timer: Any = None
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Renew now and then, for as long as this connection lasts."""
        seconds = _settings.host_lost_seconds / RENEWALS
        self._timer = consumer.timer.call_repeatedly(seconds, self._renew, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Renew no more. Where the worker itself is not to stop, the connection is gone: let go of the steps."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if state.should_stop is None and state.should_terminate is None:
            for request in list(state.active_requests):
                _let_go(request, consumer.pool)

    def _renew(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        held = {request.message.delivery_tag for request in _held()}
        if held:
            with channel.conn_or_acquire() as client:
                client.zadd(channel.unacked_index_key, dict.fromkeys(held, time.time()), xx=True)


def _let_go(request: Any, pool: Any) -> None:
    """Tell a step's process to stop, and see to it that it does; its message is no longer ours to acknowledge."""
    request.acknowledged = True
    pid = request.worker_pid
    request.cancel(pool, emit_retry=False)
    last = threading.Timer(LET_GO_SECONDS, _kill, [pid])
    last.daemon = True
    last.start()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


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


code_version()  # of what is loaded here, whatever becomes of the files while this worker runs
_settings = Settings.from_env(os.environ)
_broker = os.environ.get("ELSPETH_CELERY_BROKER")
app = make_app({"broker": _broker, "backend": _broker, "config_source": celery_settings(_settings.host_lost_seconds)})
app.steps["consumer"].add(HoldRenewer)

execute_plan = create_task(app, base=Step)
execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)
