"""Compressed message bodies, with a bound: what comes out is counted while it comes out.

Eighty bytes of bzip2 can stand for 64 MiB. So the output is taken in pieces, and no piece is
asked for that would go beyond the limit. Names and MIME types are kombu's.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from flowq.errors import EncodeError, MessageDecodeError

#: Output is taken in pieces of at most this many bytes.
CHUNK: Final = 64 * 1024
#: lzma and zstd may not ask for a larger window than their strongest usual presets need.
_WINDOW_BYTES: Final = 80 * 1024 * 1024
_WINDOW_LOG: Final = 26

_MIMES: Final = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "brotli": "application/x-brotli",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}


class _Stream(Protocol):
    """A decompressor that gives at most so many bytes at a time."""

    @property
    def eof(self) -> bool: ...

    @property
    def rest(self) -> bytes:
        """What followed the end of the stream."""
        ...

    def more(self, data: bytes, limit: int) -> bytes:
        """Output, at most `limit` bytes; `data` is given once, then empty."""
        ...


class _Zlib:
    """zlib and gzip, told apart by their first bytes."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=47)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data

    def more(self, data: bytes, limit: int) -> bytes:
        return self._stream.decompress(data or self._stream.unconsumed_tail, limit)


class _Buffered:
    """The shape that bz2, lzma and zstd of the standard library share."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def rest(self) -> bytes:
        return bytes(self._stream.unused_data)

    def more(self, data: bytes, limit: int) -> bytes:
        if not data and self._stream.needs_input:
            return b""
        return bytes(self._stream.decompress(data, limit))


class _Brotli:
    """brotli 1.2 and later; earlier ones cannot bound their output."""

    rest = b""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.is_finished())

    def more(self, data: bytes, limit: int) -> bytes:
        return bytes(self._stream.process(data, output_buffer_limit=limit))


def _bz2() -> _Stream:
    import bz2

    return _Buffered(bz2.BZ2Decompressor())


def _lzma() -> _Stream:
    import lzma

    return _Buffered(lzma.LZMADecompressor(memlimit=_WINDOW_BYTES))


def _zstd_module() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("zstd needs Python 3.14 or the package backports.zstd")


def _zstd() -> _Stream:
    module = _zstd_module()
    bound = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return _Buffered(module.ZstdDecompressor(options=bound))


def _brotli() -> _Stream:
    brotli = importlib.import_module("brotli")
    if not hasattr(brotli.Decompressor, "can_accept_more_data"):
        raise ImportError("brotli 1.2 or later is needed, which can bound its output")
    return _Brotli(brotli.Decompressor())


_OPENERS: Final[dict[str, Callable[[], _Stream]]] = {
    "application/x-gzip": _Zlib,
    "application/x-bz2": _bz2,
    "application/x-lzma": _lzma,
    "application/zstd": _zstd,
    "application/x-brotli": _brotli,
}


def inflate(data: bytes, method: str, max_bytes: int) -> bytes:
    """Decompress a body, never to more than `max_bytes`.

    Args:
        data: One compressed stream, whole, with nothing after it.
        method: Its MIME type or short name (gzip, bzip2, lzma, zstd, brotli ...).
        max_bytes: A larger output is refused while it is made.

    Raises:
        MessageDecodeError: The method is unknown or not installed; the stream is broken, cut
            short or followed by something else; or it holds more than `max_bytes`.
    """
    mime = _MIMES.get(method, method)
    opener = _OPENERS.get(mime)
    if opener is None:
        known = ", ".join(sorted(_MIMES))
        raise MessageDecodeError(f"unknown compression {method[:80]!r}; there are {known}")
    try:
        stream = opener()
        return _drain(stream, data, mime, max_bytes)
    except ImportError as exc:
        raise MessageDecodeError(f"a message is compressed as {mime}: {exc}") from exc
    except MessageDecodeError:
        raise
    except Exception as exc:  # each library has errors of its own
        raise MessageDecodeError(f"a {mime} body cannot be decompressed: {exc}") from exc


def _drain(stream: _Stream, data: bytes, mime: str, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while not stream.eof:
        piece = stream.more(data, min(CHUNK, max_bytes - total + 1))
        if not piece and not data:
            break
        data = b""
        total += len(piece)
        if total > max_bytes:
            raise MessageDecodeError(
                f"a {mime} body holds more than the limit of {max_bytes:,} bytes;"
                " raise max_payload_bytes if it is meant to"
            )
        pieces.append(piece)
    if not stream.eof:
        raise MessageDecodeError(f"a {mime} body is cut short after {total:,} bytes")
    if stream.rest:
        raise MessageDecodeError(f"a {mime} body is followed by {len(stream.rest):,} other bytes")
    return b"".join(pieces)


def deflate(data: bytes, method: str) -> tuple[bytes, str]:
    """Compress a body; gives the bytes and the MIME type for the ``compression`` header.

    Raises:
        EncodeError: The method is unknown or not installed.
    """
    mime = _MIMES.get(method, method)
    try:
        if mime == "application/x-gzip":
            return zlib.compress(data), mime
        if mime == "application/x-bz2":
            return bytes(importlib.import_module("bz2").compress(data)), mime
        if mime == "application/x-lzma":
            return bytes(importlib.import_module("lzma").compress(data)), mime
        if mime == "application/zstd":
            return bytes(_zstd_module().compress(data)), mime
        if mime == "application/x-brotli":
            return bytes(importlib.import_module("brotli").compress(data)), mime
    except ImportError as exc:
        raise EncodeError(f"cannot compress as {method}: {exc}") from exc
    raise EncodeError(f"unknown compression {method!r}; there are {', '.join(sorted(_MIMES))}")
