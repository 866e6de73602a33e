"""Cut a worker off 20 times for twice its lease, and join it again.

The worker reaches its broker, result backend and store through proxies (`tests/apart.py`); another
worker and the coordinator are not disturbed. Cuts that end its connections and cuts that leave them
open and silent take turns. Each comes while the worker runs a task of a run of 43, and afterwards
the worker has to take part again. Of every run: all nodes SUCCESS, the right result, one outcome of
each node in the table of transitions, each body in the ledger. Exit code 1 when any of that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pairs import scratch
from tests.apart import BODY, Apart

RESULTS = Path(__file__).parent.parent / "results"
WIDTH = 14
REDIS = os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379/10")
RABBITMQ = os.environ.get("FLOWQ_TEST_RABBITMQ", "pyamqp://guest:guest@127.0.0.1:5672//")
POSTGRES = os.environ.get("FLOWQ_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/")


@contextmanager
def database() -> Iterator[str]:
    """URL of a PostgreSQL database that is dropped at the end."""
    import psycopg

    name = f"flowq_cuts_{secrets.token_hex(4)}"
    server = POSTGRES.replace("+psycopg", "").rstrip("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield f"{POSTGRES.rstrip('/')}/{name}"
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def one_cut(rig: Apart, how: str, delay: float) -> dict[str, Any]:
    """Submit, cut, join, judge: one line of the report."""
    began = time.monotonic()
    try:
        uid, run_id = rig.submit(WIDTH)
        rig.cut(how, delay=delay)
        joined = time.monotonic()
        more = rig.until_it_takes_part("cut")
        rejoined = time.monotonic() - joined
        wrong = [each for run in more for each in rig.judge(*run).wrong]
        verdict = rig.judge(uid, run_id, WIDTH)
    except AssertionError as failed:
        return {"how": how, "error": str(failed)[-2000:], "ok": False}
    line = {"how": how, "delay_s": delay, **verdict._asdict(), "wrong": wrong + verdict.wrong}
    line |= {"rejoined_s": round(rejoined, 2), "took_s": round(time.monotonic() - began, 2)}
    return {**line, "ok": not line["wrong"]}


def campaign(broker: str, backend: str, cuts: int, seed: int) -> Iterator[dict[str, Any]]:
    """All cuts with one broker, in one fleet."""
    kind = broker.partition(":")[0]
    with scratch() as folder, database() as store:
        rig = Apart(folder, broker=broker, backend=backend, store=store)
        try:
            rig.begin()
            for number in range(1, cuts + 1):
                delay = round(random.Random(f"{seed}/{number}").uniform(0, BODY), 3)
                line = one_cut(rig, "cut" if number % 2 else "stall", delay)
                yield {"broker": kind, "cut": number, **line}
        finally:
            rig.close()


def main() -> int:
    """Run the campaign; 1 when a cut broke the promise, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaigns.cuts")
    parser.add_argument("--cuts", type=int, default=20, help="of each broker")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", action="append", help="URL; may be repeated")
    parser.add_argument("--backend", default=REDIS)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/cuts.jsonl")
    args = parser.parse_args()
    lines = []
    for broker in args.broker or [REDIS, RABBITMQ]:
        for line in campaign(broker, args.backend, args.cuts, args.seed):
            lines.append(line)
            print(json.dumps(line), flush=True)
    bad = [[line["broker"], line["cut"]] for line in lines if not line["ok"]]
    totals = {key: sum(line.get(key, 0) for line in lines) for key in TOTALS}
    lines.append({"cuts": len(lines), "seed": args.seed, "violations": bad, **totals})
    print(json.dumps(lines[-1]), flush=True)
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (RESULTS / "cuts.jsonl").write_text(text)
    return 1 if bad else 0


TOTALS = ("nodes", "taken_back", "twice", "discarded")

if __name__ == "__main__":
    sys.exit(main())
