"""The one place that keeps passwords out of what is shown."""

from __future__ import annotations

import re

_URL = re.compile(r"[a-zA-Z][\w+.\-]*://[^\s;,'\"]*")
_SECRET_PARAMETER = re.compile(r"(?i)([?&][\w.\-]*(?:password|passwd|secret|token)[\w.\-]*=)[^&#]*")


def mask_url(text: str) -> str:
    """Replace the passwords of every URL in a text by `***`.

    The text may be one URL, several separated by `;`, or a message that quotes some. A user name,
    the host and the path stay readable. Text without a password is returned as it is.
    """
    return _URL.sub(lambda found: _mask_one(found[0]), text)


def _mask_one(url: str) -> str:
    scheme, rest = url.split("://", 1)
    authority_end = re.search(r"[/?#]", rest)
    cut = authority_end.start() if authority_end else len(rest)
    at = rest.rfind("@", 0, cut)
    if at < 0 and "@" in rest and not re.match(r"[^:]*(:\d*)?$", rest[:cut]):
        at = rest.rfind("@")  # a password with an unquoted slash in it
    if at >= 0 and ":" in rest[:at]:
        rest = f"{rest[: rest.index(':')]}:***{rest[at:]}"
    return scheme + "://" + _SECRET_PARAMETER.sub(r"\1***", rest)
