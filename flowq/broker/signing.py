"""Signed messages: an HMAC-SHA-256 over the headers, the properties that matter and the body.

Off unless keys are set. What is signed is put together from parts with their lengths in front, so
that nothing can slide from one part into the next; it is checked before anything is inflated or
parsed. A signature does not make a message unique: a copy of a whole message verifies as well.

Messages of tasks carry it in a header. Those between coordinators and workers have no headers: a
`Seal` puts it before their bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from flowq.broker.messages import BROKER_HEADERS, SIGNATURE
from flowq.errors import EncodeError, ImproperlyConfigured, MessageDecodeError

_PURPOSE: Final = b"flowq task message 1"
#: What a sealed body begins with: a byte that begins nothing in msgpack, and the version.
_SEALED: Final = b"\xc1\x01"
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FORM: Final = re.compile(r"1\.([A-Za-z0-9_-]{1,64})\.([0-9a-f]{64})")
_LEAST_BYTES: Final = 16

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class KeyRing:
    """Secrets by id: the first signs, all of them verify.

    Args:
        keys: Ids of letters, digits, ``_`` and ``-``; secrets of at least 16 bytes. To change the
            secret, add the new one at the end everywhere, then move it to the front, and drop
            the old one when no message signed with it is left.

    Raises:
        ImproperlyConfigured: There is no key, or an id or a secret is not of that form.
    """

    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        if not keys:
            raise ImproperlyConfigured("message_signing_keys names no key")
        self._secrets: dict[str, bytes] = {}
        for key_id, secret in keys.items():
            if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
                raise ImproperlyConfigured(
                    f"message_signing_keys: {key_id!r} is no key id; use letters, digits, _ and -"
                )
            raw = secret.encode() if isinstance(secret, str) else secret
            if not isinstance(raw, bytes) or len(raw) < _LEAST_BYTES:
                raise ImproperlyConfigured(
                    f"message_signing_keys: the secret of {key_id!r} needs at least"
                    f" {_LEAST_BYTES} bytes; make one with secrets.token_hex(32)"
                )
            self._secrets[key_id] = raw
        self._first = next(iter(self._secrets))

    @classmethod
    def of(cls, setting: Mapping[str, str | bytes] | None) -> KeyRing | None:
        """The ring of the setting ``message_signing_keys``; None when it is empty: no signing."""
        return cls(setting) if setting else None

    def __repr__(self) -> str:
        return f"<KeyRing: {', '.join(self._secrets)}>"

    def sign(
        self,
        body: bytes,
        headers: Mapping[str, Any],
        properties: Mapping[str, Any],
        content_type: str,
        content_encoding: str,
    ) -> str:
        """The value of the signature header.

        Raises:
            EncodeError: A header holds what has no JSON form.
        """
        try:
            text = _signed_text(body, headers, properties, content_type, content_encoding)
        except (TypeError, ValueError, RecursionError) as exc:
            raise EncodeError(
                f"cannot sign a message: its headers are no plain data: {exc}"
            ) from exc
        return f"1.{self._first}.{self._digest(self._first, text)}"

    def verify(
        self,
        body: bytes,
        headers: Mapping[str, Any],
        properties: Mapping[str, Any],
        content_type: str,
        content_encoding: str,
    ) -> None:
        """Check a message as it came in.

        Raises:
            MessageDecodeError: It is not signed, not with a key of this ring, or was changed.
        """
        given = headers.get(SIGNATURE)
        if given is None:
            raise MessageDecodeError("a message is not signed, but message_signing_keys is set")
        found = _FORM.fullmatch(given) if isinstance(given, str) else None
        if found is None:
            raise MessageDecodeError("the signature of a message is of no known form")
        if found[1] not in self._secrets:
            raise MessageDecodeError(f"a message is signed with the unknown key {found[1]!r}")
        try:
            text = _signed_text(body, headers, properties, content_type, content_encoding)
        except (TypeError, ValueError, RecursionError) as exc:
            raise MessageDecodeError("a signed message has headers of no known form") from exc
        if not hmac.compare_digest(self._digest(found[1], text), found[2]):
            raise MessageDecodeError(
                f"the signature of a message, by key {found[1]!r}, does not fit its contents"
            )

    def _digest(self, key_id: str, text: bytes) -> str:
        # the id is part of what is signed: one secret under two ids makes two signatures
        parts = _joined(_PURPOSE, key_id.encode()) + text
        return hmac.new(self._secrets[key_id], parts, hashlib.sha256).hexdigest()

    def seal(self, purpose: bytes, body: bytes) -> bytes:
        """The body with a signature before it: for one purpose, it verifies for no other."""
        key_id = self._first.encode()
        mark = hmac.digest(self._secrets[self._first], _joined(purpose, key_id, body), "sha256")
        return b"%b%c%b%b%b" % (_SEALED, len(key_id), key_id, mark, body)

    def unseal(self, purpose: bytes, data: bytes) -> bytes:
        """The body that `seal` was given.

        Raises:
            MessageDecodeError: It is not sealed, not with a key of this ring, or was changed.
        """
        if data[:2] != _SEALED:
            raise MessageDecodeError("a message is not signed, but message_signing_keys is set")
        start = 3 + int.from_bytes(data[2:3])
        found = data[3:start].decode("ascii", "replace")
        secret = self._secrets.get(found)
        if secret is None:
            raise MessageDecodeError(f"a message is signed with the unknown key {found!r}")
        mark, body = data[start : start + _DIGEST_BYTES], data[start + _DIGEST_BYTES :]
        right = hmac.digest(secret, _joined(purpose, found.encode(), body), "sha256")
        if not hmac.compare_digest(mark, right):
            raise MessageDecodeError(
                f"the signature of a message, by key {found!r}, does not fit its contents"
            )
        return body


class Seal:
    """What goes on the bytes of one kind of message between coordinators and workers.

    Args:
        keys: None: nothing goes on them.
        kind: What the messages are; those of another kind, or of another store, do not verify.
        store_id: Name of the store.
    """

    def __init__(self, keys: KeyRing | None = None, kind: str = "", store_id: str = "") -> None:
        self._keys = keys
        self._purpose = _joined(b"flowq 1", kind.encode(), store_id.encode())

    def close(self, body: bytes) -> bytes:
        """The body as it is sent."""
        return body if self._keys is None else self._keys.seal(self._purpose, body)

    def open(self, data: bytes) -> bytes:
        """The body of what came in.

        Raises:
            MessageDecodeError: With keys: it is not sealed, or was changed. Without: it is sealed.
        """
        if self._keys is not None:
            return self._keys.unseal(self._purpose, data)
        if data[:2] == _SEALED:
            raise MessageDecodeError(
                "a message is signed, but message_signing_keys is not set in this process"
            )
        return data


def _signed_text(
    body: bytes,
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
    content_type: str,
    content_encoding: str,
) -> bytes:
    kept = {k: v for k, v in headers.items() if k != SIGNATURE and k not in BROKER_HEADERS}
    envelope = [
        content_type,
        content_encoding,
        properties.get("correlation_id") or "",
        properties.get("reply_to") or "",
        properties.get("priority") or 0,  # kombu's Redis transport fills in the 0
        kept,
    ]
    return _joined(_canonical(envelope).encode(), body)


def _joined(*parts: bytes) -> bytes:
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


#: Of messages that are not signed.
UNSEALED: Final = Seal()
