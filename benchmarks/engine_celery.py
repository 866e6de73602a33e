"""Celery as its documentation advises for many short tasks: Redis, prefork, wide prefetch.

Two databases of one Redis, and names of this process's own in them: everything is deleted at the
end. The broker's names are given one by one, because kombu's global key prefix would add work to
each of Celery's commands.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import celery

from benchmarks.bodies import BODIES
from benchmarks.process import die_with_parent

REDIS = os.environ.get("FLOWQ_BENCH_REDIS", "redis://127.0.0.1:6379").rstrip("/")
TOKEN = os.environ.get("FLOWQ_BENCH_TOKEN", "flowq-bench")
BROKER, BACKEND = f"{REDIS}/14", f"{REDIS}/15"

app = celery.Celery("benchmarks.engine_celery", broker=BROKER, backend=BACKEND)
app.conf.update(
    task_default_queue=TOKEN,
    task_default_exchange=TOKEN,
    task_default_routing_key=TOKEN,
    broker_transport_options={
        "unacked_key": f"{TOKEN}.unacked",
        "unacked_index_key": f"{TOKEN}.unacked.index",
        "unacked_mutex_key": f"{TOKEN}.unacked.mutex",
    },
    result_backend_transport_options={"global_keyprefix": f"{TOKEN}."},
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=64,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    task_track_started=False,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)
tasks = {name: app.task(name=f"bench.{name}")(body) for name, body in BODIES.items()}


class Celery:
    """A Celery worker started by this process, and Celery's primitives."""

    name = "celery"
    version = celery.__version__
    chain = staticmethod(celery.chain)
    group = staticmethod(celery.group)
    chord = staticmethod(celery.chord)
    tasks = tasks
    durable_inc = tasks["inc"]  # Celery has no durable task: W6d is compared with the bare one

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        command = [
            *(sys.executable, "-m", "celery", "-A", "benchmarks.engine_celery", "worker"),
            *("-c", str(options["concurrency"]), "-P", options["pool"], "-l", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
        self.worker = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},  # its advice about the root user
            stdout=subprocess.DEVNULL,  # its banner; the log goes to stderr
            preexec_fn=die_with_parent,
        )

    @property
    def durability(self) -> str:
        """What the Redis behind it promises."""
        client = self._redis(BACKEND)
        aof = client.config_get("appendonly")["appendonly"] == "yes"
        every = client.config_get("appendfsync")["appendfsync"] if aof else "no append-only file"
        return f"redis, {every}"

    def layers(self, count: int) -> Any:
        """None: a canvas has no node that reads three nodes of the layer before."""
        return None

    def submit(self, graph: Any) -> Any:
        raise NotImplementedError

    def store_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        """End the worker and delete every key of this process; a second call does nothing."""
        if self.worker.poll() is None:
            self.worker.send_signal(signal.SIGTERM)
            try:
                self.worker.wait(10)
            except subprocess.TimeoutExpired:
                self.worker.kill()
                self.worker.wait()
        for url in (BROKER, BACKEND):
            client = self._redis(url)
            batch: list[bytes] = []
            for key in client.scan_iter(match=f"*{TOKEN}*", count=5000):
                batch.append(key)
                if len(batch) == 5000:
                    client.unlink(*batch)
                    batch.clear()
            if batch:
                client.unlink(*batch)

    @staticmethod
    def _redis(url: str) -> Any:
        import redis

        return redis.Redis.from_url(url)


def open_engine(options: dict[str, Any]) -> Celery:
    """Start the worker; returns at once, the first task waits for it."""
    return Celery(options)
