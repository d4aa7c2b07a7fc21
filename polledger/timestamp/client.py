"""A client for any RFC 3161 authority over HTTP. PROTOCOL section 8; transport of RFC 3161 section 3.4.

The exchange itself (:func:`post`) serves the client of witnesses as well.
Bounded in time and size, follows no redirect, and trusts nothing: what comes back is bytes for the verifier.
Proxies are taken from the environment (``https_proxy``, ``http_proxy``, ``no_proxy``). Credentials in a URL are
sent as basic authentication and appear in no message.
"""

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar
from urllib.parse import SplitResult, unquote

from polledger import __version__
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp import der
from polledger.timestamp.address import public_url, split_url
from polledger.timestamp.algorithms import hash_size
from polledger.timestamp.answer import OVERHEAD_BYTES, AnswerTooLong, bounded_response
from polledger.timestamp.messages import (
    GRANTED,
    TimestampRequest,
    granting_response,
    parse_request,
    parse_response,
)

T = TypeVar("T")

TIMEOUT: Final = 10.0
"""Seconds for a whole exchange: public authorities answer within 0.1 to 2."""

RESPONSE_BYTES: Final = 1 << 16
"""Largest response read: real ones have 1.5 to 7 KB."""

QUERY_TYPE: Final = "application/timestamp-query"
REPLY_TYPE: Final = "application/timestamp-reply"


def make_request(digest: bytes, *, nonce: int, hash_name: str = "sha256", policy: str | None = None) -> bytes:
    """A TimeStampReq over ``digest`` that asks for the authority's certificates.

    Raises UsageError when the digest does not have the length of its hash or ``policy`` is no object identifier.
    """
    if len(digest) != hash_size(hash_name):
        raise UsageError(f"a {hash_name} digest has {hash_size(hash_name)} bytes, found {len(digest)}")
    if nonce < 0:
        raise UsageError("a nonce is not negative")
    if policy is not None:
        der.oid(policy)
    # Costs 0.3 s to load, and only commands that ask for new timestamps need it.
    import rfc3161ng

    # The digest is passed as such: given data, rfc3161ng hashes it with SHA-1 whatever the name says.
    structure = rfc3161ng.make_timestamp_request(
        digest=digest, hashname=hash_name, include_tsa_certificate=True, nonce=nonce, tsa_policy_id=policy
    )
    request = bytes(rfc3161ng.encode_timestamp_request(structure))
    expected = TimestampRequest(
        hash_name=hash_name, imprint=digest, policy=policy, nonce=nonce, cert_req=True
    )
    if parse_request(request) != expected:
        raise Unavailable("rfc3161ng wrote another request than it was asked for; install a tested version")
    return request


def post_request(url: str, request: bytes, *, timeout: float = TIMEOUT, limit: int = RESPONSE_BYTES) -> bytes:
    """The body of the authority's answer to ``request``; nothing in it has been looked at.

    Returns within ``timeout`` seconds. Raises Unreachable, with one line naming the URL, for everything but an
    HTTP 200 of the right type with at most ``limit`` bytes; UsageError for a URL that cannot be asked.
    """
    return post(
        url,
        request,
        headers={"Content-Type": QUERY_TYPE, "Accept": REPLY_TYPE},
        read=_read_answer,
        timeout=timeout,
        limit=limit,
    )


def post(
    url: str,
    request: bytes,
    *,
    headers: Mapping[str, str],
    read: Callable[[http.client.HTTPResponse, int], T],
    timeout: float,
    limit: int,
) -> T:
    """What ``read`` makes of the answer to ``request``; it gets ``limit``, the bytes it may read, and raises Refused.

    Returns within ``timeout`` seconds. Raises Unreachable, with one line naming the URL, for everything that is no
    answer to ``read``; UsageError for a URL that cannot be asked.
    """
    connection, target, sent = _connection(split_url(url), headers, timeout)
    connection.response_class = bounded_response(limit + OVERHEAD_BYTES)
    exchange = _Exchange(
        connection,
        timeout=timeout,
        send=lambda: connection.request("POST", target, body=request, headers=sent),
        read=lambda: read(connection.getresponse(), limit),
    )
    thread = threading.Thread(target=exchange.run, name="timestamp request", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        exchange.cut()
        raise Unreachable(f"{public_url(url)}: {_late(timeout)}")
    if exchange.answer is None:
        raise Unreachable(f"{public_url(url)}: {exchange.failure}")
    return exchange.answer


def granted(body: bytes) -> bytes:
    """The response in ``body``, reduced to status and token: what an authority says beside them is not signed.

    Raises Unavailable with the authority's reason in words when it granted nothing.
    """
    try:
        response = parse_response(body)
    except MalformedError as error:
        raise Unavailable(f"the answer is no timestamp response: {error}") from None
    if response.status != GRANTED or response.failures or response.token is None:
        raise Unavailable(f"the authority refused: {response.reason()}")
    return granting_response(response.token)


class Unreachable(Unavailable):
    """No answer that could be one: asking the same authority again at once makes no sense."""


class Refused(Exception):
    """The server answered with something that is no answer to the request, in words."""


class _Exchange(Generic[T]):
    """One request and its answer, made in a thread of its own.

    Neither name resolution nor a server that sends a byte now and then respects a socket's timeout: whoever waits
    stops waiting after the deadline and cuts the connection.
    """

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        *,
        timeout: float,
        send: Callable[[], None],
        read: Callable[[], T],
    ) -> None:
        self._timeout = timeout
        self._connection = connection
        self._send = send
        self._read = read
        self._socket: socket.socket | None = None
        self.answer: T | None = None
        self.failure = ""

    def run(self) -> None:
        try:
            self._connection.connect()
            # The connection lets go of the socket once the headers of the answer are read.
            self._socket = self._connection.sock
            self._send()
            self.answer = self._read()
        except (Refused, AnswerTooLong) as error:
            self.failure = str(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failure = _words(error, self._timeout)
        finally:
            self._connection.close()

    def cut(self) -> None:
        """Make the thread end as soon as it touches its socket."""
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


def _connection(
    parts: SplitResult, given: Mapping[str, str], timeout: float
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A connection that is not open yet, the request target and the headers; through a proxy if there is one."""
    host, port = _endpoint(parts)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    headers = {
        **given,
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": f"polledger/{__version__}",
        **_credentials(parts, "Authorization"),
    }
    proxy = _proxy(parts)
    near_host, near_port = _endpoint(proxy) if proxy else (host, port)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            near_host, near_port, timeout=timeout, context=context
        )
        if proxy:
            connection.set_tunnel(host, port, _credentials(proxy, "Proxy-Authorization"))
        return connection, target, headers
    connection = http.client.HTTPConnection(near_host, near_port, timeout=timeout)
    if proxy:
        headers |= {"Host": parts.netloc.rpartition("@")[2], **_credentials(proxy, "Proxy-Authorization")}
        target = f"http://{headers['Host']}{target}"
    return connection, target, headers


def _endpoint(parts: SplitResult) -> tuple[str, int]:
    """Host and port, the usual one where none is named: without one, http.client takes it from an IPv6 address."""
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _proxy(parts: SplitResult) -> SplitResult | None:
    given = urllib.request.getproxies().get(parts.scheme)
    if not given or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    try:
        proxy = split_url(given if "://" in given else f"http://{given}")
    except UsageError:
        proxy = None
    if proxy is None or proxy.scheme != "http":
        raise UsageError(f"the {parts.scheme}_proxy in the environment is not an http:// URL")
    return proxy


def _credentials(parts: SplitResult, header: str) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return {header: f"Basic {base64.b64encode(pair).decode('ascii')}"}


def _read_answer(response: http.client.HTTPResponse, limit: int) -> bytes:
    refuse_redirect(response)
    if response.status != 200:
        raise Refused(f"answers HTTP {response.status}")
    kind = response.headers.get_content_type()
    if kind != REPLY_TYPE:
        raise Refused(f"answers with {kind[:80]!r} instead of {REPLY_TYPE}")
    return read_body(response, limit)


def refuse_redirect(response: http.client.HTTPResponse) -> None:
    """Raise Refused for a redirect: whom to ask is the user's to say."""
    if 300 <= response.status < 400:
        raise Refused(f"answers with a redirect (HTTP {response.status}), which is not followed")


def read_body(response: http.client.HTTPResponse, limit: int) -> bytes:
    """The whole body. Raises Refused above ``limit`` bytes, for a body cut short or in an encoding."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("answers with an encoding that was not asked for")
    body = response.read(limit + 1)
    if len(body) > limit:
        raise Refused(f"answers with more than {limit} bytes")
    if response.length:
        raise Refused("cut its answer short")
    return body


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return _late(timeout)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not valid: {error.verify_message}"
    if isinstance(error, UnicodeError):
        return "its host name cannot be looked up"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    return f"answers with something that is not HTTP ({type(error).__name__})"


def _late(timeout: float) -> str:
    return f"no answer within {timeout:g} s"
