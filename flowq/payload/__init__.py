"""Frames: user values as bytes that say what they are.

A frame is one tag byte and a body. The coordinator passes frames on and never decodes them;
only clients and pool children do. ``frames`` holds the tags and the doors, ``plain`` the JSON
and msgpack forms, ``failure`` the form of an exception.
"""

from __future__ import annotations

from flowq.payload.failure import ErrorInfo, decode_error, encode_error, error_repr, rebuild
from flowq.payload.frames import (
    DEFAULT_ACCEPT,
    MAX_BYTES,
    NONE,
    decode,
    decode_args,
    encode,
    encode_args,
    encode_list,
    frame_repr,
    is_error,
    reference,
    references,
    resolve,
)

__all__ = [
    "DEFAULT_ACCEPT",
    "MAX_BYTES",
    "NONE",
    "ErrorInfo",
    "decode",
    "decode_args",
    "decode_error",
    "encode",
    "encode_args",
    "encode_error",
    "encode_list",
    "error_repr",
    "frame_repr",
    "is_error",
    "rebuild",
    "reference",
    "references",
    "resolve",
]
