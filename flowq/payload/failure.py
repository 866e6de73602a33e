"""The form of an exception as data: never a pickle, rebuilt only from classes that are known.

A class is looked up in modules that are imported already and allowed: the builtins, flowq.errors,
and those that define a registered task. Anything else becomes a synthetic subclass of
`RemoteError` of the same name, so that its type still reads well and nothing is ever imported or
called because a row says so.
"""

from __future__ import annotations

import sys
import traceback as tracebacks
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Final

import msgspec

from flowq.errors import DecodeError, EncodeError, RemoteError
from flowq.payload.plain import from_json, to_json

_MESSAGE_CHARS: Final = 8 * 1024
_TRACEBACK_CHARS: Final = 64 * 1024
_ARGS_BYTES: Final = 64 * 1024
_CAUSES: Final = 8
_SAFE_MODULES: Final = frozenset(("builtins", "flowq.errors"))


class ErrorInfo(msgspec.Struct, array_like=True):
    """One exception as data."""

    #: Qualified class name.
    type: str
    #: Module of the class.
    module: str
    #: ``str(exc)``, capped.
    message: str
    #: JSON of ``exc.args``; None when they are not plain data or too large.
    args: bytes | None = None
    #: As Python prints it, without the worker's own frames; capped, head and tail kept.
    traceback: str = ""
    #: Id of the node that raised it; "" when unknown.
    node_id: str = ""
    #: Name of the task that raised it.
    task: str = ""
    #: What it was raised from.
    cause: ErrorInfo | None = None


def error_repr(info: ErrorInfo) -> str:
    """An error as Python shows the exception, with its arguments where they are known."""
    try:
        args = [info.message] if info.args is None else from_json(info.args)
    except DecodeError:
        args = [info.message]
    return f"{info.type}({', '.join(map(repr, args))})"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ErrorInfo).decode


def encode_error(
    exc: BaseException, *, node_id: str = "", task: str = "", traceback: str | None = None
) -> bytes:
    """Make the frame of an exception; never fails, whatever the exception's own code does.

    Args:
        exc: The exception; its causes are kept, eight deep.
        node_id: Id of the node or bare task that raised it.
        task: Its task name.
        traceback: Text to record; None formats the exception's own.
    """
    return encode_info(_describe(exc, node_id, task, traceback, 0))


def encode_info(info: ErrorInfo) -> bytes:
    """Make the error frame of a description."""
    return b"e" + _encode(info)


def decode_error(frame: bytes) -> ErrorInfo:
    """Read an error frame without making an exception of it.

    Raises:
        DecodeError: It is not one.
    """
    if frame[:1] != b"e":
        raise DecodeError(f"expected an error frame, found tag {frame[:1]!r}")
    try:
        return _decode(frame[1:])
    except msgspec.DecodeError as exc:
        raise DecodeError(f"an error frame cannot be read: {exc}") from exc


def rebuild(info: ErrorInfo, allowed: Callable[[str], bool] | None = None) -> Exception:
    """Make an exception of its description, of the original class where that is safe.

    Args:
        info: What `decode_error` read.
        allowed: Says whether classes of a module may be used besides builtins and flowq.errors;
            asked only about modules that are imported.

    Returns:
        An exception with its cause; a subclass of RemoteError when the class is not known.
    """
    exc = _known(info, allowed) or _synthetic(info.module, info.type)(info.message)
    if info.cause is not None:
        exc.__cause__ = rebuild(info.cause, allowed)
    return exc


def _known(info: ErrorInfo, allowed: Callable[[str], bool] | None) -> Exception | None:
    module = sys.modules.get(info.module)
    if module is None:
        return None
    if info.module not in _SAFE_MODULES and not (allowed is not None and allowed(info.module)):
        return None
    found: object = module
    for name in info.type.split("."):
        found = getattr(found, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    if found.__module__ != info.module:
        return None
    try:
        args = [info.message] if info.args is None else from_json(info.args)
        exc = found(*args)
    except Exception:  # constructors with other signatures; the name is kept
        return None
    return exc if isinstance(exc, Exception) else None


@lru_cache(maxsize=1024)
def _synthetic(module: str, name: str) -> type[RemoteError]:
    return type(name.rpartition(".")[2] or "RemoteError", (RemoteError,), {"__module__": module})


def _describe(
    exc: BaseException, node_id: str, task: str, traceback: str | None, depth: int
) -> ErrorInfo:
    cls = type(exc)
    if traceback is None:
        traceback = format_exception(exc)
    cause = exc.__cause__
    if cause is None and not exc.__suppress_context__:
        cause = exc.__context__
    described = None
    if cause is not None and depth < _CAUSES and cause is not exc:
        described = _describe(cause, "", "", "", depth + 1)
    return ErrorInfo(
        type=_clean(cls.__qualname__),
        module=_clean(cls.__module__),
        message=_cap(_text(exc), _MESSAGE_CHARS),
        args=_args(exc),
        traceback=_cap(_clean(traceback), _TRACEBACK_CHARS),
        node_id=node_id,
        task=task,
        cause=described,
    )


def _args(exc: BaseException) -> bytes | None:
    try:
        body = to_json(list(exc.args), "args")
    except EncodeError:
        return None
    return body if len(body) <= _ARGS_BYTES else None


def _text(exc: BaseException) -> str:
    try:
        return _clean(str(exc))
    except Exception as broken:  # a user's __str__ may raise anything
        return f"<{type(exc).__name__}: its text cannot be made: {type(broken).__name__}>"


def _clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 has no form for."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _cap(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - limit} characters left out ...\n{text[-half:]}"


def format_exception(exc: BaseException) -> str:
    """Format an exception as Python does, leaving out the frames that flowq itself added."""
    try:
        shown = exc.with_traceback(_users_part(exc.__traceback__))
        return "".join(tracebacks.format_exception(shown))
    except Exception as broken:  # a user's __str__ or __repr__ may raise anything
        return f"{type(exc).__qualname__}: its traceback cannot be made: {broken!r}"


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """Skip the leading frames of the worker and the task wrapper; all of them may be ours."""
    whole = traceback
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "")
        if not str(name).startswith(("flowq.worker.", "flowq.app.", "asyncio.")):
            return traceback
        traceback = traceback.tb_next
    return whole
