"""TimeStampReq and TimeStampResp: what is sent to an authority and what comes back. RFC 3161 section 2.4."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from polledger.errors import MalformedError
from polledger.timestamp import der
from polledger.timestamp.algorithms import HashRefused, hash_size
from polledger.timestamp.tstinfo import read_extensions, read_imprint

GRANTED: Final = 0

STATUS_NAMES: Final = {
    0: "granted",
    1: "granted with modifications",
    2: "rejection",
    3: "waiting",
    4: "revocation warning",
    5: "revocation notification",
}

BAD_ALG: Final = 0
BAD_REQUEST: Final = 2
BAD_DATA_FORMAT: Final = 5
TIME_NOT_AVAILABLE: Final = 14
UNACCEPTED_POLICY: Final = 15
UNACCEPTED_EXTENSION: Final = 16
ADD_INFO_NOT_AVAILABLE: Final = 17
SYSTEM_FAILURE: Final = 25

FAILURES: Final = {
    BAD_ALG: "hash algorithm not supported (badAlg)",
    BAD_REQUEST: "request not permitted or supported (badRequest)",
    BAD_DATA_FORMAT: "data in the wrong format (badDataFormat)",
    TIME_NOT_AVAILABLE: "the authority's time source is not available (timeNotAvailable)",
    UNACCEPTED_POLICY: "policy not supported (unacceptedPolicy)",
    UNACCEPTED_EXTENSION: "extension not supported (unacceptedExtension)",
    ADD_INFO_NOT_AVAILABLE: "additional information not available (addInfoNotAvailable)",
    SYSTEM_FAILURE: "system failure (systemFailure)",
}
"""PKIFailureInfo bits of RFC 3161 section 2.4.2 in words."""

KNOWN_STATUS_TEXTS: Final = frozenset({b"Operation Okay"})
"""Status texts accepted beside a token: the one that Bouncy Castle, and so many authorities, sends by default.

A status text lies outside the signature and says nothing. Any other is refused: it could have been altered.
"""

REMEMBERED: Final = 16
"""Responses whose token is remembered: a verifier takes the same one apart for every entry of its trust file."""

TEXT_CHARACTERS: Final = 200
"""Longest part of an authority's own words that is repeated in a message."""


class RequestRefused(MalformedError):
    """A request that gets no token. ``failure`` is the PKIFailureInfo bit that says why."""

    def __init__(self, message: str, failure: int) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampRequest:
    """A TimeStampReq whose imprint has the length of its hash. ``extensions`` are names of ones not critical."""

    hash_name: str
    imprint: bytes
    policy: str | None
    nonce: int | None
    cert_req: bool
    extensions: tuple[str, ...] = ()


def parse_request(data: bytes) -> TimestampRequest:
    """The TimeStampReq that ``data`` is.

    Raises RequestRefused, with what an authority answers: badRequest for other versions, badAlg for other hashes than
    the accepted ones, unacceptedExtension for critical extensions, badDataFormat for anything that is no such request.
    """
    try:
        return _read_request(data)
    except RequestRefused:
        raise
    except HashRefused as error:
        raise RequestRefused(str(error), BAD_ALG) from None
    except MalformedError as error:
        raise RequestRefused(str(error), BAD_DATA_FORMAT) from None


def _read_request(data: bytes) -> TimestampRequest:
    reader = der.read_one(data, der.SEQUENCE, "request")
    if der.read_integer(reader.take(der.INTEGER), "request version") != 1:
        raise RequestRefused("request: only version 1 is known", BAD_REQUEST)
    hash_name, imprint = read_imprint(reader)
    if len(imprint) != hash_size(hash_name):
        raise MalformedError(f"request: an imprint of {len(imprint)} bytes for {hash_name}")
    policy = reader.optional(der.OBJECT_IDENTIFIER)
    nonce = reader.optional(der.INTEGER)
    cert_req = reader.optional(der.BOOLEAN)
    extensions = reader.optional(der.context(0))
    reader.end()
    return TimestampRequest(
        hash_name=hash_name,
        imprint=imprint,
        policy=None if policy is None else der.read_oid(policy, "request policy"),
        nonce=None if nonce is None else der.read_integer(nonce, "request nonce"),
        cert_req=cert_req is not None and der.read_boolean(cert_req, "request certReq"),
        extensions=() if extensions is None else _not_critical(extensions),
    )


def _not_critical(extensions: der.Value) -> tuple[str, ...]:
    found = read_extensions(extensions, "request")
    for name, critical in found.items():
        if critical:
            raise RequestRefused(f"request: critical extension {name} is not known", UNACCEPTED_EXTENSION)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A TimeStampResp. ``text`` is the raw PKIFreeText strings, ``token`` the raw ContentInfo or None."""

    status: int
    text: tuple[bytes, ...]
    failures: tuple[int, ...]
    token: bytes | None

    def reason(self) -> str:
        """Status and failures in words, with the authority's own text, made safe to print."""
        words = [STATUS_NAMES.get(self.status, f"status {self.status}")]
        words += [FAILURES.get(bit, f"failure {bit}") for bit in self.failures]
        own = " ".join(part.decode("utf-8", "replace") for part in self.text)[:TEXT_CHARACTERS]
        if own:
            words.append("".join(character if character.isprintable() else "�" for character in own))
        return ": ".join(words)


def parse_response(data: bytes) -> Response:
    """The TimeStampResp that ``data`` is, granted or not. Raises MalformedError."""
    reader = der.read_one(data, der.SEQUENCE, "response")
    status = reader.inner(der.SEQUENCE, "response status")
    number = der.read_integer(status.take(der.INTEGER), status.what)
    text = _read_text(status)
    failures = status.optional(der.BIT_STRING)
    status.end()
    token = None if reader.at_end() else reader.take(der.SEQUENCE).raw
    reader.end()
    bits = () if failures is None else tuple(der.read_named_bits(failures, "response failure info"))
    return Response(status=number, text=text, failures=bits, token=token)


def _read_text(status: der.Reader) -> tuple[bytes, ...]:
    value = status.optional(der.SEQUENCE)
    if value is None:
        return ()
    parts = der.Reader(value.content, "response status text").all()
    if not parts or any(part.tag != der.UTF8_STRING for part in parts):
        raise MalformedError("response status text: not a sequence of UTF-8 strings")
    return tuple(part.content for part in parts)


@lru_cache(maxsize=REMEMBERED)
def token_of(data: bytes) -> bytes:
    """The token in ``data``: a TimeStampResp that grants it and says nothing else, or the token itself.

    Raises MalformedError. The token is not looked into.
    """
    first = der.read_one(data, der.SEQUENCE, "token").next()
    if first.tag == der.OBJECT_IDENTIFIER:
        return data
    response = parse_response(data)
    if response.status != GRANTED or response.failures:
        raise MalformedError(f"the authority did not grant the request as it was: {response.reason()}")
    if not KNOWN_STATUS_TEXTS.issuperset(response.text):
        raise MalformedError(
            "the response carries a status text, which nothing authenticates; give the bare token"
        )
    if response.token is None:
        raise MalformedError("the response carries no token")
    return response.token


def granting_response(token: bytes) -> bytes:
    """The TimeStampResp that grants ``token`` and says nothing else."""
    return der.sequence(der.sequence(der.integer(GRANTED)), token)


def rejecting_response(failure: int, text: str = "") -> bytes:
    """The TimeStampResp that rejects a request with one PKIFailureInfo bit, and says ``text`` to people."""
    words = der.sequence(der.encode(der.UTF8_STRING, text.encode("utf-8"))) if text else b""
    return der.sequence(der.sequence(der.integer(2), words, der.named_bit(failure)))
