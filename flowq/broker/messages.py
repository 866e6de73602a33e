"""`TaskMessage`: everything that one message of Celery's protocol 2 says about one call. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from flowq.errors import EncodeError, MessageDecodeError

#: The arguments ``[], {}`` as a frame.
NO_ARGS: Final = b"j[[],{}]"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
_Limit = int | float | None


def _aside(name: str) -> str:
    """A wire name for what does not travel as a header, so that no usual header fills it."""
    return f"({name})"


class TaskMessage(msgspec.Struct, kw_only=True):
    """One call of a task.

    The signatures embedded in it are dicts in Celery's form, their values as the content type
    has them: JSON's typed values are still ``{"__type__": ..., "__value__": ...}``.
    """

    task: _Name
    id: _Name
    #: ``[args, kwargs]`` as a payload frame: a tag byte (j, m, y, p) and the encoded pair.
    frame: bytes = msgspec.field(default=NO_ARGS, name=_aside("frame"))
    #: Signatures to send with the result.
    callbacks: list[Any] | None = msgspec.field(default=None, name=_aside("callbacks"))
    #: Signatures to send or call when it fails.
    errbacks: list[Any] | None = msgspec.field(default=None, name=_aside("errbacks"))
    #: What follows in its chain, the next one last.
    chain: list[Any] | None = msgspec.field(default=None, name=_aside("chain"))
    #: Body of the chord that this is a header task of.
    chord: Any = msgspec.field(default=None, name=_aside("chord"))
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    retries: _Count | None = 0
    #: ISO 8601; see `due`.
    eta: str | None = None
    #: ISO 8601; see `expires_at`.
    expires: str | None = None
    #: Seconds: (hard, soft).
    timelimit: tuple[_Limit, _Limit] | None = None
    shadow: str | None = None
    origin: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    #: None: as the task says.
    ignore_result: bool | None = None
    replaced_task_nesting: _Count | None = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    lang: str | None = "py"
    #: Headers that are the user's own.
    headers: dict[str, Any] = msgspec.field(default_factory=dict, name=_aside("headers"))
    reply_to: str | None = msgspec.field(default=None, name=_aside("reply_to"))
    correlation_id: str | None = msgspec.field(default=None, name=_aside("correlation_id"))
    priority: int | None = msgspec.field(default=None, name=_aside("priority"))

    @property
    def due(self) -> float | None:
        """Epoch seconds of `eta`; None: at once."""
        return None if self.eta is None else moment(self.eta, "eta")

    @property
    def expires_at(self) -> float | None:
        """Epoch seconds of `expires`; None: never."""
        return None if self.expires is None else moment(self.expires, "expires")

    def retried(self, eta: datetime | None = None, frame: bytes = b"") -> TaskMessage:
        """The message that asks for this task once more: same id, one retry more.

        Args:
            eta: Not before then.
            frame: New arguments; empty keeps those it has.
        """
        again = msgspec.structs.replace(self)
        again.retries = (self.retries or 0) + 1
        again.eta = None if eta is None else iso(eta)
        again.headers = {k: v for k, v in self.headers.items() if k not in BROKER_HEADERS}
        if frame:
            again.frame = frame
            again.argsrepr = again.kwargsrepr = None
        return again

    def request(self, delivery_info: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the task sees as ``self.request`` besides its arguments, by Celery's field names."""
        fields = {name: getattr(self, name) for name in _REQUEST}
        fields["headers"] = self.headers or None
        fields["correlation_id"] = self.correlation_id or self.id
        fields["root_id"] = self.root_id or self.id
        fields["timelimit"] = list(self.timelimit or (None, None))
        fields["delivery_info"] = {"priority": self.priority, **(delivery_info or {})}
        return fields


class Encoded(NamedTuple):
    """A message as the broker is given it. The body is not to be compressed or encoded again."""

    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str
    content_encoding: str


#: Headers that brokers add or change on the way; they are about one delivery, not about the call.
BROKER_HEADERS: Final = frozenset(
    (
        "redelivered",
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
    )
)
#: Header that names how the body is compressed.
COMPRESSION: Final = "compression"
#: Header that carries the signature.
SIGNATURE: Final = "flowq-signature"
#: Headers that the protocol defines; a user's own may not have these names.
PROTOCOL_HEADERS: Final = frozenset(
    name for name in TaskMessage.__struct_encode_fields__ if not name.startswith("(")
) | {COMPRESSION, SIGNATURE}

_REQUEST: Final = tuple(
    name for name in TaskMessage.__struct_fields__ if name not in ("frame", "priority", "headers")
)


def moment(text: str, what: str) -> float:
    """Epoch seconds of an ISO 8601 time; one without a zone is UTC.

    Raises:
        MessageDecodeError: It is none.
    """
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC)
        return parsed.timestamp()
    except (ValueError, OverflowError) as exc:
        raise MessageDecodeError(f"the {what} of a message is no ISO time: {text[:80]!r}") from exc


def iso(when: datetime) -> str:
    """ISO 8601 with a zone; a time without one is UTC."""
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).isoformat()


def header_table(message: TaskMessage) -> dict[str, Any]:
    """The headers of a message.

    Raises:
        EncodeError: One of the user's own has a name of the protocol.
    """
    table: dict[str, Any] = {
        "lang": message.lang or "py",
        "task": message.task,
        "id": message.id,
        "shadow": message.shadow,
        "eta": message.eta,
        "expires": message.expires,
        "group": message.group,
        "group_index": message.group_index,
        "retries": message.retries or 0,
        "timelimit": list(message.timelimit) if message.timelimit else [None, None],
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "argsrepr": message.argsrepr,
        "kwargsrepr": message.kwargsrepr,
        "origin": message.origin,
        "ignore_result": message.ignore_result,
        "replaced_task_nesting": message.replaced_task_nesting or 0,
        "stamped_headers": message.stamped_headers,
        "stamps": message.stamps or {},
    }
    own = message.headers
    if own:
        clash = PROTOCOL_HEADERS.intersection(own)
        if clash:
            raise EncodeError(
                f"the header {min(clash)!r} is the protocol's own: choose another name, or give"
                " the option of that name"
            )
        table.update(own)
    return table
