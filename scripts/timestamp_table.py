#!/usr/bin/env python3
"""Writes docs/timestamp-table.md: what four verifiers say to every token of the vectors.

    scripts/timestamp_table.py [--check]

Each token of tests/vectors/timestamp is given, with the digest, nonce, policy and roots of its case, to polledger,
`openssl ts -verify`, rfc3161-client and rfc3161ng. The outcomes and the versions of the tools are kept in
docs/evidence/timestamp_table.json, from which the document is made. ``--check`` writes nothing and exits 1 if the
document is not what the evidence says, or if a tool that is here in the same version gives another outcome.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

import rfc3161_client  # noqa: E402
import rfc3161ng  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.exceptions import InvalidSignature  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from evidence import EVIDENCE, table, write_evidence  # noqa: E402
from pyasn1.codec.der import encoder  # noqa: E402
from pyasn1.error import PyAsn1Error  # noqa: E402

from polledger import __version__  # noqa: E402
from polledger.errors import MalformedError  # noqa: E402
from polledger.timestamp.messages import token_of  # noqa: E402
from polledger.timestamp.token import TokenRejected, verify_response  # noqa: E402
from tests.timestamp import forge  # noqa: E402
from tests.timestamp.cases import OWN, SHARED, Case  # noqa: E402
from tests.timestamp.defects.clauses import OWN as OWN_RULE  # noqa: E402
from tests.timestamp.defects.clauses import clause_of  # noqa: E402

DOCUMENT = SCRIPTS.parent / "docs" / "timestamp-table.md"
NAME = "timestamp_table"

ACCEPTS, REFUSES, CANNOT, BREAKS = "accepts", "refuses", "cannot", "breaks"
WORDS = (ACCEPTS, REFUSES, CANNOT, BREAKS)

SECONDS = 30
"""Limit for one run of openssl."""


def polledger(case: Case) -> str:
    try:
        verify_response(case.response(), **case.arguments())
    except TokenRejected:
        return REFUSES
    return ACCEPTS


def openssl(case: Case) -> str:
    """`openssl ts -verify` with a query that holds digest, policy and nonce, its chain judged at genTime."""
    arguments = case.arguments()
    hash_oid = {"sha256": forge.SHA256, "sha512": "2.16.840.1.101.3.4.2.3"}[arguments["hash_name"]]
    query = forge.seq(
        forge.integer(1),
        forge.seq(forge.algorithm(hash_oid), forge.octets(arguments["digest"])),
        forge.oid(case.fields["policy"]),
        forge.integer(arguments["nonce"]),
        b"\x01\x01\xff",
    )
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(query)
        words = ["openssl", "ts", "-verify", "-queryfile", file.name, "-in", str(case.path("response"))]
        words += ["-CAfile", str(case.path("roots")), "-attime", str(int(gen_time(case).timestamp()))]
        if "intermediates" in case.fields:
            words += ["-untrusted", str(case.path("intermediates"))]
        if bare(case):
            words.append("-token_in")
        plain = {**os.environ, "OPENSSL_CONF": os.devnull}
        done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False, env=plain)
    if done.returncode < 0:
        return BREAKS
    return ACCEPTS if done.returncode == 0 else REFUSES


def gen_time(case: Case) -> datetime:
    """The first GeneralizedTime of the token if it is one, else the time of the case."""
    found = re.search(rb"\x18.(\d{14})", case.response(), re.DOTALL)
    try:
        return (
            datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC) if found else _at(case)
        )
    except ValueError:
        return _at(case)


def _at(case: Case) -> datetime:
    return datetime.fromisoformat(case.fields["verify_at"])


def bare(case: Case) -> bool:
    """The vector is a token without its response."""
    try:
        return token_of(case.response()) == case.response()
    except MalformedError:
        return False


def client(case: Case) -> str:
    """rfc3161-client with roots, intermediates, nonce and policy."""
    arguments = case.arguments()
    try:
        response = rfc3161_client.decode_timestamp_response(case.response())
        verifier = rfc3161_client.VerifierBuilder(
            policy_id=x509.ObjectIdentifier(case.fields["policy"]),
            roots=arguments["roots"],
            intermediates=arguments["intermediates"],
            nonce=arguments["nonce"],
        ).build()
        verifier.verify(response, arguments["digest"])
    except (rfc3161_client.VerificationError, ValueError):
        return REFUSES
    except BaseException as error:
        return _broken(error)
    return ACCEPTS


def ng(case: Case) -> str:
    """rfc3161ng with digest, nonce and the certificate in the token that the signer names; it knows no roots."""
    arguments = case.arguments()
    try:
        token = rfc3161ng.decode_timestamp_response(case.response()).time_stamp_token
        certificate = named_certificate(token)
        signer = rfc3161ng.api.load_certificate(token.content, certificate)
        known = isinstance(signer.public_key(), rsa.RSAPublicKey)
        accepted = rfc3161ng.check_timestamp(
            token,
            certificate=certificate,
            digest=arguments["digest"],
            hashname=arguments["hash_name"],
            nonce=arguments["nonce"],
        )
    except TypeError as error:
        # It verifies every signature with the arguments of RSA.
        return CANNOT if not known else _broken(error)
    except (ValueError, PyAsn1Error, InvalidSignature):
        return REFUSES
    except Exception as error:
        return _broken(error)
    return ACCEPTS if accepted else REFUSES


def named_certificate(token: Any) -> bytes:
    """The DER of the certificate whose serial number the first SignerInfo has; empty: the library takes the first."""
    wanted = int(token.content["signerInfos"][0]["issuerAndSerialNumber"]["serialNumber"])
    for choice in token.content["certificates"]:
        raw: bytes = encoder.encode(choice[0])
        if x509.load_der_x509_certificate(raw).serial_number == wanted:
            return raw
    return b""


def _broken(error: BaseException) -> str:
    """An exception that the library does not mean: nothing is accepted, and its caller may not be prepared."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    return BREAKS


def _with(name: str, *others: str) -> str:
    """The version of a library with those of the ones that it leans on."""
    beside = ", ".join(f"{other} {version(other)}" for other in others)
    return f"{version(name)} (with {beside})"


TOOLS: dict[str, tuple[Callable[[Case], str], Callable[[], str]]] = {
    "polledger": (polledger, lambda: __version__),
    "openssl ts": (
        openssl,
        lambda: subprocess.check_output(["openssl", "version"], text=True).split()[1],
    ),
    "rfc3161-client": (client, lambda: _with("rfc3161-client", "cryptography")),
    "rfc3161ng": (ng, lambda: _with("rfc3161ng", "cryptography", "pyasn1")),
}
"""By name: what asks the tool, and its version here; FileNotFoundError where it is not installed."""


def versions() -> dict[str, str]:
    found = {}
    for name, (_, say) in TOOLS.items():
        try:
            found[name] = say()
        except FileNotFoundError:
            continue
    return found


def measure(tools: Sequence[str]) -> dict[str, dict[str, str]]:
    """Outcomes by case and tool."""
    return {
        case.name: {"expect": case.fields["expect"], **{name: TOOLS[name][0](case) for name in tools}}
        for case in (*SHARED, *OWN)
    }


def wrong(outcome: str, expect: str) -> bool:
    """A wrong token that is accepted, or a right one that is not."""
    return (outcome == ACCEPTS) != (expect == "valid")


def rows_of(cases: Mapping[str, Any], chosen: Callable[[str, str], bool]) -> list[tuple[str, ...]]:
    rows = []
    for name, outcomes in cases.items():
        clause = clause_of(name.partition("/")[2])
        if chosen(outcomes["expect"], clause):
            cells = [
                f"**{outcomes[tool]}**" if wrong(outcomes[tool], outcomes["expect"]) else outcomes[tool]
                for tool in TOOLS
            ]
            rows.append((name, *cells, clause.removeprefix(OWN_RULE)))
    return rows


def summary(cases: Mapping[str, Any], parts: Mapping[str, Callable[[str, str], bool]]) -> str:
    lines = []
    for title, chosen in parts.items():
        inside = [
            outcomes
            for name, outcomes in cases.items()
            if chosen(outcomes["expect"], clause_of(name.partition("/")[2]))
        ]
        counts = []
        for tool in TOOLS:
            found = [outcomes[tool] for outcomes in inside]
            counts.append(", ".join(f"{word} {found.count(word)}" for word in WORDS if word in found))
        lines.append((title, len(inside), *counts))
    return table(("", "tokens", *TOOLS), lines)


PARTS: dict[str, Callable[[str, str], bool]] = {
    "wrong by the standards": lambda expect, clause: expect == "invalid" and not clause.startswith(OWN_RULE),
    "refused by polledger's own rules": lambda expect, clause: (
        expect == "invalid" and clause.startswith(OWN_RULE)
    ),
    "right": lambda expect, clause: expect == "valid",
}

TEXT = """# What verifiers say to bad tokens

Written by `scripts/timestamp_table.py` from the vectors in `tests/vectors/timestamp`; a test holds it against the tools
that are installed. Versions: {versions}.

Each token is given to each verifier with the digest, the nonce, the policy and the roots of its case: to polledger and
rfc3161-client through their libraries, to `openssl ts -verify` as a query file, `-CAfile`, `-untrusted` and genTime as
`-attime`. rfc3161ng takes digest and nonce only, and the certificate in the token that the signer names.

- *cannot*: a key of a kind that the tool does not know (rfc3161ng and everything but RSA);
- *breaks*: an exception or a signal that the tool does not mean for a bad token; nothing was accepted, and whoever
  calls it may not be prepared;
- **bold**: a wrong token that is accepted, or a right one that is not.

{summary}

A tool that accepts what polledger's own rules refuse does nothing wrong: these rules close places that a standard
leaves open and that no signature covers, or bound the work. Right tokens that another tool refuses meet a rule of its
own, or something that it does not know. openssl and rfc3161-client compare genTime with no clock.

Every case is a file of its name: `own/` are made by `scripts/make_timestamp_vectors.py`, `shared/` by other software.

## Wrong by the standards

{wrong}

## Refused by polledger's own rules

{own}

## Right

{right}
"""


def document(found: Mapping[str, Any]) -> str:
    cases = found["cases"]
    columns = ("token", *TOOLS, "decided by")
    tables = [table(columns, rows_of(cases, chosen)) for chosen in PARTS.values()]
    return TEXT.format(
        versions=", ".join(f"{name} {number}" for name, number in found["versions"].items()),
        summary=summary(cases, PARTS),
        wrong=tables[0],
        own=tables[1],
        right=tables[2],
    )


def stale(found: Mapping[str, Any]) -> list[str]:
    """What is not as ``found`` says, with the tools that are here in the versions it names."""
    here = versions()
    same = [name for name in TOOLS if name == "polledger" or here.get(name) == found["versions"][name]]
    now = measure(same)
    problems = [f"{name} is not in the evidence" for name in now.keys() - found["cases"].keys()]
    problems += [f"{name} is gone" for name in found["cases"].keys() - now.keys()]
    for name in now.keys() & found["cases"].keys():
        for tool, outcome in now[name].items():
            if found["cases"][name][tool] != outcome:
                problems.append(f"{name}: {tool} {outcome}, the evidence says {found['cases'][name][tool]}")
    if DOCUMENT.read_text(encoding="utf-8") != document(found):
        problems.append(f"{DOCUMENT.name} is not what the evidence says")
    return sorted(problems)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/timestamp-table.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something differs")
    if parser.parse_args().check:
        problems = stale(json.loads((EVIDENCE / f"{NAME}.json").read_text(encoding="utf-8")))
        for problem in problems:
            print(problem, file=sys.stderr)
        return int(bool(problems))
    here = versions()
    if len(here) < len(TOOLS):
        sys.exit(f"not installed: {', '.join(TOOLS.keys() - here.keys())}")
    cases = measure(list(TOOLS))
    found = {"versions": here, "cases": cases}
    write_evidence(NAME, found)
    DOCUMENT.write_text(document(found), encoding="utf-8")
    print(summary(cases, PARTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
