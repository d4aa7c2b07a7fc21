"""The renewals of a run as they lie in it: each whole, of this run, and linked to the one before. PROTOCOL section 8.

What they save is judged in :mod:`polledger.verify.standing`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.digest import DIGEST_BYTES, ZERO
from polledger.core.renewal import Covered, Statement, gapless, imprint, parse_entries, parse_statement
from polledger.core.renewal import Renewal as Manifest
from polledger.errors import MalformedError, Unavailable
from polledger.store.objects import ObjectStore
from polledger.verify.evidence import RenewalFile
from polledger.verify.heads import SealedHead
from polledger.verify.tokens import Stamp, TokenReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A renewal whose statement, list and place in the chain of renewals hold; its tokens are judged later."""

    number: int
    covers: frozenset[bytes]
    stamps: tuple[Stamp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewals:
    """The renewals of a run, oldest first. ``problems``: what is wrong with others, or missing; they cover nothing."""

    found: tuple[Renewal, ...] = ()
    problems: tuple[str, ...] = ()


def read_renewals(
    files: Sequence[RenewalFile],
    *,
    heads: Sequence[SealedHead],
    stamps: Sequence[Stamp],
    reader: TokenReader,
) -> Renewals:
    """Every renewal of ``files`` that is whole, of the run of ``heads`` and linked to the one before it.

    ``heads`` are those that the records match, ``stamps`` the tokens over them: a renewal's tokens count for the newest
    head that it covers. Revocation data stored with a renewal are read into the reader's pool.
    """
    if not heads or not files:
        return Renewals()
    found, problems = list[Renewal](), list[str]()
    seals = {Covered(v=1, over=head.head.digest()).entry(): head.seal.number for head in heads}
    lists = _Lists(reader.objects, wanted=seals.keys() | {stamp.entry for stamp in stamps})
    previous: bytes | None = ZERO
    following = 0
    for file in _in_order(files):
        if file.number != following:
            previous = None
        following = file.number + 1
        try:
            renewal, statement = _whole(file, run=heads[0].head.run, previous=previous)
            covers = lists.covered(statement)
        except (MalformedError, Unavailable) as error:
            problems.append(f"{file.name}: {error}")
            previous = None
            continue
        previous = imprint(renewal.statement)
        problems += _revocation(file, statement, reader)
        newest = max((seals[entry] for entry in covers if entry in seals), default=-1)
        tokens = [reader.token(file.name, ref, previous, newest, file.number) for ref in renewal.tokens]
        made = tuple(stamp for stamp in tokens if stamp is not None)
        lists.wanted |= {stamp.entry for stamp in made}
        found.append(Renewal(number=file.number, covers=covers, stamps=made))
    return Renewals(found=tuple(found), problems=tuple(problems))


def _whole(file: RenewalFile, *, run: bytes, previous: bytes | None) -> tuple[Manifest, Statement]:
    """What ``file`` holds. Raises MalformedError unless it is of ``run`` and follows ``previous``, if that is known."""
    if file.renewal is None:
        raise MalformedError(file.problem)
    statement = parse_statement(file.renewal.statement)
    if statement.run != run:
        raise MalformedError("it renews another run")
    if statement.index != file.number or (previous is not None and statement.previous != previous):
        raise MalformedError("it does not follow the renewal before it")
    return file.renewal, statement


class _Lists:
    """Reads lists of renewals, each once: what they cover of ``wanted``, which grows with the tokens of renewals."""

    def __init__(self, objects: ObjectStore, *, wanted: set[bytes]) -> None:
        self._objects = objects
        self._seen: set[bytes] = set()
        self.wanted = wanted

    def covered(self, statement: Statement) -> frozenset[bytes]:
        """Raises Unavailable if the list is missing, MalformedError if it is not the one that was stamped."""
        # Two renewals never have one list: the later one covers the tokens of the earlier one.
        if statement.root in self._seen:
            raise MalformedError("its list is that of another renewal")
        self._seen.add(statement.root)
        data = self._objects.read(statement.root, limit=statement.size * DIGEST_BYTES)
        return parse_entries(data, statement, wanted=self.wanted)


def _revocation(file: RenewalFile, statement: Statement, reader: TokenReader) -> Iterator[str]:
    for name in statement.revocation or ():
        try:
            reader.read_revocation(name)
        except Unavailable as error:
            yield f"{file.name}: {error}"


def _in_order(files: Sequence[RenewalFile]) -> Iterator[RenewalFile]:
    """The files by number, with one that is missing in places where one must have been."""
    known = {file.number: file for file in files}
    for number in gapless([*known]):
        yield known.get(number) or RenewalFile(number=number, renewal=None, problem="it is missing")
