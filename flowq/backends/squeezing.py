"""Compressed result records in Celery's form, inflated with a bound.

Such a record says so itself: a mark that no serializer begins with, the compression's MIME type,
NUL, then the body. It is read whatever this process compresses with.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

from flowq.errors import ImproperlyConfigured, MessageDecodeError
from flowq.payload import MAX_BYTES

MARK: Final = b"\x00celery-compressed\x00"
_GZIP, _BZIP2, _LZMA = b"application/x-gzip", b"application/x-bz2", b"application/x-lzma"
_BY_NAME: Final[dict[str, tuple[bytes, Callable[[bytes], bytes]]]] = {
    "gzip": (_GZIP, zlib.compress),
    "zlib": (_GZIP, zlib.compress),
    "bzip2": (_BZIP2, bz2.compress),
    "bzip": (_BZIP2, bz2.compress),
    "lzma": (_LZMA, lzma.compress),
    "xz": (_LZMA, lzma.compress),
}
_OPENERS: Final[dict[bytes, Callable[[], Any]]] = {
    _GZIP: lambda: zlib.decompressobj(wbits=47),
    _BZIP2: bz2.BZ2Decompressor,
    _LZMA: lambda: lzma.LZMADecompressor(memlimit=80 << 20),
}


def squeeze(body: bytes, name: str) -> bytes:
    """Compress a record.

    Raises:
        ImproperlyConfigured: No compression has that name.
    """
    found = _BY_NAME.get(name.lower())
    if found is None:
        known = ", ".join(sorted(_BY_NAME))
        raise ImproperlyConfigured(f"result_compression={name!r}: there are {known}")
    mime, compress = found
    return MARK + mime + b"\0" + compress(body)


def stretch(body: bytes, limit: int = MAX_BYTES) -> bytes:
    """A record as it was; one that is not compressed comes back as it is.

    Raises:
        MessageDecodeError: It is damaged, of an unknown compression, or longer than `limit`.
    """
    if not body.startswith(MARK):
        return body
    mime, _, packed = body[len(MARK) :].partition(b"\0")
    opener = _OPENERS.get(mime)
    if opener is None:
        name = mime.decode("ascii", "replace")
        raise MessageDecodeError(f"a result is compressed as {name}, which cannot be read here")
    try:
        return _inflate(opener(), packed, limit)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as exc:
        raise MessageDecodeError(f"a compressed result cannot be read: {exc}") from exc


def _inflate(stream: Any, data: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not stream.eof:
        part = stream.decompress(data, limit + 1 - size)
        data = getattr(stream, "unconsumed_tail", b"")
        size += len(part)
        if size > limit:
            raise MessageDecodeError(f"a compressed result has over {limit:,} bytes inside")
        if not part and not data:
            raise EOFError("it ends too early")
        parts.append(part)
    return b"".join(parts)
