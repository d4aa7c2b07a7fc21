"""URLs of authorities and witnesses: which can be asked, and what of them may be shown. PROTOCOL section 8."""

from typing import Final
from urllib.parse import SplitResult, urlsplit

from polledger.errors import UsageError

URL_CHARACTERS: Final = 2048
"""Longest URL: those of authorities have a few dozen, and a request that waits keeps it on disk."""


USABLE: Final = f"an http:// or https:// URL of at most {URL_CHARACTERS} characters"
"""What can be asked, for messages."""


def split_url(url: str) -> SplitResult:
    """The parts of ``url``. Raises UsageError unless it is an http or https URL with a host, in plain ASCII,
    of at most URL_CHARACTERS.

    The message does not repeat the URL: it may carry credentials.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable and len(url) <= URL_CHARACTERS
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"an authority is given by {USABLE}")
    return parts


def public_url(url: str) -> str:
    """``url`` without credentials, query and fragment: fit for messages, logs and manifests.

    Raises UsageError unless it is an http or https URL with a host.
    """
    parts = split_url(url)
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"
