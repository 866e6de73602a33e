"""Chords counted in Redis, in the keys and by the rules of Celery 5.7's Redis backend.

Workers of both kinds may end tasks of one header, so they have to agree on every key: the parts
(``.j``, a sorted set by place in the group), whose part is in (``.d``), how many there must be
(``.s`` plus ``.t``), and who sends the body (``.c``: a claim that expires, then "done").
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from typing import Any, Final

import msgspec

from flowq.broker.inflate import inflate
from flowq.errors import ChordError, DecodeError, MessageDecodeError
from flowq.payload import DEFAULT_ACCEPT, MAX_BYTES, ErrorInfo
from flowq.payload.failure import decode_error, encode_info
from flowq.payload.foreign import describe, from_record, split_part, to_record
from flowq.payload.plain import to_json

_COMPRESSED: Final = b"\x00celery-compressed\x00"
_FAILED: Final = frozenset(("FAILURE", "REVOKED"))
#: Seconds for which the body may be on its way before another worker may send it.
_CLAIM: Final = 30
#: Seconds for which late copies of header tasks are recognised.
_DONE: Final = 300

#: Counts one part once; says how many are in, how many there must be, and whether this caller,
#: being the one to complete them, is to send the body.
_COUNT_LUA: Final = """
local parts, delta, size, seen, group, claim = unpack(KEYS)
local who, part, ordered, place = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local life, token, hold = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
if redis.call('GET', claim) == 'done' then return {-1, 0, 0} end
if redis.call('SADD', seen, who .. ':' .. place) == 1 then
  if ordered == '1' then redis.call('ZADD', parts, place, part)
  else redis.call('RPUSH', parts, part) end
end
if life > 0 then
  for _, key in ipairs({parts, delta, size, seen, group}) do redis.call('EXPIRE', key, life) end
end
local count
if ordered == '1' then count = redis.call('ZCARD', parts) else count = redis.call('LLEN', parts) end
local wanted, mine = redis.call('GET', size), 0
if not wanted then return {count, -1, 0} end
wanted = tonumber(wanted) + tonumber(redis.call('GET', delta) or 0)
if count == wanted and redis.call('SET', claim, token, 'NX', 'EX', hold) then mine = 1 end
return {count, wanted, mine}
"""

#: Ends a chord whose body was sent, if the claim is still ours.
_DONE_LUA: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('SET', KEYS[1], 'done', 'EX', tonumber(ARGV[2]))
return 1
"""


class Part(msgspec.Struct):
    """The end of one header task, or of what stands for one."""

    group: str
    task_id: str
    state: str
    #: Result, or error.
    frame: bytes
    #: The chord's body, a signature in dict form.
    body: Any
    index: int | None = None
    root_id: str | None = None
    #: Serializer of the message that the body came in.
    content: str = "json"


class Joined(msgspec.Struct):
    """A chord whose parts are all in; whoever holds this sends the body, then calls `done`."""

    part: Part
    token: str
    #: Frame of the list of results, in textual order; empty if one failed.
    frame: bytes = b""
    #: Frame of the ChordError; empty if none failed.
    error: bytes = b""
    #: Frame of what the failed header task raised.
    cause: bytes = b""


class RedisChords:
    """Counts parts of chords.

    Args:
        client: A redis-py client that gives bytes.
        prefix: ``global_keyprefix`` of the result backend's transport options.
        expires: Seconds that counters live after the last part; 0: for ever.
        ordered: ``result_chord_ordered`` of the transport options.
        accept: Serializers that results may be in.
    """

    def __init__(
        self,
        client: Any,
        *,
        prefix: str = "",
        expires: float = 86_400,
        ordered: bool = True,
        accept: Collection[str] = DEFAULT_ACCEPT,
    ) -> None:
        self._client, self._prefix = client, prefix
        self._expires, self._ordered, self._accept = int(expires), ordered, accept
        self._count = client.register_script(_COUNT_LUA)
        self._done = client.register_script(_DONE_LUA)

    def _key(self, group: str, suffix: str = "") -> str:
        return f"{self._prefix}celery-taskset-meta-{group}{suffix}"

    def begin(self, group: str, size: int, shape: list[Any] | None = None) -> None:
        """Set up a chord before its header is sent. A second call begins it anew.

        Args:
            group: Id of the header.
            size: Number of parts.
            shape: Celery's tuple form of the header's result when it is nested.
        """
        life = self._expires or None
        pipe = self._client.pipeline(transaction=True)
        pipe.delete(self._key(group, ".c"))
        pipe.set(self._key(group, ".s"), size, ex=life)
        if shape is not None:
            pipe.set(self._key(group), json.dumps({"result": shape}), ex=life)
        pipe.execute()

    def count(self, part: Part) -> Joined | None:
        """Count a part.

        Repeating: a part counts once; the one that completes the chord is told so again if the
        body was not sent while its claim lasted.

        Returns:
            The chord, if this was the last part and nobody else sends the body.

        Raises:
            EncodeError, ContentDisallowed, DecodeError: The result has no JSON form.
            redis.RedisError: The server cannot be reached.
        """
        value = b'[1,%b,"%b",%b]' % (
            json.dumps(part.task_id).encode(),
            part.state.encode(),
            to_record(part.frame, self._accept),
        )
        token = secrets.token_hex(16)
        keys = [self._key(part.group, name) for name in (".j", ".t", ".s", ".d", "", ".c")]
        place = "+inf" if part.index is None else part.index
        ordered = int(self._ordered)
        count, _, mine = self._count(
            keys=keys,
            args=[part.task_id, value, ordered, place, self._expires, token, _CLAIM],
        )
        if count < 0 or not mine:
            return None
        return self._join(Joined(part, token))

    def done(self, joined: Joined) -> bool:
        """Forget a chord whose body was sent, or whose failure was seen to.

        Returns:
            False if the claim had run out meanwhile; another worker may send the body again.
        """
        names = (".c", ".j", ".t", ".s", ".d")
        keys = [self._key(joined.part.group, name) for name in names]
        return bool(self._done(keys=keys, args=[joined.token, _DONE]))

    def _join(self, joined: Joined) -> Joined:
        """Read the parts of a complete chord."""
        group = joined.part.group
        key = self._key(group, ".j")
        if self._ordered:
            parts = self._client.zrange(key, 0, -1)
        else:
            parts = self._client.lrange(key, 0, -1)
        try:
            read = [split_part(_inflated(part)) for part in parts]
            for task_id, state, result in read:
                if state in _FAILED:
                    return _broken(joined, task_id, from_record(result, failed=True))
            shape = self._client.get(self._key(group))
            if shape is None:
                joined.frame = b"j[%b]" % b",".join(result for _, _, result in read)
            else:
                results = {task_id: result for task_id, _, result in read}
                joined.frame = b"j" + _nested(_shape(shape)[1], results)
        except MessageDecodeError as exc:
            joined.error = joined.cause = _chord_error(f"Join error: {exc!r}")
        return joined


def _broken(joined: Joined, task_id: str, cause: bytes) -> Joined:
    text = f"Dependency {task_id} raised {describe(cause)}"
    joined.error, joined.cause = _chord_error(text, decode_error(cause)), cause
    return joined


def _chord_error(text: str, cause: ErrorInfo | None = None) -> bytes:
    info = ErrorInfo("ChordError", ChordError.__module__, text, to_json([text]), cause=cause)
    return encode_info(info)


def _inflated(raw: bytes) -> bytes:
    """A record as it was before ``result_compression``."""
    if not raw.startswith(_COMPRESSED):
        return raw
    method, _, body = raw[len(_COMPRESSED) :].partition(b"\x00")
    return inflate(body, method.decode("latin-1"), MAX_BYTES)


def _shape(raw: bytes) -> list[Any]:
    try:
        found = msgspec.json.decode(_inflated(raw))["result"]
        if isinstance(found, list) and len(found) == 2 and isinstance(found[1], list):
            return found
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError) as exc:
        raise DecodeError(f"the saved header of a chord cannot be read: {exc}") from exc
    raise DecodeError("the saved header of a chord is no group")


def _nested(nodes: list[Any], results: dict[str, bytes]) -> bytes:
    """JSON of the results in the shape of the header."""
    values = []
    for node in nodes:
        try:
            (task_id, _), children = node
            values.append(results[task_id] if children is None else _nested(children, results))
        except (TypeError, ValueError, KeyError) as exc:
            raise DecodeError(
                f"the header of a chord names a result that is not there: {exc}"
            ) from exc
    return b"[%b]" % b",".join(values)
