"""``flowq inspect``, ``control``, ``events`` and ``call``: speaking to workers by messages."""

from __future__ import annotations

import json as json_
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowq.cli import options
from flowq.cli.output import Output

if TYPE_CHECKING:
    from flowq.worker.control import Command

_Words = Annotated[
    list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="Arguments of the command.")
]


def inspect(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="What to ask for.")],
    words: _Words = None,
    app: options.App = None,
    broker: options.BrokerUrl = None,
    destination: options.Destination = None,
    timeout: options.Patience = "1s",
    json: options.Json = False,
) -> int:
    """Ask workers what they do.

    Commands: active, active_queues, clock, conf [WITH_DEFAULTS], memsample, ping,
    query_task ID..., registered [ATTRIBUTE]..., report, reserved, revoked, scheduled, stats.
    """
    return _ask("inspect", command, words or [], (app, broker, destination, timeout), json)


def control(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="What to do.")],
    words: _Words = None,
    app: options.App = None,
    broker: options.BrokerUrl = None,
    store: options.StoreUrl = None,
    destination: options.Destination = None,
    timeout: options.Patience = "1s",
    json: options.Json = False,
) -> int:
    """Steer workers.

    Commands: add_consumer QUEUE [EXCHANGE [TYPE [KEY]]], autoscale MAX [MIN],
    cancel_consumer QUEUE, disable_events, enable_events, heartbeat, pool_grow [N],
    pool_shrink [N], rate_limit TASK RATE, revoke ID..., revoke_by_stamped_headers KEY=VALUE...,
    shutdown, terminate SIGNAL ID..., time_limit TASK SOFT [HARD].
    """
    return _ask("control", command, words or [], (app, broker, destination, timeout), json, store)


def _ask(
    group: str,
    command: str,
    words: list[str],
    whom: tuple[str | None, str | None, list[str] | None, str],
    json: bool,
    store: str | None = None,
) -> int:
    from flowq.app.control import flatten_reply
    from flowq.cli.addressing import app_for, check_answers, nodes, outline
    from flowq.errors import Refused

    out = Output(json=json)
    name, arguments = parsed(group, command, words)
    spec, broker, destination, timeout = whom
    seconds = options.seconds(timeout, "--timeout") or 0.0
    wanted = nodes(destination)
    app = app_for(spec, broker, store=store)
    how: dict[str, Any] = {"destination": wanted, "reply": True, "timeout": seconds}
    if name in ("revoke", "terminate"):
        arguments.setdefault("signal", "SIGTERM")
        ids = arguments.pop("task_id")
        answers = app.control.revoke(ids, terminate=name == "terminate", **arguments, **how)
        told = any(not _is_node(app, each) for each in ids)
    else:
        answers, told = app.control.broadcast(name, arguments, **how), True
    replies = flatten_reply(answers or [])
    if json:
        out.object({"replies": replies})
    else:
        for node, reply in sorted(replies.items()):
            lines = outline(reply)
            if len(lines) == 1:
                out.data(f"{node}: {lines[0]}")
            else:
                out.data("\n  ".join([f"{node}:", *lines]))
    if told:
        check_answers(replies, wanted, seconds, app)
    else:
        out.say("these are nodes of runs, and revoked in the store")
    refusals = [r["error"] for r in replies.values() if isinstance(r, dict) and "error" in r]
    if refusals:
        raise Refused(f"{len(refusals)} of {len(replies)} workers refused: {refusals[0]}")
    return 0


def _is_node(app: Any, task_id: str) -> bool:
    from flowq.app.queues import stored

    store = stored(app)
    if store is None:
        return False
    try:
        return store.locate(task_id) is not None
    finally:
        store.close()


def parsed(group: str, command: str, words: list[str]) -> tuple[str, dict[str, Any]]:
    """The name of a command, and its arguments as its words give them.

    Raises:
        typer.BadParameter: There is no such command, or its words do not fit.
    """
    from flowq.worker.control import COMMANDS

    name = command.replace("-", "_")
    known = {n: c for n, c in COMMANDS.items() if c.inspect == (group == "inspect")}
    if name not in known:
        import difflib

        other = "control" if group == "inspect" else "inspect"
        near = difflib.get_close_matches(name, [n for n, c in known.items() if not c.hidden], n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"flowq {group} --help lists them"
        if name in COMMANDS:
            hint = f"say flowq {other} {command}"
        raise typer.BadParameter(f"there is no command {command!r}; {hint}", param_hint="COMMAND")
    return name, _arguments(name, known[name], words)


def _arguments(name: str, command: Command, words: list[str]) -> dict[str, Any]:
    most = len(command.takes)
    if len(words) < command.needs or (len(words) > most and not command.rest):
        raise typer.BadParameter(
            f"{name} takes {command.signature or 'no arguments'}", param_hint="ARGUMENT"
        )
    found: dict[str, Any] = {}
    for (key, read), word in zip(command.takes, words, strict=False):
        try:
            found[key] = read(word)
        except ValueError:
            raise typer.BadParameter(
                f"{word!r} is no {key} for {name}", param_hint="ARGUMENT"
            ) from None
    if command.rest and len(words) > most:
        found[command.rest] = words[most:]
    return found


def call(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")],
    args: Annotated[str, typer.Option("-a", "--args", metavar="JSON", help="A JSON list.")] = "",
    kwargs: Annotated[
        str, typer.Option("-k", "--kwargs", metavar="JSON", help="A JSON object.")
    ] = "",
    queue: Annotated[
        str | None, typer.Option("-Q", "-q", "--queue", metavar="QUEUE", help="Its queue.")
    ] = None,
    exchange: Annotated[str | None, typer.Option("--exchange", metavar="NAME")] = None,
    routing_key: Annotated[str | None, typer.Option("--routing-key", metavar="KEY")] = None,
    countdown: Annotated[
        str | None, typer.Option("--countdown", metavar="TIME", help="Not before: 30s, 5m.")
    ] = None,
    eta: Annotated[
        str | None, typer.Option("--eta", metavar="ISO", help="Not before that time.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="Not after: 30s, or ISO 8601.")
    ] = None,
    serializer: Annotated[
        str | None, typer.Option("--serializer", metavar="NAME", help="How arguments travel.")
    ] = None,
    app: options.App = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Send a task by name to the workers, and print its id."""
    from flowq.cli.addressing import app_for

    out = Output(json=json)
    given: dict[str, Any] = {
        "queue": queue,
        "exchange": exchange,
        "routing_key": routing_key,
        "countdown": options.seconds(countdown, "--countdown"),
        "eta": _moment(eta, "--eta"),
        "expires": _moment_or_age(expires),
        "serializer": serializer,
    }
    positional, named = _json(args, "--args", list), _json(kwargs, "--kwargs", dict)
    found = app_for(app, broker, backend=backend, store=store)
    found.control.access()  # says so if there is no broker, and so no worker
    try:
        chosen = {key: value for key, value in given.items() if value is not None}
        result = found.send_task(task, positional, named, **chosen)
    finally:
        found.close()
    if json:
        out.object({"id": result.id, "task": task})
    else:
        out.data(str(result.id))
    return 0


def _json(text: str, option: str, kind: type) -> Any:
    if not text:
        return kind()
    try:
        value = json_.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is no JSON: {exc}", param_hint=option) from None
    if not isinstance(value, kind):
        what = "a list, as in '[1, 2]'" if kind is list else "an object, as in '{\"x\": 1}'"
        raise typer.BadParameter(f"{text!r} is not {what}", param_hint=option)
    return value


def _moment(text: str | None, option: str) -> Any:
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write 2030-01-31T12:00:00+00:00", param_hint=option
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _moment_or_age(text: str | None) -> Any:
    if text is None or "T" in text or text.count("-") > 1:
        return _moment(text, "--expires")
    return options.seconds(text, "--expires")


def events(
    _dump: Annotated[
        bool, typer.Option("--dump", help="Print events as they come; it is what is done anyway.")
    ] = False,
    kind: Annotated[
        str, typer.Option("--type", metavar="GLOB", help="Only these: task-*, worker-heartbeat.")
    ] = "*",
    enable: Annotated[
        bool, typer.Option("-E", "--enable", help="First have workers send task events.")
    ] = False,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="N", help="End after so many.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("-t", "--timeout", metavar="TIME", help="End after that.")
    ] = None,
    app: options.App = None,
    broker: options.BrokerUrl = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Print what workers tell: that they live, and what becomes of tasks."""
    from flowq.cli.addressing import app_for
    from flowq.cli.eventlines import listen

    found = app_for(app, broker)
    listen(
        found,
        Output(json=json, quiet=quiet),
        kind=kind,
        enable=enable,
        limit=options.whole(limit, "--limit"),
        timeout=options.seconds(timeout, "--timeout"),
    )
    return 0
