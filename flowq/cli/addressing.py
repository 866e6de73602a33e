"""Whom remote commands speak to: the app, the broker, the workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flowq.cli import options

if TYPE_CHECKING:
    from flowq.app.base import Flowq


def app_for(spec: str | None, broker: str | None = None, **urls: str | None) -> Flowq:
    """The app that ``-A`` names, with the URLs that options gave; without ``-A`` one of settings.

    Raises:
        TargetError: There is no such app.
    """
    if spec:
        from flowq.app.finding import find_app

        app = find_app(spec)
    else:
        from flowq.app.base import Flowq

        app = Flowq("flowq", set_as_current=False)
    options.configure(app, broker=broker, **urls)
    return app


def nodes(destination: Sequence[str] | None) -> list[str] | None:
    """Names given with ``-d``, several in one text or one by one; None for all workers."""
    found = [name.strip() for text in destination or () for name in text.split(",")]
    return list(dict.fromkeys(name for name in found if name)) or None


def check_answers(
    answered: Iterable[str], wanted: list[str] | None, seconds: float, app: Flowq
) -> None:
    """Complain about workers that did not answer.

    Raises:
        NoReply: Nobody answered, or one that was named did not.
    """
    from flowq.config import mask_url
    from flowq.errors import NoReply

    names = set(answered)
    where = mask_url(str(app.conf.broker_url))
    silent = [name for name in wanted or () if name not in names]
    if silent:
        raise NoReply(f"{', '.join(silent)} did not answer within {seconds:g} s, at {where}")
    if not names:
        raise NoReply(f"no worker answered within {seconds:g} s, at {where}")


def outline(reply: Any) -> list[str]:
    """A reply as lines for people."""
    if isinstance(reply, dict) and set(reply) == {"error"}:
        return [f"error: {reply['error']}"]
    if isinstance(reply, dict) and set(reply) == {"ok"}:
        return str(reply["ok"]).splitlines() or [""]
    if isinstance(reply, list):
        return [line for each in reply for line in _entry(each)] or ["none"]
    if isinstance(reply, dict):
        return _fields(reply) or ["none"]
    return ["nothing" if reply is None else str(reply)]


def _entry(each: Any) -> list[str]:
    if isinstance(each, dict):
        if isinstance(each.get("request"), dict):
            return [f"{_task(each['request'])}, due {each.get('eta')}"]
        if "id" in each and "name" in each:
            return [_task(each)]
        if isinstance(each.get("exchange"), dict):
            exchange = each["exchange"]
            place = f"exchange {exchange.get('name')!r} ({exchange.get('type')})"
            return [f"{each.get('name')}: {place}, routing key {each.get('routing_key')!r}"]
    return [str(each)]


def _task(request: dict[str, Any]) -> str:
    from flowq.cli.output import iso

    text = f"{request['name']}[{request['id']}] args={request['args']} kwargs={request['kwargs']}"
    if request.get("time_start"):
        text += f", since {iso(float(request['time_start']))} in process {request['worker_pid']}"
    return text


def _fields(reply: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in reply.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_fields(value, indent + "  ")]
        elif isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
            lines.append(f"{indent}{value[0]}: {_task(value[1])}")  # of query_task
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines
