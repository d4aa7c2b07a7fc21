"""Spoof 15, backdating: a run offered as older than it is. PROTOCOL section 8.

Every variant is an honest run of the thief's own with a false date. A verifier who asks for no time gets what it asked
for, a verdict that says "time is self-asserted"; here the verifier asks for external time under a trust file of its
own. Whom that file names is the verifier's decision: an authority that lies and is trusted, or a trust file taken from
the prover, cannot be found out (only polledger's own embedded authority never counts, because its tokens say what they
are). The variant "renewal with a gap" does not exist: this version has no renewal.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polledger.keys import home
from polledger.redteam.own import own_run
from polledger.redteam.seals import head_of, overwrite_seal, stamp_again
from polledger.redteam.spoof import Attempt, Forge, Forgery, Spoof, Target
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import make_request
from polledger.timestamp.stamper import Embedded

YEARS_AGO = timedelta(days=3 * 365)
OPERATOR = "Example Ltd"
POLICY = "1.3.6.1.4.1.99999.1.1"


@cache
def example_authority(genuine: bool) -> EmbeddedAuthority:
    """An authority called Example: the ``genuine`` one, or the thief's, of the same names and with keys of its own."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("Example Root", root_key, "Example Root", root_key, authority=True)
    leaf = _certificate("Example Time", key, "Example Root", root_key, authority=False)
    return EmbeddedAuthority(key=key, leaf=leaf, root=root, policy=POLICY)


_NOT_USED = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)
"""Usages of a key that no certificate of an authority states."""


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    by: str,
    by_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, by))
    usage = dict.fromkeys(_NOT_USED, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2070, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=False, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key()), critical=False
        )
    )
    if not authority:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        )
    return builder.sign(by_key, hashes.SHA256())


def demanding(directory: Path, root: x509.Certificate) -> tuple[str, ...]:
    """Arguments of a verifier who trusts ``root`` about time, and nobody else, and wants external time."""
    (directory / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    trust, policy = directory / "trust.toml", directory / "policy.toml"
    trust.write_text(f'[[authority]]\nname = "example"\noperator = "{OPERATOR}"\nroots = ["root.pem"]\n')
    policy.write_text("[require]\nexternal_time = true\n")
    return ("--trust", str(trust), "--policy", str(policy))


def clock(target: Target, attempt: Attempt) -> Forgery:
    """The embedded authority with its clock set back, under another name, offered for the verifier's trust file."""
    run = own_run(target, attempt, "run")
    authority = EmbeddedAuthority.open(home() / "tsa")
    stamp_again(
        run, Embedded(authority=authority, name="https://tsa.example/"), now=datetime.now(UTC) - YEARS_AGO
    )
    return Forgery(
        run=run.path,
        gradients=1.0,
        sample=1,
        bogus=0,
        arguments=demanding(attempt.directory, authority.root),
        note="the verifier took the root of the thief's own authority into its trust file",
    )


def earlier(target: Target, attempt: Attempt) -> Forgery:
    """The trusted authority's old token over genesis stands under the last head, with a request that fits the head."""
    run = own_run(target, attempt, "run")
    authority = example_authority(genuine=True)
    shown = Embedded(authority=authority, name="https://tsa.example/")
    stamp_again(run, shown, now=datetime.now(UTC) - YEARS_AGO)
    last = run.seals()[-1]
    (borrowed,) = run.read_seal(0).tokens
    request = run.objects.put(make_request(head_of(run, last).digest(), nonce=1))
    moved = msgspec.structs.replace(borrowed, request=request)
    overwrite_seal(run, msgspec.structs.replace(run.read_seal(last), tokens=[moved]))
    return Forgery(
        run=run.path,
        gradients=1.0,
        sample=1,
        bogus=0,
        arguments=demanding(attempt.directory, authority.root),
        note="a genuine token, over an earlier head",
    )


def chain(target: Target, attempt: Attempt, *, genuine: bool = False) -> Forgery:
    """An authority of the thief's, named as the trusted one, with its whole chain beside every token.

    ``genuine`` asks the trusted authority instead, which is the honest way and verifies.
    """
    run = own_run(target, attempt, "run")
    shown = Embedded(authority=example_authority(genuine=genuine), name="https://tsa.example/")
    stamp_again(run, shown, now=datetime.now(UTC) - YEARS_AGO)
    return Forgery(
        run=run.path,
        gradients=1.0,
        sample=1,
        bogus=0,
        arguments=demanding(attempt.directory, example_authority(genuine=True).root),
        note="certificates beside or inside a token are only candidates",
    )


def _entry(variant: str, title: str, forge: Forge) -> Spoof:
    return Spoof(
        number=15,
        variant=variant,
        title=title,
        source="time",
        forge=forge,
        reference=False,
        why="it knows no time",
    )


SPOOFS = (
    _entry("clock", "own authority with a moved clock, offered as external", clock),
    _entry("earlier", "a genuine token for an earlier head", earlier),
    _entry("chain", "the thief's chain beside the token", chain),
)
