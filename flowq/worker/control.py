"""Commands of remote control: what each takes, what it does, and its reply in Celery's form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flowq.errors import FlowqError
from flowq.worker import replies
from flowq.worker.controlled import Controlled, Errands, Held, Stats

__all__ = ["COMMANDS", "Command", "Controlled", "Errands", "Held", "Stats", "dispatch"]

log = logging.getLogger("flowq.control")

Handler = Callable[[Controlled, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        handler: Takes the worker and the arguments, and gives the reply.
        help: One line: what it does.
        inspect: Whether it only looks.
        takes: (name, reader of a text) of arguments that a command line may give, in order.
        rest: Name of the argument that takes all further words of a command line.
        needs: How many words it needs at least.
        hidden: Whether it is for programs only.
        alias: Its older name.
    """

    handler: Handler
    help: str
    inspect: bool = False
    takes: tuple[tuple[str, Callable[[str], Any]], ...] = ()
    rest: str = ""
    needs: int = 0
    hidden: bool = False
    alias: str = ""

    @property
    def signature(self) -> str:
        """Its arguments, for people."""
        words = [name.upper() for name, _ in self.takes] + [f"{self.rest.upper()}..."] * bool(
            self.rest
        )
        return " ".join(w if i < self.needs else f"[{w}]" for i, w in enumerate(words))


def dispatch(worker: Controlled, name: str, arguments: Mapping[str, Any]) -> Any:
    """Do a command and give its reply, fit for JSON; never raises an Exception.

    Args:
        worker: What it is about.
        name: Name of the command.
        arguments: Its keyword arguments; those it does not know are left aside.
    """
    command = COMMANDS.get(name) or _ALIASES.get(name)
    if command is None:
        return {"error": f"there is no command {name!r}"}
    if not command.inspect:
        log.info("remote control: %s %s", name, dict(arguments))
    try:
        return replies.plain(command.handler(worker, dict(arguments)))
    except (FlowqError, ValueError) as exc:
        return {"error": str(exc)}
    except KeyError as exc:
        return {"error": f"{name} needs the argument {exc}"}
    except Exception as exc:
        log.exception("remote control: %s failed", name)
        return {"error": repr(exc)}


def _ok(text: Any) -> dict[str, Any]:
    return {"ok": text}


# -- looking ------------------------------------------------------------------------------------


def _active(worker: Controlled, arguments: dict[str, Any]) -> Any:
    safe = bool(arguments.get("safe"))
    return [replies.request(held, worker.hostname, safe) for held in worker.active()]


def _reserved(worker: Controlled, _: dict[str, Any]) -> Any:
    return [replies.request(held, worker.hostname) for held in worker.reserved()]


def _scheduled(worker: Controlled, _: dict[str, Any]) -> Any:
    return [
        {
            "eta": held.eta,
            "priority": held.priority,
            "request": replies.request(held, worker.hostname),
        }
        for held in worker.scheduled()
    ]


def _query_task(worker: Controlled, arguments: dict[str, Any]) -> Any:
    wanted = set(_listed(arguments["ids"]))
    states = {
        "scheduled": worker.scheduled(),
        "reserved": worker.reserved(),
        "active": worker.active(),
    }
    return {
        held.id: [state, replies.request(held, worker.hostname)]
        for state, several in states.items()
        for held in several
        if held.id in wanted
    }


def _hello(worker: Controlled, arguments: dict[str, Any]) -> Any:
    """Two workers tell each other what is revoked; a starting Celery worker asks for it."""
    if arguments.get("from_node") == worker.hostname:
        return None
    theirs = [str(each) for each in arguments.get("revoked") or ()]
    if theirs:
        worker.revoke(theirs, False, None)
    return {"revoked": list(worker.revoked()), "clock": worker.app.clock.forward()}


# -- acting -------------------------------------------------------------------------------------


def _revoke(worker: Controlled, arguments: dict[str, Any]) -> Any:
    ids = list(dict.fromkeys(str(each) for each in _listed(arguments["task_id"])))
    terminate = bool(arguments.get("terminate"))
    return _revoked(worker.revoke(ids, terminate, arguments.get("signal")), terminate, ids)


def _terminate(worker: Controlled, arguments: dict[str, Any]) -> Any:
    return _revoke(worker, {**arguments, "terminate": True})


def _revoked(ended: Iterable[str], terminate: bool, ids: list[str]) -> Any:
    found = sorted(ended)
    if not terminate:
        return _ok(f"tasks {', '.join(ids)} flagged as revoked")
    return _ok(f"terminate: {', '.join(found)}" if found else "terminate: tasks unknown")


def _revoke_by_stamps(worker: Controlled, arguments: dict[str, Any]) -> Any:
    given = arguments["headers"]
    if not isinstance(given, Mapping):
        pairs = [str(text).partition("=") for text in _listed(given)]
        given = {key: [value] for key, _, value in pairs}
    stamps = {key: [str(each) for each in _listed(value)] for key, value in given.items()}
    terminate = bool(arguments.get("terminate"))
    ended = list(worker.revoke_stamped(stamps, terminate, arguments.get("signal")))
    if not terminate:
        return _ok(f"headers {stamps} flagged as revoked, but not terminated")
    return _ok(f"headers {stamps} revoked" if ended else f"headers {stamps} were not terminated")


def _rate_limit(worker: Controlled, arguments: dict[str, Any]) -> Any:
    name, rate = arguments["task_name"], arguments["rate_limit"]
    try:
        replies.check_rate(rate)
    except ValueError as exc:
        return {"error": f"Invalid rate limit string: {exc}"}
    if name not in worker.app.tasks:
        return {"error": "unknown task"}
    worker.rate_limit(name, rate)
    nothing = not rate or str(rate) == "0"
    return _ok("rate limit disabled successfully" if nothing else "new rate limit set successfully")


def _time_limit(worker: Controlled, arguments: dict[str, Any]) -> Any:
    name = arguments["task_name"]
    if name not in worker.app.tasks:
        return {"error": "unknown task"}
    worker.time_limit(name, arguments.get("hard"), arguments.get("soft"))
    return _ok("time limits set successfully")


def _grow(worker: Controlled, arguments: dict[str, Any]) -> Any:
    worker.grow(_count(arguments))
    return _ok("pool will grow")


def _shrink(worker: Controlled, arguments: dict[str, Any]) -> Any:
    worker.shrink(_count(arguments))
    return _ok("pool will shrink")


def _count(arguments: Mapping[str, Any]) -> int:
    n = arguments.get("n", 1)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"the pool changes by a whole number of at least 1, not by {n!r}")
    return n


def _autoscale(worker: Controlled, arguments: dict[str, Any]) -> Any:
    most, least = worker.autoscale(arguments.get("max"), arguments.get("min"))
    return _ok(f"autoscale now max={most} min={least}")


def _add_consumer(worker: Controlled, arguments: dict[str, Any]) -> Any:
    place = (arguments.get(key) for key in ("exchange", "exchange_type", "routing_key"))
    worker.add_consumer(arguments["queue"], *place)
    return _ok(f"add consumer {arguments['queue']}")


def _cancel_consumer(worker: Controlled, arguments: dict[str, Any]) -> Any:
    worker.cancel_consumer(arguments["queue"])
    return _ok(f"no longer consuming from {arguments['queue']}")


def _shutdown(worker: Controlled, _: dict[str, Any]) -> Any:
    worker.shutdown()
    return _ok("shutting down")


def _enable_events(worker: Controlled, _: dict[str, Any]) -> Any:
    return _ok("task events enabled" if worker.events(True) else "task events already enabled")


def _disable_events(worker: Controlled, _: dict[str, Any]) -> Any:
    return _ok("task events disabled" if worker.events(False) else "task events already disabled")


def _restart(_worker: Controlled, _: dict[str, Any]) -> Any:
    raise ValueError("the pool cannot be restarted; shut the worker down and start it again")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]


_QUEUE = (("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str))
_LIMITS = (("task_name", str), ("soft", float), ("hard", float))

#: Every command by name.
COMMANDS: dict[str, Command] = {
    "active": Command(_active, "Tasks that run now.", True, alias="dump_active"),
    "active_queues": Command(
        lambda worker, _: list(worker.active_queues()), "Queues that are consumed from.", True
    ),
    "clock": Command(
        lambda worker, _: {"clock": worker.app.clock.value}, "The logical clock.", True
    ),
    "conf": Command(
        lambda worker, given: replies.conf(worker.app.conf, bool(given.get("with_defaults"))),
        "Settings in force, passwords masked.",
        True,
        (("with_defaults", replies.flag),),
        alias="dump_conf",
    ),
    "hello": Command(_hello, "Exchange revoked ids and clocks.", True, hidden=True),
    "memsample": Command(lambda *_: replies.memory(), "Memory in use.", True),
    "ping": Command(lambda *_: _ok("pong"), "Whether it answers.", True),
    "query_task": Command(_query_task, "Tasks by id, and their state.", True, rest="ids", needs=1),
    "registered": Command(
        lambda worker, given: replies.registered(
            worker.app.tasks, given.get("taskinfoitems"), bool(given.get("builtins"))
        ),
        "Tasks that are defined.",
        True,
        rest="taskinfoitems",
        alias="dump_tasks",
    ),
    "report": Command(
        lambda worker, _: _ok(replies.report(worker.app)), "Versions and settings.", True
    ),
    "reserved": Command(_reserved, "Tasks taken that wait.", True, alias="dump_reserved"),
    "revoked": Command(
        lambda worker, _: list(worker.revoked()), "Revoked ids.", True, alias="dump_revoked"
    ),
    "scheduled": Command(
        _scheduled, "Tasks that wait for their time.", True, alias="dump_schedule"
    ),
    "stats": Command(
        lambda worker, _: replies.stats(worker.stats(), worker.app.clock), "Figures.", True
    ),
    "add_consumer": Command(_add_consumer, "Consume from a queue too.", takes=_QUEUE, needs=1),
    "autoscale": Command(
        _autoscale, "Bounds of the pool's size.", takes=(("max", int), ("min", int)), needs=1
    ),
    "cancel_consumer": Command(
        _cancel_consumer, "Consume from a queue no more.", takes=(("queue", str),), needs=1
    ),
    "disable_events": Command(_disable_events, "Send no task events."),
    "election": Command(lambda *_: None, "Nothing: there are no elections.", hidden=True),
    "enable_events": Command(_enable_events, "Send task events."),
    "heartbeat": Command(lambda worker, _: worker.beat(), "Send a heartbeat event now."),
    "pool_grow": Command(_grow, "Add slots to the pool.", takes=(("n", int),)),
    "pool_restart": Command(_restart, "Refused: restart the worker.", hidden=True),
    "pool_shrink": Command(_shrink, "Take slots from the pool.", takes=(("n", int),)),
    "rate_limit": Command(
        _rate_limit,
        "Limit how often a task begins: 10/s, 5/m, 1/h.",
        takes=(("task_name", str), ("rate_limit", str)),
        needs=2,
    ),
    "revoke": Command(_revoke, "Do not run tasks.", rest="task_id", needs=1),
    "revoke_by_stamped_headers": Command(
        _revoke_by_stamps, "Do not run tasks with a stamp: KEY=VALUE.", rest="headers", needs=1
    ),
    "shutdown": Command(_shutdown, "End the worker when its tasks have ended."),
    "terminate": Command(
        _terminate,
        "Revoke tasks, and end those that run.",
        takes=(("signal", str),),
        rest="task_id",
        needs=2,
    ),
    "time_limit": Command(
        _time_limit, "Set time limits of a task, in seconds.", takes=_LIMITS, needs=2
    ),
}
_ALIASES = {command.alias: command for command in COMMANDS.values() if command.alias}
