"""Compressed result records in Celery's form, inflated with a bound.

Such a record says so itself: a mark that no serializer begins with, the compression's MIME type,
NUL, then the body. It is read whatever this process compresses with.
"""

from __future__ import annotations

from typing import Final

from flowq.broker.inflate import deflate, inflate
from flowq.errors import EncodeError, ImproperlyConfigured
from flowq.payload import MAX_BYTES

MARK: Final = b"\x00celery-compressed\x00"


def squeeze(body: bytes, name: str) -> bytes:
    """Compress a record.

    Raises:
        ImproperlyConfigured: No compression has that name, or its package is missing.
    """
    try:
        packed, mime = deflate(body, name)
    except EncodeError as exc:
        raise ImproperlyConfigured(f"result_compression={name!r}: {exc}") from exc
    return MARK + mime.encode() + b"\0" + packed


def stretch(body: bytes, limit: int = MAX_BYTES) -> bytes:
    """A record as it was; one that is not compressed comes back as it is.

    Raises:
        MessageDecodeError: It is damaged, of an unknown compression, or longer than `limit`.
    """
    if not body.startswith(MARK):
        return body
    mime, _, packed = body[len(MARK) :].partition(b"\0")
    return inflate(packed, mime.decode("ascii", "replace"), limit)


def check(name: str) -> None:
    """See at the start that a compression is there.

    Raises:
        ImproperlyConfigured: It is not.
    """
    if name:
        squeeze(b"", name)
