"""Small runs with tokens over their heads, one for each thing that a verifier has to make of several tokens together.

A run has a genesis and six steps under three heads; keys, nonces and signatures are deterministic.
"""

import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from polledger.core.digest import ZERO
from polledger.core.encoding import encode
from polledger.core.head import parse_note
from polledger.core.records import Step, TokenRef
from polledger.core.renewal import Renewal, imprint, make_statement, seal_entries
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.client import make_request
from tests.timestamp import forge as f
from tests.verify.build import RUN, Spec, genesis_of, write_ledger

START = datetime(2026, 11, 22, 6, 0, 0, tzinfo=UTC)
NOW = datetime(2027, 2, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _authority(name: str, root_name: str | None = None, **more: Any) -> tuple[f.Party, f.Party]:
    """A leaf and the root above it."""
    root = f.certify(f"Root {root_name or name}", f.ec_key(f"root of {root_name or name}"), None, f.CA)
    return f.certify(f"TSA {name}", f.ec_key(f"tsa {name}"), root, f.TSA, **more), root


A, ROOT_A = _authority("A")
B, ROOT_B = _authority("B")
A_NEXT, _ = _authority("A next", "A")
A_BRIEF, _ = _authority("A brief", "A", not_after=START + 30 * DAY)
A_ELSEWHERE, ROOT_A2 = _authority("A 2")


@dataclass(frozen=True, kw_only=True)
class Stamped:
    """A token that lies beside the head of a seal. ``over``: the seal whose head it really is over."""

    by: f.Party
    when: timedelta
    root: f.Party = ROOT_A
    over: int | None = None
    asked: int | None = None
    """The seal whose head the stored request is about."""
    nonce: int = 77
    answered: int | None = None
    """The nonce in the token."""
    policy: str = f.POLICY


Tokens = Mapping[int, Sequence[Stamped]]


@dataclass(frozen=True, kw_only=True)
class RunCase:
    """A run, a trust file and a policy, and what step 3 makes of them.

    ``trust``: (name, operator, root, further lines). ``renewed``: tokens over a renewal of everything. ``says``:
    (name, outcome, part of the detail) of every finding of step 3 that is not about what was not checked.
    """

    name: str
    clause: str
    tokens: Tokens
    trust: Sequence[tuple[str, str, f.Party, str]]
    assurance: str
    says: Sequence[tuple[str, str, str]]
    first: timedelta | None = None
    last: timedelta | None = None
    policy: str = ""
    renewed: Sequence[Stamped] = ()

    def to_json(self) -> dict[str, Any]:
        """The case as cases.json has it, its files as Base64."""
        return {
            "name": self.name,
            "clause": self.clause,
            "now": iso(NOW),
            "assurance": self.assurance,
            "first": None if self.first is None else iso(START + self.first),
            "last": None if self.last is None else iso(START + self.last),
            "findings": [list(said) for said in self.says],
            "files": {name: b64encode(data).decode() for name, data in files_of(self).items()},
        }


def every(by: f.Party, root: f.Party = ROOT_A, lag: timedelta = timedelta()) -> dict[int, list[Stamped]]:
    """A token over each head, an hour apart."""
    return {seal: [Stamped(by=by, root=root, when=seal * HOUR + lag)] for seal in range(3)}


def both(one: Tokens, other: Tokens) -> dict[int, list[Stamped]]:
    return {seal: [*one.get(seal, ()), *other.get(seal, ())] for seal in range(3)}


TRUST_A = ("a", "A Ltd", ROOT_A, "")
TRUST_B = ("b", "B Ltd", ROOT_B, "")
CONSISTENT = ("time.consistency", "pass", "consistent")
EXTERNAL = ("time.assurance", "pass", "the end of the run existed by")
OWN = ("time.assurance", "unverifiable", "time is self-asserted")
STANDS = ("time.renewed", "pass", "of no token that counts a certificate has ended")
QUORUM_2 = "[time]\nquorum = 2\n"


def run_cases() -> Iterator[RunCase]:
    """Every case."""
    yield from quorum_cases()
    yield from head_cases()
    yield from life_cases()


def short(name: str, clause: str, tokens: Tokens, second: tuple[str, str, f.Party, str] = TRUST_B) -> RunCase:
    """A voice is missing for a quorum of two."""
    return RunCase(
        name=name,
        clause=clause,
        tokens=tokens,
        trust=[TRUST_A, second],
        policy=QUORUM_2,
        assurance="self-asserted",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, OWN, STANDS],
    )


def quorum_cases() -> Iterator[RunCase]:
    two = both(every(A), every(B, ROOT_B))
    yield RunCase(
        name="good-quorum-of-two",
        clause="PROTOCOL 8: k of n distinct operators",
        tokens=two,
        trust=[TRUST_A, TRUST_B],
        policy=QUORUM_2,
        assurance="external",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, EXTERNAL, STANDS],
    )
    yield short(
        "quorum-of-one-operator-twice",
        "PROTOCOL 8: distinct operators; two authorities of one are one voice",
        two,
        second=("b", "a  LTD", ROOT_B, ""),
    )
    yield short(
        "quorum-of-one-authority-asked-twice",
        "PROTOCOL 8: distinct operators; two tokens of one are one voice",
        both(every(A), every(A, lag=timedelta(seconds=5))),
    )
    yield short(
        "quorum-over-different-heads",
        "PROTOCOL 8: a token covers the heads before it, not those after",
        {0: every(B, ROOT_B)[0], 2: every(A)[2]},
    )
    own = {seal: [Stamped(by=A, when=seal * HOUR, policy=EMBEDDED_POLICY)] for seal in range(3)}
    yield RunCase(
        name="embedded-authority-offered-as-external",
        clause="PROTOCOL 8: the embedded authority's time never counts towards a quorum",
        tokens=own,
        trust=[TRUST_A],
        assurance="self-asserted",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, OWN, ("time.tokens", "unverifiable", "embedded authority")],
    )


def head_cases() -> Iterator[RunCase]:
    consistency = "time.consistency", "unverifiable"

    def bent(name: str, clause: str, detail: str, token: Stamped) -> RunCase:
        return RunCase(
            name=name,
            clause=clause,
            tokens={**every(A), 2: [token]},
            trust=[TRUST_A],
            assurance="self-asserted",
            first=timedelta(),
            says=[(*consistency, detail), OWN, STANDS],
        )

    about = "RFC 3161 2.4.2 (messageImprint)"
    earlier = Stamped(by=A, when=2 * HOUR, over=1, asked=1)
    yield bent("token-for-an-earlier-head", about, "the request is about something else", earlier)
    swapped = Stamped(by=A, when=2 * HOUR, over=1)
    yield bent(
        "token-for-an-earlier-head-under-the-right-request",
        about,
        "the token is over something else",
        swapped,
    )
    replayed = Stamped(by=A, when=2 * HOUR, answered=78)
    yield bent("token-of-another-request", "RFC 3161 2.4.2 (nonce)", "another nonce", replayed)
    future = Stamped(by=A, when=NOW - START + HOUR)
    yield bent("token-from-the-future", "PROTOCOL 8: never from the future", "lies in the future", future)
    yield RunCase(
        name="good-early-head-stamped-late",
        clause="PROTOCOL 8: a token over a later head covers the earlier one",
        tokens={**every(A), 0: [Stamped(by=A, when=5 * HOUR)]},
        trust=[TRUST_A],
        assurance="external",
        first=HOUR,
        last=2 * HOUR,
        says=[
            CONSISTENT,
            EXTERNAL,
            STANDS,
            ("time.tokens", "unverifiable", "asked late, or its clock moved"),
            ("time.pace", "unverifiable", "the first head was itself stamped only at"),
        ],
    )
    yield RunCase(
        name="clock-thirty-hours-off",
        clause="docs/decisions/0028: the same lag on every head is a clock",
        tokens=both(every(A), every(B, ROOT_B, lag=30 * HOUR)),
        trust=[TRUST_A, TRUST_B],
        assurance="external",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, EXTERNAL, STANDS, ("time.clocks", "unverifiable", "one of the two clocks is off")],
    )


def life_cases() -> Iterator[RunCase]:
    mixed = {**every(A), 2: [Stamped(by=A_NEXT, when=2 * HOUR)]}
    yield RunCase(
        name="good-rollover-to-another-leaf",
        clause="RFC 5035 5.4: each token names its own certificate",
        tokens=mixed,
        trust=[TRUST_A],
        assurance="external",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, EXTERNAL, STANDS],
    )
    moved = {**every(A), 2: [Stamped(by=A_ELSEWHERE, root=ROOT_A2, when=2 * HOUR)]}
    second = ("a2", "A Ltd", ROOT_A2, "")
    for name, trust, assurance in (
        ("good-rollover-to-another-root", [TRUST_A, second], "external"),
        ("rollover-to-a-root-that-is-not-given", [TRUST_A], "self-asserted"),
    ):
        yield RunCase(
            name=name,
            clause="RFC 5280 6.1: the verifier chooses its anchors",
            tokens=moved,
            trust=trust,
            assurance=assurance,
            first=timedelta(),
            last=2 * HOUR,
            says=[CONSISTENT, EXTERNAL if assurance == "external" else OWN, STANDS],
        )
    yield RunCase(
        name="authority-after-its-day",
        clause="PROTOCOL 8: an entry's window of genTime",
        tokens=every(A),
        trust=[("a", "A Ltd", ROOT_A, f"not_after = {START - DAY:%Y-%m-%dT%H:%M:%SZ}\n")],
        assurance="self-asserted",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, OWN, ("time.tokens", "unverifiable", "its genTime lies after")],
    )
    for name, when, assurance, says in (
        (
            "good-renewed-in-time",
            20 * DAY,
            "external",
            [EXTERNAL, ("time.renewed", "pass", "renewed in time")],
        ),
        (
            "renewal-with-a-gap",
            40 * DAY,
            "external",
            [EXTERNAL, ("time.renewed", "unverifiable", "a gap")],
        ),
    ):
        saved = when < 30 * DAY
        yield RunCase(
            name=name,
            clause="RFC 4998 5.2: renewed before the certificate ends",
            tokens=every(A_BRIEF),
            renewed=[Stamped(by=B, root=ROOT_B, when=when)],
            trust=[TRUST_A, TRUST_B],
            assurance=assurance,
            first=timedelta() if saved else when,
            last=2 * HOUR if saved else when,
            says=[CONSISTENT, *says],
        )
    yield RunCase(
        name="expired-and-not-renewed",
        clause="docs/decisions/0026: tokens fall with their certificates",
        tokens=every(A_BRIEF),
        trust=[TRUST_A, TRUST_B],
        assurance="self-asserted",
        first=timedelta(),
        last=2 * HOUR,
        says=[CONSISTENT, OWN, ("time.renewed", "unverifiable", "no renewal covers it")],
    )


# --- files --------------------------------------------------------------------------------------------------------


def response(digest: bytes, stamped: Stamped) -> bytes:
    """The answer of ``stamped.by`` over ``digest``."""
    nonce = stamped.nonce if stamped.answered is None else stamped.answered
    fields = {
        "policy": f.oid(stamped.policy),
        "imprint": f.seq(f.algorithm(f.SHA256), f.octets(digest)),
        "gen_time": f.time(START + stamped.when),
        "accuracy": f.seq(f.integer(1)),
        "nonce": f.integer(nonce),
    }
    return f.Token(signer=stamped.by, certificates=[stamped.by.certificate], tst_info=fields).response_bytes()


def files_of(case: RunCase) -> dict[str, bytes]:
    """Every file of the case by its path: the run under ``run/``, the trust file with its roots beside it."""
    with tempfile.TemporaryDirectory() as name:
        run = RunDirectory.create(Path(name) / "run")
        records = [genesis_of(Spec(), msgspec.UNSET)]
        records += [Step(v=1, run=RUN, index=i, step=i - 1, batch=bytes(32)) for i in range(1, 7)]
        write_ledger(run, records, sizes=[1, 4, 7], stamp=False)
        _stamp(run, case)
        files = {
            str(path.relative_to(name)): path.read_bytes()
            for path in sorted(Path(name).rglob("*"))
            if path.is_file() and "private" not in path.parts
        }
    entries = []
    for key, operator, root, more in case.trust:
        files[f"{key}.pem"] = root.pem()
        entries.append(
            f'[[authority]]\nname = "{key}"\noperator = "{operator}"\nroots = ["{key}.pem"]\n{more}'
        )
    files["trust.toml"] = "\n".join(entries).encode()
    files["policy.toml"] = case.policy.encode()
    return files


def _stamp(run: RunDirectory, case: RunCase) -> None:
    digests = {number: parse_note(run.read_seal(number).note).head.digest() for number in run.seals()}
    entries: list[bytes] = []
    for number in run.seals():
        tokens = [_token(run, digests, number, stamped) for stamped in case.tokens.get(number, ())]
        seal = msgspec.structs.replace(run.read_seal(number), tokens=tokens)
        run.seal_path(number).write_bytes(encode(seal))
        entries += seal_entries(digests[number], seal)
    if not case.renewed:
        return
    statement = make_statement(run=RUN, index=0, previous=ZERO, entries=entries)
    run.objects.put_named(statement.root, [b"".join(entries)])
    data = encode(statement)
    tokens = [_kept(run, imprint(data), imprint(data), stamped) for stamped in case.renewed]
    run.write_renewal(Renewal(v=1, index=0, statement=data, tokens=tokens))


def _token(run: RunDirectory, digests: Mapping[int, bytes], number: int, stamped: Stamped) -> TokenRef:
    over, asked = (number if one is None else one for one in (stamped.over, stamped.asked))
    return _kept(run, digests[over], digests[asked], stamped)


def _kept(run: RunDirectory, over: bytes, asked: bytes, stamped: Stamped) -> TokenRef:
    return TokenRef(
        authority=f"https://{stamped.root.serial % 1000}.example/",
        request=run.objects.put(make_request(asked, nonce=stamped.nonce)),
        response=run.objects.put(response(over, stamped)),
        chain=[run.objects.put(one.certificate) for one in (stamped.by, stamped.root)],
    )
