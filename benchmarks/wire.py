"""Bytes that a node of a chain puts on the wire, in a short chain and in a long one.

A Redis of its own carries everything: messages to the worker and reports back. What it sent and
received is what it says itself.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.pairs import Line, Settings, open_host, scratch
from benchmarks.process import die_with_parent

SHORT, LONG = 10, 1000
#: The larger of the two is at most so many times the smaller one.
APART = 1.05


@contextmanager
def own_redis() -> Iterator[int]:
    """A Redis server on a free port; gives the port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not installed")
    words = [program, "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def measure_wire(settings: Settings) -> Iterator[Line]:
    """One line: bytes a node for a chain of 10 and of 1,000, without what an idle fleet sends."""
    import redis

    with ExitStack() as stack:
        port = stack.enter_context(own_redis())
        directory = stack.enter_context(scratch())
        url = f"redis://127.0.0.1:{port}"
        host = open_host(
            "fleet", replace(settings, broker=f"{url}/0", backend=f"{url}/1"), directory
        )
        stack.callback(host.close)
        client = redis.Redis(port=port)

        def moved() -> int:
            stats: dict[str, Any] = client.info("stats")
            return int(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])

        def per_node(n: int, times: int) -> float:
            idle_began, idle = moved(), time.monotonic()
            time.sleep(1.0)
            rate = (moved() - idle_began) / (time.monotonic() - idle)
            before, began = moved(), time.monotonic()
            for _ in range(times):
                host.ask(120.0, workload="W2", n=n, timeout=60.0)
            spent = time.monotonic() - began
            return (moved() - before - rate * spent) / (n * times)

        per_node(SHORT, 5)
        short, long = per_node(SHORT, 100), per_node(LONG, 1)
        ratio = max(short, long) / min(short, long)
        yield {
            "workload": "wire",
            "engine": "fleet",
            "bytes_per_node": {str(SHORT): round(short, 1), str(LONG): round(long, 1)},
            "bars": [
                {"what": "ratio", "at_most": APART, "value": round(ratio, 4), "met": ratio <= APART}
            ],
        }
