"""SignedData with exactly one signer, as RFC 3161 shapes it (RFC 5652, RFC 2634, RFC 5035): structure only.

What comes out of here is framed correctly and internally consistent; nothing has been authenticated.

Parts that no signature covers are refused rather than carried: unsigned attributes, revocation lists and
certificate kinds other than X.509. Whatever is carried without being covered could be altered at will.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from polledger.errors import MalformedError
from polledger.timestamp import der
from polledger.timestamp.algorithms import Algorithm, read_algorithm, read_hash
from polledger.timestamp.tstinfo import CONTENT_TYPE

SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
ATTRIBUTE_CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
ATTRIBUTE_MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
ATTRIBUTE_SIGNING_CERTIFICATE: Final = "1.2.840.113549.1.9.16.2.12"
ATTRIBUTE_SIGNING_CERTIFICATE_V2: Final = "1.2.840.113549.1.9.16.2.47"

MAX_CERTIFICATES: Final = 16
"""Most certificates in a token: authorities send the signer and its chain, at most about five."""


PARSED_KEPT: Final = 16
"""Tokens whose parts are remembered: each is looked at for its statement, and again for every entry of a trust file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateId:
    """ESSCertID or ESSCertIDv2 of the signer. ``issuer`` is the raw Name; both are None where absent."""

    hash_name: str
    digest: bytes
    issuer: bytes | None
    serial: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedData:
    """A token's parts. ``issuer`` (a raw Name) and ``serial`` name the signer's certificate."""

    content: bytes
    """The encoded TSTInfo."""
    certificates: tuple[bytes, ...]
    """Raw certificates in the order found: candidates, never trust."""
    issuer: bytes
    serial: int
    hash_name: str
    message_digest: bytes
    certificate_ids: tuple[CertificateId, ...]
    """The signer's: the first of each signing-certificate attribute."""
    further_ids: tuple[CertificateId, ...]
    """Those after the first: of certificates that the signer says belong to its chain."""
    signed_attributes: bytes
    """The bytes under the signature: the attributes with the tag of a SET."""
    algorithm: Algorithm
    signature: bytes


@lru_cache(maxsize=PARSED_KEPT)
def parse_token(data: bytes) -> SignedData:
    """The TimeStampToken that ``data`` is. Raises MalformedError; see the module for what is refused."""
    outer = der.read_one(data, der.SEQUENCE, "token")
    if der.read_oid(outer.take(der.OBJECT_IDENTIFIER), "token") != SIGNED_DATA:
        raise MalformedError("token: not signed data")
    wrapper = outer.inner(der.context(0))
    outer.end()
    reader = wrapper.inner(der.SEQUENCE, "signed data")
    wrapper.end()
    if der.read_integer(reader.take(der.INTEGER), "signed data version") != 3:
        raise MalformedError("signed data: only version 3 is known")
    digest_algorithms = reader.inner(der.SET)
    content = _read_content(reader)
    certificates = _read_certificates(reader)
    if reader.optional(der.context(1)) is not None:
        raise MalformedError("signed data: revocation lists inside the token are not accepted")
    signers = reader.inner(der.SET)
    reader.end()
    signer = signers.inner(der.SEQUENCE, "signer info")
    if not signers.at_end():
        raise MalformedError("signed data: more than one signer")
    return _read_signer(signer, digest_algorithms, content, certificates)


def _read_content(reader: der.Reader) -> bytes:
    inner = reader.inner(der.SEQUENCE, "encapsulated content")
    kind = der.read_oid(inner.take(der.OBJECT_IDENTIFIER), inner.what)
    if kind != CONTENT_TYPE:
        raise MalformedError(f"encapsulated content: type {kind} is not TSTInfo")
    wrapper = inner.inner(der.context(0))
    content = wrapper.take(der.OCTET_STRING).content
    wrapper.end()
    inner.end()
    return content


def _read_certificates(reader: der.Reader) -> tuple[bytes, ...]:
    value = reader.optional(der.context(0))
    if value is None:
        return ()
    # The order is not checked: real authorities send this SET unsorted.
    certificates = der.Reader(value.content, "certificates").all()
    if not 0 < len(certificates) <= MAX_CERTIFICATES:
        raise MalformedError(f"certificates: {len(certificates)}, 1 to {MAX_CERTIFICATES} are accepted")
    if any(certificate.tag != der.SEQUENCE for certificate in certificates):
        raise MalformedError("certificates: one is not an X.509 certificate")
    return tuple(certificate.raw for certificate in certificates)


def _read_signer(
    reader: der.Reader, digest_algorithms: der.Reader, content: bytes, certificates: tuple[bytes, ...]
) -> SignedData:
    if der.read_integer(reader.take(der.INTEGER), "signer info version") != 1:
        raise MalformedError(
            "signer info: only version 1 (signer named by issuer and serial number) is accepted"
        )
    name = reader.inner(der.SEQUENCE)
    issuer = name.take(der.SEQUENCE).raw
    serial = der.read_integer(name.take(der.INTEGER), "signer info serial number")
    name.end()
    hash_name = read_hash(reader)
    if read_hash(digest_algorithms) != hash_name or not digest_algorithms.at_end():
        raise MalformedError("signed data: the digest algorithms are not just the signer's")
    attributes = reader.optional(der.context(0))
    if attributes is None:
        raise MalformedError("signer info: signed attributes are missing")
    values = _read_attributes(attributes)
    identifiers = _certificate_ids(values)
    algorithm = read_algorithm(reader)
    signature = reader.take(der.OCTET_STRING).content
    if not reader.at_end():
        raise MalformedError("signer info: unsigned attributes are not accepted")
    return SignedData(
        content=content,
        certificates=certificates,
        issuer=issuer,
        serial=serial,
        hash_name=hash_name,
        message_digest=_message_digest(values),
        certificate_ids=tuple(first for first, *_ in identifiers),
        further_ids=tuple(one for _, *others in identifiers for one in others),
        signed_attributes=der.encode(der.SET, attributes.content),
        algorithm=algorithm,
        signature=signature,
    )


def _read_attributes(attributes: der.Value) -> dict[str, der.Value]:
    """Signed attributes by type: sorted as DER sorts a SET OF, each type once, each with exactly one value."""
    elements = der.Reader(attributes.content, "signed attributes").all()
    encodings = [element.raw for element in elements]
    if encodings != sorted(encodings):
        raise MalformedError("signed attributes: not in DER order")
    values: dict[str, der.Value] = {}
    for element in elements:
        if element.tag != der.SEQUENCE:
            raise MalformedError("signed attributes: one is not an attribute")
        reader = der.Reader(element.content, "signed attribute")
        kind = der.read_oid(reader.take(der.OBJECT_IDENTIFIER), reader.what)
        inner = reader.inner(der.SET, f"signed attribute {kind}")
        reader.end()
        if kind in values:
            raise MalformedError(f"signed attribute {kind}: present twice")
        values[kind] = inner.next()
        inner.end()
    content_type = values.get(ATTRIBUTE_CONTENT_TYPE)
    if content_type is None or content_type.raw != der.oid(CONTENT_TYPE):
        raise MalformedError("signed attributes: contentType is missing or not TSTInfo")
    return values


def _message_digest(values: dict[str, der.Value]) -> bytes:
    value = values.get(ATTRIBUTE_MESSAGE_DIGEST)
    if value is None or value.tag != der.OCTET_STRING:
        raise MalformedError("signed attributes: messageDigest is missing or not an octet string")
    return value.content


def _certificate_ids(values: dict[str, der.Value]) -> list[list[CertificateId]]:
    """The identifiers of each signing-certificate attribute, the signer's first; one attribute at least is there."""
    found = []
    for kind, version in ((ATTRIBUTE_SIGNING_CERTIFICATE, 1), (ATTRIBUTE_SIGNING_CERTIFICATE_V2, 2)):
        if kind in values:
            reader = der.read_one(values[kind].raw, der.SEQUENCE, "signing certificate")
            identifiers = reader.inner(der.SEQUENCE, "ESSCertID")
            # The policies that may follow constrain relying parties that process them; RFC 3161 does not.
            reader.optional(der.SEQUENCE)
            reader.end()
            found.append(_read_certificate_ids(identifiers, version))
    if not found:
        raise MalformedError("signed attributes: ESSCertID is missing")
    return found


def _read_certificate_ids(reader: der.Reader, version: int) -> list[CertificateId]:
    values = [_certificate_id(reader.inner(der.SEQUENCE), version)]
    while not reader.at_end():
        values.append(_certificate_id(reader.inner(der.SEQUENCE), version))
        if len(values) > MAX_CERTIFICATES:
            raise MalformedError(f"ESSCertID: more than {MAX_CERTIFICATES} certificates are named")
    return values


def _certificate_id(reader: der.Reader, version: int) -> CertificateId:
    value = reader.next()
    hash_name = "sha1" if version == 1 else "sha256"
    if version == 2 and value.tag == der.SEQUENCE:
        hash_name = read_hash(der.Reader(value.raw, reader.what))
        value = reader.next()
    if value.tag != der.OCTET_STRING:
        raise MalformedError("ESSCertID: the certificate hash is not an octet string")
    issuer, serial = _issuer_serial(reader)
    reader.end()
    return CertificateId(hash_name=hash_name, digest=value.content, issuer=issuer, serial=serial)


def _issuer_serial(reader: der.Reader) -> tuple[bytes | None, int | None]:
    if reader.at_end():
        return None, None
    inner = reader.inner(der.SEQUENCE)
    names = inner.inner(der.SEQUENCE)
    serial = der.read_integer(inner.take(der.INTEGER), inner.what)
    inner.end()
    directory_name = names.inner(der.context(4))
    names.end()
    issuer = directory_name.take(der.SEQUENCE).raw
    directory_name.end()
    return issuer, serial
