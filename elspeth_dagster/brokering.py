"""How steps are handed out: Celery's settings, the same for who hands them out and for the workers.

A step belongs to the worker that took it until that worker says it is done (`task_acks_late`). While it lives the
worker renews its hold (`elspeth_dagster.celery_app`); one that has given no sign for `host_lost_seconds` is taken for
lost, and another worker gets the step (`visibility_timeout`). A worker that notices that its connection is gone lets go
of what it does. A step's process that died is replaced at once. A step that has ended is not run again.
"""

from typing import Any

TIMEOUT = 4
"""Seconds without an answer of Redis after which a command counts as lost; redis-py tries it three times more."""
LOOKED_FOR_EVERY = 5
"""Seconds between two looks for steps that nobody holds any more."""
RESULTS_SECONDS = 7 * 86_400
PUBLISHING = {"max_retries": None, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 2.0}


def celery_settings(host_lost_seconds: int) -> dict[str, Any]:
    """Celery's settings (https://docs.celeryq.dev/en/stable/userguide/configuration.html), but for the urls."""
    return {
        "broker_transport_options": {
            "visibility_timeout": host_lost_seconds,
            "unacked_restore_interval": LOOKED_FOR_EVERY,
            "unacked_restore_throttle": 1,
            "health_check_interval": LOOKED_FOR_EVERY,
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "socket_keepalive": True,
        },
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_publish_retry": True,
        "task_publish_retry_policy": PUBLISHING,
        "task_default_priority": 5,
        "task_default_queue": "dagster",
        "task_track_started": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # `celery_app` lets go of them, and says nothing
        "worker_enable_prefetch_count_reduction": False,
        "worker_deduplicate_successful_tasks": True,
        "worker_hijack_root_logger": False,
        "result_backend_always_retry": True,
        "result_backend_transport_options": {"retry_policy": {"timeout": TIMEOUT}},
        "result_expires": RESULTS_SECONDS,
        "redis_socket_timeout": float(TIMEOUT),
        "redis_socket_connect_timeout": float(TIMEOUT),
        "redis_socket_keepalive": True,
        "redis_retry_on_timeout": True,
        "redis_backend_health_check_interval": LOOKED_FOR_EVERY,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
    }
