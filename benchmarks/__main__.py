"""`python -m benchmarks W2 --n 1000 --vs celery`: one JSON line per measurement on stdout."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.locality import N as LOCALITY
from benchmarks.locality import measure_locality
from benchmarks.pairs import Line, Settings, measure
from benchmarks.process import HostError
from benchmarks.size import measure_sizes
from benchmarks.startup import measure_startup
from benchmarks.wire import measure_wire
from benchmarks.workloads import WORKLOADS, names

RESULTS = Path(__file__).with_name("results")
# What the speed bars are set for, in one call: `python -m benchmarks bars --vs celery`.
BARS = [("W2", 1000), ("W3", 10_000), ("W4", 50), ("W5", 1000), ("W6", 500), ("W6d", 500)]
OTHERS = ("W1", "startup", "size", "locality", "wire", "bars", "all")


def parse() -> tuple[argparse.Namespace, Settings]:
    """Read the command line; ends the program with a message on a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add(
        "what",
        choices=[*WORKLOADS, *OTHERS],
        metavar="WORKLOAD",
        help="W1..W6d, startup, size, locality, wire, bars, all",
    )
    add("--n", type=int, help="size; the default is the workload's own")
    add("--vs", choices=["celery"], default="", help="measure this peer by turns with flowq")
    add("--only", choices=["celery"], help="measure this peer alone")
    add("--pool", "-P", choices=["prefork", "threads", "solo"], default="prefork")
    add("--concurrency", "-c", type=int, default=2)
    add("--store", default="", help="store URL; default: a fresh SQLite file under ./.flowq")
    add("--broker", default="", help="broker URL: measure a fleet in place of one process")
    add("--backend", default="", help="its result backend; default: the broker")
    add("--synchronous", choices=["FULL", "NORMAL"], default="FULL")
    add("--repeat", type=int, default=3)
    add("--timeout", type=float, default=300.0, help="seconds for one repeat")
    add("--celery-python", default="", help="an interpreter that imports celery[redis]")
    add("--redis", default="redis://127.0.0.1:6379", help="databases 14 and 15 of it are used")
    add("--save", metavar="NAME", help="also append the lines to benchmarks/results/NAME.jsonl")
    args = parser.parse_args()
    celery_python = args.celery_python
    if (args.vs or args.only) and not celery_python and not importlib.util.find_spec("celery"):
        parser.error("celery is not installed: install flowq[bench], or name --celery-python PATH")
    return args, Settings(
        versus=args.vs,
        pool=args.pool,
        concurrency=args.concurrency,
        store=args.store,
        broker=args.broker,
        backend=args.backend,
        synchronous=args.synchronous,
        repeat=args.repeat,
        timeout=args.timeout,
        celery_python=celery_python,
        redis=args.redis,
        alone=args.only or "",
    )


def lines(what: str, n: int | None, settings: Settings) -> Iterator[Line]:
    """Measure what was asked for, line by line."""
    if what == "startup":
        yield from measure_startup(settings)
    elif what == "size":
        yield from measure_sizes(settings)
    elif what == "wire":
        yield from measure_wire(settings)
    elif what == "locality":
        yield from measure_locality(settings, n or LOCALITY)
    elif what in ("bars", "all"):
        if what == "all":
            yield from lines("W1", None, settings)
        for name, size in BARS:
            yield from measure(name, size, settings)
        if not settings.broker:
            yield from measure_sizes(settings)
            yield from measure_startup(settings)
    else:
        for name in names(what):
            yield from measure(name, n or WORKLOADS[name].default, settings)


def careful(what: str, n: int | None, settings: Settings) -> Iterator[Line]:
    """The same, ending with an error line when an engine does not start."""
    try:
        yield from lines(what, n, settings)
    except HostError as error:
        yield {"workload": what, "n": n, "error": str(error)}


def main() -> int:
    """Print each line when it is measured; 1 if one failed or missed a bar, else 0."""
    args, settings = parse()
    good = True
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for line in careful(args.what, args.n, settings):
        good = good and "error" not in line and all(bar["met"] for bar in line.get("bars", ()))
        text = json.dumps(line)
        print(text, flush=True)
        if args.save:
            RESULTS.mkdir(exist_ok=True)
            with (RESULTS / f"{args.save}.jsonl").open("a") as file:
                file.write(json.dumps({"at": stamp, **line}) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
