"""How many fetches from a slow source does a cache save? Tasks over a skewed set of keys.

Each of `n` tasks needs the record of one key. Keys are drawn as a Zipf distribution has it: few are
asked for often, many once. The source counts its fetches in a file. The same tasks run without a
cache, with the layer in each process alone, and with memcached behind it.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

from benchmarks import bars
from benchmarks.pairs import Line, Settings, scratch
from flowq import Flowq, cache, chord

N, KEYS, SKEW, SEED = 2000, 400, 1.1, 7
#: What a fetch takes, and how much it brings.
FETCH_S, RECORD_BYTES = 0.005, 16 * 1024
#: Two thirds of the fetches are to be saved.
SAVED = 2 / 3

app = Flowq("locality", set_as_current=False)


def fetch(source: str, key: int) -> bytes:
    """One record of the slow source, which notes that it was asked."""
    time.sleep(FETCH_S)
    with open(source, "ab", buffering=0) as file:
        file.write(b"x")
    return record(key)


def record(key: int) -> bytes:
    """What the source holds under a key."""
    return blake2b(str(key).encode()).digest() * (RECORD_BYTES // 64)


@app.task(name="locality.use")
def use(source: str, key: int, cached: bool) -> int:
    """A task that needs a record; gives a number that depends on it."""
    if cached:
        found = cache.get("records", app=app).get_or_set(str(key), lambda: fetch(source, key))
    else:
        found = fetch(source, key)
    return int.from_bytes(found[-4:])


@app.task(name="locality.total")
def total(numbers: list[int]) -> int:
    """All of them together."""
    return sum(numbers)


def drawn(n: int) -> list[int]:
    """The key of each task; the same at each call."""
    weights = [1 / (rank + 1) ** SKEW for rank in range(KEYS)]
    return random.Random(SEED).choices(range(KEYS), weights, k=n)


def measure_locality(settings: Settings, n: int = N) -> list[Line]:
    """One line for each cache, with its fetches beside those without."""
    keys = drawn(n)
    without, wall = _run(keys, settings, None)
    lines: list[Line] = []
    with memcached() as url:
        for kind, place in (("process", "memory://"), ("memcached", url)):
            if not place:
                lines.append({"workload": "locality", "cache": kind, "error": "not installed"})
                continue
            fetches, cached_wall = _run(keys, settings, place)
            saved = 1 - fetches / without
            lines.append(
                {
                    "workload": "locality",
                    "n": n,
                    "keys": len(set(keys)),
                    "cache": kind,
                    "engine": "flowq",
                    "pool": settings.pool,
                    "concurrency": settings.concurrency,
                    "fetches_without": without,
                    "fetches_with": fetches,
                    "saved": round(saved, 4),
                    "wall_without_s": round(wall, 3),
                    "wall_with_s": round(cached_wall, 3),
                    "bars": [bars.at_least("saved", saved, SAVED)],
                }
            )
    return lines


def _run(keys: list[int], settings: Settings, url: str | None) -> tuple[int, float]:
    """Run all tasks in a fresh store; gives the number of fetches and the seconds."""
    with scratch() as directory:
        source = directory / "fetches"
        source.touch()
        app.conf.update(
            store_url=settings.store or f"sqlite:///{directory}/bench.db",
            worker_pool=settings.pool,
            worker_concurrency=settings.concurrency,
            caches={"records": url} if url else {},
        )
        try:
            app.submit(total.s([])).result(settings.timeout)  # the pool is up
            canvas = chord([use.s(str(source), key, bool(url)) for key in keys], total.s())
            begun = time.perf_counter()
            result = app.submit(canvas).result(settings.timeout)
            wall = time.perf_counter() - begun
        finally:
            app.close()
        wanted = sum(int.from_bytes(record(key)[-4:]) for key in keys)
        if result != wanted:
            raise ValueError(f"the tasks gave {result}, not {wanted}")
        return source.stat().st_size, wall


@contextmanager
def memcached() -> Iterator[str]:
    """URL of a memcached of our own; empty where it is not installed."""
    program = shutil.which("memcached")
    if program is None:
        yield ""
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-l", "127.0.0.1", "-p", str(port), "-U", "0"]
    server = subprocess.Popen([*command, *(["-u", "nobody"] if os.getuid() == 0 else [])])
    try:
        _wait_for(port)
        yield f"memcached://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
