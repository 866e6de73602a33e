"""The table of settings: name, kind, default, environment name and meaning of each, in one place.

The reference page of the documentation, `flowq config show`, the checks and the error messages all
come from `TABLE`. To add a setting, add a line. Names and defaults are Celery's where Celery has
the setting; a line with a `note` is accepted because Celery users set it, and does nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as documented."""

    #: The name in Python and in TOML files.
    name: str
    #: A key of `KINDS`, or the allowed words separated by `|`.
    kind: str
    #: What holds when nobody says anything; None also means that None is a legal value.
    default: Any
    #: One line: what it does.
    doc: str
    #: Name of the environment variable when it is not `FLOWQ_` + the name in capitals.
    short_env: str = ""
    #: Why the value has no effect here; empty for settings that work.
    note: str = ""
    #: Whether the values of a mapping are secrets, never to be printed.
    secret: bool = False

    @property
    def env(self) -> str:
        """Name of the environment variable that sets it."""
        return self.short_env or f"FLOWQ_{self.name.upper()}"

    @property
    def ignored(self) -> bool:
        """Whether it is accepted for Celery's sake only."""
        return bool(self.note)

    def parse(self, value: Any) -> Any:
        """Turn a value as found in code, a file or the environment into the setting's own type.

        Raises ValueError with what was expected instead.
        """
        if value is None:
            if self.default is None or self.kind in ("duration", "any"):
                return None
            raise ValueError(f"{self.expected}, not None")
        if "|" in self.kind:
            return _word(value, self.kind.split("|"))
        try:
            return KINDS[self.kind][1](value)
        except (ValueError, TypeError, OverflowError):
            given = "what was given" if self.secret else repr(value)
            raise ValueError(f"{self.expected}, not {given}") from None

    @property
    def expected(self) -> str:
        """The kind in words, for messages and for the reference."""
        if "|" in self.kind:
            return "one of " + ", ".join(self.kind.split("|"))
        return KINDS[self.kind][0]


def _word(value: Any, words: list[str]) -> Any:
    for word in words:
        if isinstance(value, str) and value.lower() == word.lower():
            return word
    raise ValueError(f"one of {', '.join(words)}, not {value!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    if isinstance(value, str):
        value = value.replace("_", "")
    return int(value)


def _count(value: Any) -> int:
    found = _integer(value)
    if found < 1:
        raise ValueError
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return value if isinstance(value, int) else float(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in _YES:
            return True
        if value.lower() in _NO:
            return False
        raise ValueError
    if value in (0, 1):
        return bool(value)
    raise ValueError


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return list(json.loads(value))
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Mapping):
        raise ValueError
    return list(value)


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise ValueError
    return dict(value)


def _duration(value: Any) -> timedelta | None:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([\d.]+)\s*([smhdw]?)\s*", value.lower())
        if not found:
            raise ValueError
        value = float(found[1]) * _UNITS[found[2] or "s"]
    return timedelta(seconds=value) if value else None


def _size(value: Any) -> int:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([\d_]+)\s*(b|kib|mib|gib|)\s*", value.lower())
        if not found:
            raise ValueError
        return int(found[1]) * _SIZES[found[2]]
    return _integer(value)


def _any(value: Any) -> Any:
    return value


#: Kind -> (what it is in words, reader of a value as found). A reader raises ValueError.
KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "text": ("a text", _text),
    "url": ("a URL", _text),
    "integer": ("a whole number", _integer),
    "count": ("a whole number of at least 1", _count),
    "number": ("a number", _number),
    "flag": ("true or false", _flag),
    "list": ("a list", _list),
    "mapping": ("a mapping", _mapping),
    "duration": ("a duration (seconds, a timedelta, or text like 90s, 15m, 12h, 7d)", _duration),
    "size": ("a number of bytes (or text like 64KiB, 1MiB)", _size),
    "any": ("any value", _any),
}

_LEASE = "flowq's store redispatches by worker heartbeat; there is no visibility timeout"
_WINDOW = "flowq keeps broker queues short and hands out by free slots"
_JOIN = "joins are rows in the store; there is no chord counter to poll or to expire"
_NO_ACK = "a node is dispatched again by the store; only bare tasks look at it"

TABLE: tuple[Setting, ...] = (
    # -- where things are
    Setting(
        "store_url", "url", None, "Where runs are kept; none: SQLite in .flowq/.", "FLOWQ_STORE"
    ),
    Setting("broker_url", "url", None, "Broker; none: in this process.", "FLOWQ_BROKER"),
    Setting("result_backend", "url", None, "Result backend of bare tasks.", "FLOWQ_BACKEND"),
    Setting("broker_read_url", "url", None, "Broker to consume from, if another one."),
    Setting("broker_write_url", "url", None, "Broker to publish to, if another one."),
    Setting("imports", "list", (), "Modules to import before tasks are looked up."),
    Setting("include", "list", (), "More modules to import before tasks are looked up."),
    Setting("timezone", "text", "UTC", "Zone of naive times given as eta or expires."),
    Setting("enable_utc", "flag", True, "Times in messages are UTC."),
    # -- the store and the engine
    Setting("run_retention", "duration", timedelta(days=30), "How long a finished run is kept."),
    Setting(
        "sqlite_synchronous",
        "FULL|NORMAL",
        "FULL",
        "NORMAL is faster; a power cut may then lose the last commits.",
    ),
    Setting("max_nodes", "integer", 1_000_000, "Most nodes of one run."),
    Setting("max_payload_bytes", "size", 64 << 20, "Largest encoded argument or result."),
    Setting("inline_payload_bytes", "size", 64 << 10, "Larger values travel by reference."),
    Setting("max_nesting", "integer", 1000, "Deepest nesting of a canvas."),
    Setting("max_crashes", "integer", 5, "Deaths of a child while it ran a node, before FAILURE."),
    Setting("caches", "mapping", {}, "Caches for tasks by name: a URL, or url and options."),
    Setting("keep_logs", "flag", True, "Keep what tasks print and log, per attempt."),
    Setting("max_log_bytes", "size", 64 << 10, "Most kept of what one attempt writes."),
    # -- content
    Setting("accept_content", "list", ("json",), "Serializers that may be read."),
    Setting("result_accept_content", "list", None, "The same for results; none: as above."),
    Setting("task_serializer", "text", "json", "How arguments are written."),
    Setting("result_serializer", "text", "json", "How results are written."),
    Setting("task_compression", "text", None, "How bodies of bare tasks are compressed."),
    Setting("result_compression", "text", None, "How results of bare tasks are compressed."),
    Setting(
        "message_signing_keys",
        "mapping",
        {},
        "Secrets by id; the first signs messages, unsigned ones are refused.",
        secret=True,
    ),
    # -- tasks
    Setting("task_always_eager", "flag", False, "Run every call in the calling process."),
    Setting("task_eager_propagates", "flag", False, "An eager call raises the task's error."),
    Setting("task_store_eager_result", "flag", False, "Store results of eager calls."),
    Setting("task_ignore_result", "flag", False, "Store no results unless asked to."),
    Setting("task_store_errors_even_if_ignored", "flag", False, "Store errors all the same."),
    Setting("task_track_started", "flag", False, "Record STARTED also for short bare tasks."),
    Setting("task_acks_late", "flag", False, "Acknowledge bare tasks after they ran."),
    Setting("task_acks_on_failure_or_timeout", "flag", True, "With acks_late: also on failure."),
    Setting("task_reject_on_worker_lost", "flag", False, "Requeue bare tasks of a lost child."),
    Setting("task_default_queue", "text", "celery", "Queue of tasks that name none."),
    Setting("task_default_queue_type", "classic|quorum", "classic", "Type of that queue."),
    Setting("task_default_exchange", "text", None, "Exchange of bare tasks; none: the queue's."),
    Setting("task_default_exchange_type", "text", "direct", "Type of that exchange."),
    Setting("task_default_routing_key", "text", None, "Routing key; none: the queue's name."),
    Setting("task_default_delivery_mode", "any", 2, "1: messages in memory; 2: on disk."),
    Setting("task_default_priority", "integer", None, "Priority of tasks that name none."),
    Setting("task_inherit_parent_priority", "flag", False, "A call in a task takes its priority."),
    Setting("task_queue_max_priority", "integer", None, "x-max-priority of queues on RabbitMQ."),
    Setting("task_routes", "any", None, "Router: mapping, list of pairs, or function."),
    Setting("task_queues", "any", None, "Queues to consume and to publish to."),
    Setting("task_create_missing_queues", "flag", True, "Unknown queue names make queues."),
    Setting("task_create_missing_queue_type", "classic|quorum", "classic", "Type of such queues."),
    Setting("task_create_missing_queue_exchange_type", "text", None, "Type of their exchange."),
    Setting("task_publish_retry", "flag", True, "Publish again when the connection was lost."),
    Setting(
        "task_publish_retry_policy",
        "mapping",
        {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
        "How often and how fast.",
    ),
    Setting("task_time_limit", "number", None, "Seconds before a task's process is killed."),
    Setting("task_soft_time_limit", "number", None, "Seconds before SoftTimeLimitExceeded."),
    Setting("task_default_rate_limit", "any", None, "Rate limit of tasks that name none: '10/m'."),
    Setting("task_annotations", "any", None, "Attributes to set on tasks by name."),
    Setting("task_send_sent_event", "flag", False, "Send task-sent events."),
    Setting("task_allow_error_cb_on_chord_header", "flag", False, "Errbacks also on headers."),
    Setting("task_remote_tracebacks", "flag", False, "Show the worker's traceback in errors."),
    Setting("task_protocol", "integer", 2, "Message protocol of bare tasks."),
    # -- results
    Setting("result_expires", "duration", timedelta(days=1), "Life of bare tasks' results."),
    Setting("result_extended", "flag", False, "Keep name, arguments and worker with results."),
    Setting("result_persistent", "flag", False, "rpc backend: results survive a restart."),
    Setting("result_cache_max", "any", False, "Results kept in the client.", note="not needed"),
    Setting("result_backend_transport_options", "mapping", {}, "Options of the backend."),
    Setting("redis_backend_use_ssl", "mapping", {}, "TLS options of a rediss:// backend."),
    Setting("result_backend_always_retry", "flag", False, "Repeat failed backend calls."),
    Setting("result_backend_max_retries", "any", None, "How often; none: for ever."),
    # -- worker
    Setting(
        "worker_pool",
        "prefork|threads|solo|gevent|eventlet",
        "prefork",
        "How tasks run: child processes, threads, or one after another.",
        "FLOWQ_POOL",
    ),
    Setting(
        "worker_concurrency",
        "count",
        None,
        "Tasks at a time; none: as many as CPUs.",
        "FLOWQ_CONCURRENCY",
    ),
    Setting("worker_max_tasks_per_child", "integer", None, "Replace a child after so many tasks."),
    Setting("worker_max_memory_per_child", "integer", None, "Replace a child above so many KiB."),
    Setting("worker_send_task_events", "flag", False, "Send task events (-E)."),
    Setting("worker_disable_rate_limits", "flag", False, "Take no notice of rate limits."),
    Setting("worker_enable_remote_control", "flag", True, "Answer inspect and control."),
    Setting(
        "worker_hijack_root_logger",
        "flag",
        True,
        "Log as the worker does, not the project.",
    ),
    Setting("worker_redirect_stdouts", "flag", True, "Log what bare tasks print."),
    Setting("worker_redirect_stdouts_level", "text", "WARNING", "Level of such lines."),
    Setting("worker_lost_wait", "number", 10.0, "Seconds to wait for a dead child's result."),
    Setting("worker_proc_alive_timeout", "number", 4.0, "Seconds a child has to start."),
    Setting("worker_shutdown_timeout", "number", None, "Seconds after TERM; none: any number."),
    Setting("worker_soft_shutdown_timeout", "number", 0.0, "Seconds between warm and cold stop."),
    Setting("worker_heartbeat_interval", "number", 2.0, "Seconds between two signs of life."),
    Setting("worker_lost_after", "number", 30.0, "Seconds without a sign: worker is lost."),
    Setting("celery_lost_after", "number", 3600.0, "The same for Celery's, once unheard of."),
    Setting("coordinator_lease", "number", 10.0, "Seconds until a dead one's lanes are free."),
    Setting("worker_state_db", "text", None, "File for revokes.", note="revokes are rows"),
    Setting("worker_direct", "flag", False, "A queue for each worker."),
    Setting("worker_prefetch_multiplier", "integer", 4, "Bare tasks held per slot; 0: any number."),
    Setting("worker_eta_task_limit", "integer", None, "ETA tasks held.", note="timers are rows"),
    Setting("worker_deduplicate_successful_tasks", "flag", False, "Skip done.", note=_NO_ACK),
    Setting(
        "worker_cancel_long_running_tasks_on_connection_loss",
        "flag",
        False,
        "Stop tasks when the broker is lost.",
        note=_NO_ACK,
    ),
    # -- broker connection
    Setting("broker_transport_options", "mapping", {}, "Options of kombu's transport."),
    Setting("broker_heartbeat", "number", 120, "Seconds; AMQP only."),
    Setting("broker_pool_limit", "integer", 10, "Most open connections of a client."),
    Setting("broker_connection_timeout", "number", 4.0, "Seconds to connect."),
    Setting("broker_connection_retry", "flag", True, "Connect again when the broker was lost."),
    Setting("broker_connection_retry_on_startup", "flag", None, "The same at start."),
    Setting("broker_connection_max_retries", "integer", 100, "How often."),
    Setting("broker_login_method", "text", None, "AMQP login method."),
    Setting("broker_use_ssl", "any", False, "TLS options of the broker connection."),
    Setting("broker_failover_strategy", "text", "round-robin", "Order of several broker URLs."),
    # -- events and control
    Setting("control_exchange", "text", "celery", "Exchange of remote control."),
    Setting("control_queue_ttl", "number", 300.0, "Seconds a control message lives."),
    Setting("control_queue_expires", "number", 10.0, "Seconds a control queue outlives its owner."),
    Setting("event_exchange", "text", "celeryev", "Exchange of events."),
    Setting("event_queue_prefix", "text", "celeryev", "Start of event queues' names."),
    Setting("event_queue_ttl", "number", 5.0, "Seconds an event message lives."),
    Setting("event_queue_expires", "number", 60.0, "Seconds an event queue outlives its owner."),
    Setting("event_serializer", "text", "json", "How events are written."),
    # -- schedules
    Setting("beat_schedule", "mapping", {}, "Periodic tasks by name."),
    Setting("beat_max_loop_interval", "number", 0, "Seconds.", note="schedules are rows"),
    Setting("beat_scheduler", "text", None, "Scheduler class.", note="schedules are rows"),
    Setting("beat_schedule_filename", "text", None, "File.", note="schedules are rows"),
    # -- accepted for Celery's sake
    Setting("visibility_timeout", "number", None, "Redis redelivery time.", note=_LEASE),
    Setting("result_chord_join_timeout", "number", 3.0, "Chord join time.", note=_JOIN),
    Setting("result_chord_retry_interval", "number", 1.0, "Chord polling.", note=_JOIN),
    Setting("result_chord_ordered", "flag", True, "Chord order.", note="joins are ordered"),
    Setting("result_chord_expires", "any", None, "Life of chord counters.", note=_JOIN),
)
