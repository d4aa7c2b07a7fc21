"""Making renewals: what they cover, when one is due, what a crash or an outage leaves; and the command."""

import hashlib
import json
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.digest import ZERO
from polledger.core.encoding import encode
from polledger.core.head import Head, sign_head
from polledger.core.merkle import Tree, leaf_hash, verify_inclusion
from polledger.core.records import Seal, TokenRef
from polledger.core.renewal import (
    REVOCATION_MAX,
    Covered,
    Renewal,
    Statement,
    imprint,
    make_statement,
    parse_entries,
    parse_statement,
    seal_entries,
)
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import make_request
from polledger.timestamp.messages import parse_request
from polledger.timestamp.renewal import Renewer, aged, ends, survey
from polledger.timestamp.stamper import Embedded, Http, keep_token, obtain_token
from tests.timestamp import forge
from tests.timestamp.ages import YEAR, aging, renew, year
from tests.timestamp.conftest import Command
from tests.timestamp.lists import crl
from tests.timestamp.peers import free_url, http, needs_openssl, openssl
from tests.timestamp.test_stamper import forged

NOW = datetime(2026, 11, 22, 6, 13, 20, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
RUN = bytes(range(16))

ONE = aging("one", year(2020), year(2030))
TWO = aging("two", year(2024), year(2034))


def head(number: int, run: bytes = RUN) -> Head:
    return Head(run=run, size=number + 1, root=bytes([number]) * 32, chainpoint=bytes(32), previous=bytes(32))


def stamp(run: RunDirectory, number: int, authority: EmbeddedAuthority, now: datetime, name: str) -> None:
    request = make_request(head(number).digest(), nonce=number + 1)
    asked = Embedded(authority=authority, name=name)
    keep_token(run, number, obtain_token(asked, request, now=now))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Three seals, the first two stamped."""
    directory = RunDirectory.create(tmp_path / "run")
    for number in range(3):
        directory.write_seal(Seal(v=1, index=number, note=sign_head(head(number), KEY), tokens=[]))
    for number in range(2):
        stamp(directory, number, ONE.authority, NOW, "one")
    return directory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLLEDGER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def listed(run: RunDirectory, number: int = 0) -> list[bytes]:
    statement = parse_statement(run.read_renewal(number).statement)
    data = run.objects.path(statement.root).read_bytes()
    return [data[start : start + 32] for start in range(0, len(data), 32)]


class TestWhatIsCovered:
    def test_every_head_and_token_in_order_then_tokens_of_earlier_renewals(self, run: RunDirectory) -> None:
        renew(run, ONE, TWO, now=year(2027))
        expected = [
            entry
            for number in range(3)
            for entry in seal_entries(head(number).digest(), run.read_seal(number))
        ]
        assert listed(run) == expected
        assert len(expected) == 5
        renew(run, TWO, now=year(2028))
        first = run.read_renewal(0)
        own = [Covered(v=1, over=imprint(first.statement), token=token).entry() for token in first.tokens]
        assert listed(run, 1) == [*expected, *own]

    def test_the_statement_names_run_number_and_the_renewal_before(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        renew(run, TWO, now=year(2028))
        first, second = (parse_statement(run.read_renewal(number).statement) for number in range(2))
        assert (first.run, first.index, first.previous) == (RUN, 0, ZERO)
        assert (second.run, second.index) == (RUN, 1)
        assert second.previous == imprint(run.read_renewal(0).statement)

    def test_revocation_data_are_stamped_once(self, run: RunDirectory) -> None:
        data = crl(ONE.root, this=NOW)
        renew(run, ONE, now=year(2027), revocation=[data, data])
        renew(run, TWO, now=year(2028), revocation=[data])
        first, second = (parse_statement(run.read_renewal(number).statement) for number in range(2))
        assert first.revocation == [run.objects.put(data)]
        assert second.revocation is msgspec.UNSET

    def test_a_renewal_takes_no_more_revocation_data_than_its_statement_holds(
        self, run: RunDirectory
    ) -> None:
        names = [bytes([number % 256, number // 256]) * 16 for number in range(REVOCATION_MAX + 1)]
        with pytest.raises(UsageError, match="201 CRLs and OCSP responses are new, at most 200"):
            survey(run).statement(names)
        made = survey(run).statement([*names[1:], names[1]])[0]
        assert parse_statement(encode(made)) == made

    def test_what_is_stamped_is_the_imprint_of_the_statement(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        renewal = run.read_renewal(0)
        request = parse_request(run.objects.get(renewal.tokens[0].request, limit=1 << 16))
        assert request.imprint == imprint(renewal.statement)

    def test_a_single_token_is_shown_to_be_covered_by_an_inclusion_proof(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        statement, entries = parse_statement(run.read_renewal(0).statement), listed(run)
        token = run.read_seal(1).tokens[0]
        entry = Covered(v=1, over=head(1).digest(), token=token).entry()
        proof = Tree([leaf_hash(one) for one in entries]).inclusion_proof(entries.index(entry))
        assert verify_inclusion(
            leaf_hash=leaf_hash(entry),
            index=entries.index(entry),
            size=statement.size,
            proof=proof,
            root=statement.root,
        )

    @pytest.mark.parametrize("part", ["authority", "request", "response", "chain", "revocation"])
    def test_every_part_of_a_token_is_covered(self, run: RunDirectory, part: str) -> None:
        token = msgspec.structs.replace(run.read_seal(0).tokens[0], revocation=[bytes(32)])
        other = {"authority": "x", "chain": [b"x" * 32], "revocation": [b"x" * 32]}.get(part, b"x" * 32)
        changed = msgspec.structs.replace(token, **{part: other})
        assert Covered(v=1, over=ZERO, token=token).entry() != Covered(v=1, over=ZERO, token=changed).entry()
        assert (
            Covered(v=1, over=ZERO, token=token).entry()
            != Covered(v=1, over=bytes([1]) * 32, token=token).entry()
        )

    def test_the_entry_is_over_the_canonical_encoding(self, run: RunDirectory) -> None:
        covered = Covered(v=1, over=ZERO, token=run.read_seal(0).tokens[0])
        assert covered.entry() == hashlib.sha256(encode(covered)).digest()

    def test_a_list_of_another_length_or_order_is_refused(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        statement, entries = parse_statement(run.read_renewal(0).statement), listed(run)
        data = b"".join(entries)
        assert parse_entries(data, statement, wanted=entries) == frozenset(entries)
        assert parse_entries(data, statement, wanted={entries[2], ZERO}) == {entries[2]}
        for wrong in (entries[:-1], [*entries, ZERO], entries[::-1]):
            with pytest.raises(MalformedError, match="list of a renewal"):
                parse_entries(b"".join(wrong), statement, wanted=entries)

    def test_a_damaged_seal_is_said_and_the_others_are_covered(self, run: RunDirectory) -> None:
        run.seal_path(1).write_bytes(b"x")
        found = survey(run)
        assert (found.heads, len(found.problems)) == (2, 1)
        assert "seal 1" in found.problems[0]

    def test_a_seal_of_another_run_is_said(self, run: RunDirectory) -> None:
        note = sign_head(head(2, run=bytes(16)), KEY)
        run.seal_path(2).write_bytes(encode(Seal(v=1, index=2, note=note, tokens=[])))
        assert survey(run).problems == ("seal 2 belongs to another run",)

    def test_a_missing_seal_is_said(self, run: RunDirectory) -> None:
        run.seal_path(1).unlink()
        (problem,) = survey(run).problems
        assert "seal 1 is missing" in problem
        run.seal_path(2).rename(run.seal_path(900_000_000))
        assert len(survey(run).problems) < 9

    def test_a_missing_object_is_said(self, run: RunDirectory) -> None:
        token = run.read_seal(1).tokens[0]
        run.objects.path(token.response).unlink()
        (problem,) = survey(run).problems
        assert token.response.hex() in problem

    def test_a_run_without_seals_has_nothing_to_renew(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no seal"):
            survey(RunDirectory.create(tmp_path / "empty"))


class TestWhenItIsDue:
    def test_nothing_is_due_right_after_a_renewal(self, run: RunDirectory) -> None:
        renew(run, TWO, now=year(2027))
        found = survey(run)
        assert found.newest is not None
        assert found.uncovered([]) == 0
        assert not aged(run, found.newest, now=year(2027))

    def test_a_late_token_is_due(self, run: RunDirectory) -> None:
        renew(run, TWO, now=year(2027))
        stamp(run, 2, ONE.authority, year(2027), "one")
        assert survey(run).uncovered([]) == 1

    def test_revocation_data_are_due_until_they_are_stamped(self, run: RunDirectory) -> None:
        name = run.objects.put(crl(ONE.root, this=NOW))
        renew(run, TWO, now=year(2027))
        assert survey(run).uncovered([name]) == 1
        renew(run, TWO, now=year(2027), revocation=[crl(ONE.root, this=NOW)])
        name = survey(run).renewals[1].statement.revocation[0]  # type: ignore[index]
        assert survey(run).uncovered([name]) == 0

    def test_tokens_of_all_but_the_newest_renewal_have_to_be_covered(self, run: RunDirectory) -> None:
        renew(run, TWO, now=year(2027))
        renew(run, TWO, now=year(2028))
        renewal = run.read_renewal(0)
        late = msgspec.structs.replace(renewal.tokens[0], authority="late")
        run.write_renewal(msgspec.structs.replace(renewal, tokens=[*renewal.tokens, late]))
        assert survey(run).uncovered([]) == 1

    def test_a_renewal_ages_after_two_thirds_of_its_time(self, run: RunDirectory) -> None:
        renew(run, TWO, now=year(2028))
        newest = survey(run).newest
        assert newest is not None
        assert ends(run, newest) == year(2034)
        edge = year(2028) + (year(2034) - year(2028)) * 2 / 3
        assert not aged(run, newest, now=edge)
        assert aged(run, newest, now=edge + timedelta(seconds=1))

    def test_the_first_of_its_tokens_to_age_counts(self, run: RunDirectory) -> None:
        renew(run, ONE, TWO, now=year(2028))
        newest = survey(run).newest
        assert newest is not None
        assert ends(run, newest) == year(2030)
        assert aged(run, newest, now=year(2029) + YEAR / 2)


class TestWriting:
    def test_no_file_before_the_first_token(self, run: RunDirectory) -> None:
        renewer = Renewer(run, *survey(run).statement([]))
        answer = renewer.ask(Http(url=free_url()), now=NOW)
        assert answer.token is None
        assert "refused" in answer.reason
        assert run.renewals() == []
        assert not (run.path / "renewals").exists()

    def test_each_token_is_kept_when_it_comes(self, run: RunDirectory) -> None:
        statement, entries = survey(run).statement([])
        renewer = Renewer(run, statement, entries)
        renewer.ask(Embedded(authority=ONE.authority, name="one"), now=NOW)
        assert [token.authority for token in run.read_renewal(0).tokens] == ["one"]
        renewer.ask(Http(url=free_url()), now=NOW)
        renewer.ask(Embedded(authority=TWO.authority, name="two"), now=NOW)
        assert [token.authority for token in run.read_renewal(0).tokens] == ["one", "two"]

    def test_objects_are_durable_before_the_renewal_names_them(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        sync, write = type(run.objects).sync, RunDirectory.write_renewal
        monkeypatch.setattr(type(run.objects), "sync", lambda self: (order.append("sync"), sync(self)))
        monkeypatch.setattr(
            RunDirectory, "write_renewal", lambda self, made: (order.append("write"), write(self, made))
        )
        renew(run, ONE, now=NOW)
        assert order == ["sync", "write"]

    def test_a_crash_before_the_file_is_there_leaves_no_renewal(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def crash(self: RunDirectory, renewal: Renewal) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(RunDirectory, "write_renewal", crash)
            with pytest.raises(KeyboardInterrupt):
                renew(run, ONE, now=NOW)
        assert run.renewals() == []
        renew(run, ONE, now=NOW)
        assert len(survey(run).renewals) == 1

    def test_a_token_that_does_not_fit_is_not_kept(self, run: RunDirectory) -> None:
        with http(forged(lambda token: forge.Token())) as server:
            renewer = Renewer(run, *survey(run).statement([]))
            answer = renewer.ask(Http(url=server.url), now=NOW)
        assert "the imprint is" in answer.reason
        assert run.renewals() == []

    def test_what_was_stamped_is_never_rewritten(self, run: RunDirectory) -> None:
        renew(run, ONE, now=NOW)
        renewal = run.read_renewal(0)
        other = encode(msgspec.structs.replace(parse_statement(renewal.statement), size=9))
        with pytest.raises(UsageError, match="never rewritten"):
            run.write_renewal(msgspec.structs.replace(renewal, statement=other))
        with pytest.raises(UsageError, match="never removed"):
            run.write_renewal(
                msgspec.structs.replace(
                    renewal, tokens=[msgspec.structs.replace(renewal.tokens[0], authority="x")]
                )
            )
        assert run.read_renewal(0) == renewal

    def test_seals_are_not_touched(self, run: RunDirectory) -> None:
        before = {path: path.read_bytes() for path in (run.path / "seals").iterdir()}
        renew(run, ONE, TWO, now=NOW)
        assert {path: path.read_bytes() for path in (run.path / "seals").iterdir()} == before

    def test_a_renewal_under_another_number_is_refused(self, run: RunDirectory) -> None:
        renew(run, ONE, now=NOW)
        shutil.copy(run.renewal_path(0), run.renewal_path(1))
        with pytest.raises(MalformedError, match="holds renewal 0, not 1"):
            run.read_renewal(1)
        with pytest.raises(Unavailable, match="renewal 7 is missing"):
            run.read_renewal(7)


class TestDamage:
    def test_an_earlier_renewal_that_is_lost_holds_up_no_later_one(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        renew(run, TWO, now=year(2028))
        run.renewal_path(0).unlink()
        found = survey(run)
        assert ["renewal 0 is missing" in problem for problem in found.problems] == [True]
        renew(run, TWO, now=year(2029))
        third = parse_statement(run.read_renewal(2).statement)
        assert third.previous == imprint(run.read_renewal(1).statement)

    def test_the_newest_renewal_is_needed_for_the_next(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        run.renewal_path(0).write_bytes(b"x")
        with pytest.raises(Unavailable, match="the next renewal builds on this one"):
            survey(run)

    def test_a_newest_renewal_without_its_list_is_needed_too(self, run: RunDirectory) -> None:
        renew(run, ONE, now=year(2027))
        run.objects.path(parse_statement(run.read_renewal(0).statement).root).unlink()
        with pytest.raises(Unavailable, match="is missing: put it back"):
            survey(run)

    def test_a_renewal_of_another_run_is_no_base_for_the_next(
        self, run: RunDirectory, tmp_path: Path
    ) -> None:
        renew(run, ONE, now=year(2027))
        renewal = run.read_renewal(0)
        foreign = encode(msgspec.structs.replace(parse_statement(renewal.statement), run=bytes(16)))
        changed = msgspec.structs.replace(renewal, statement=foreign)
        run.renewal_path(0).write_bytes(encode(changed))
        with pytest.raises(Unavailable, match="another run"):
            survey(run)


class TestThousandsOfSeals:
    def test_one_token_covers_them_at_32_bytes_each(self, run: RunDirectory) -> None:
        for number in range(3, 2000):
            note = sign_head(Head(run=RUN, size=number + 1, root=ZERO, chainpoint=ZERO, previous=ZERO), KEY)
            run.seal_path(number).write_bytes(encode(Seal(v=1, index=number, note=note, tokens=[])))
        renew(run, ONE, now=NOW)
        statement = parse_statement(run.read_renewal(0).statement)
        assert statement.size == 2002
        assert run.objects.path(statement.root).stat().st_size == 2002 * 32
        assert run.renewal_path(0).stat().st_size < 1024


@pytest.fixture
def authorities(tmp_path: Path) -> Iterator[list[str]]:
    """URLs of two authorities of the forge."""
    with http(forged()) as one, http(forged()) as two:
        yield [one.url, two.url]


class TestCommand:
    def test_it_renews_and_is_done(self, run: RunDirectory, command: Command, authorities: list[str]) -> None:
        done = command("timestamp", "renew", run.path, "--tsa", authorities[0], "--json")
        result = done.json()
        assert done.code == result["exit_code"] == 0
        assert result["schema"] == "polledger.timestamp-renew/1"
        assert (result["renewal"], result["new"], result["heads"], result["entries"]) == (0, True, 3, 5)
        assert [one["authority"] for one in result["obtained"]] == [authorities[0]]
        assert (result["failed"], result["problems"]) == ([], [])
        assert result["until"] == "2045-01-01T00:00:00Z"
        last = done.err.splitlines()[-1]
        assert (
            last == "renewal 0 covers 3 heads and all their tokens; renew again before 2045-01-01T00:00:00Z"
        )

    def test_a_second_time_nothing_is_due(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        words = ("timestamp", "renew", run.path, "--tsa", authorities[0])
        command(*words)
        before = run.renewal_path(0).read_bytes()
        done = command(*words)
        assert done.code == 0
        assert done.err.splitlines() == [
            "nothing is due: renewal 0 covers everything; renew again before 2045-01-01T00:00:00Z"
        ]
        assert run.renewal_path(0).read_bytes() == before
        assert run.renewals() == [0]

    def test_an_authority_that_failed_is_asked_again_for_the_same_renewal(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        down = free_url()
        words = ["timestamp", "renew", run.path, "--tsa", authorities[0], "--tsa"]
        done = command(*words, down, "--json")
        assert done.code == 4
        assert [one["authority"] for one in done.json()["failed"]] == [down]
        assert "1 of 2 authorities gave a token; run the command again for the rest" in done.err
        done = command(*words, authorities[1], "--json")
        assert done.code == 0
        assert (done.json()["renewal"], done.json()["new"]) == (0, False)
        assert [token.authority for token in run.read_renewal(0).tokens] == authorities

    def test_an_outage_leaves_nothing_behind(self, run: RunDirectory, command: Command) -> None:
        done = command("timestamp", "renew", run.path, "--tsa", free_url(), "--json")
        assert done.code == 4
        assert done.json()["renewal"] is None
        assert "nothing was renewed" in done.err.splitlines()[-1]
        assert run.renewals() == []

    def test_what_is_new_makes_another_renewal(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        command("timestamp", "renew", run.path, "--tsa", authorities[0])
        stamp(run, 2, ONE.authority, NOW, "one")
        result = command("timestamp", "renew", run.path, "--tsa", authorities[0], "--json").json()
        assert (result["renewal"], result["new"], result["entries"]) == (1, True, 7)

    def test_a_lost_renewal_does_not_blur_which_one_is_new(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        renew(run, ONE, now=NOW)
        renew(run, TWO, now=NOW)
        run.renewal_path(0).unlink()
        result = command("timestamp", "renew", run.path, "--tsa", authorities[0], "--json").json()
        assert (result["renewal"], result["new"]) == (1, False)
        stamp(run, 2, ONE.authority, NOW, "one")
        result = command("timestamp", "renew", run.path, "--tsa", authorities[0], "--json").json()
        assert (result["renewal"], result["new"]) == (2, True)

    @pytest.mark.parametrize("damage", ["missing", "malformed"])
    def test_a_token_of_the_newest_renewal_that_is_damaged_holds_up_no_later_one(
        self, run: RunDirectory, command: Command, authorities: list[str], damage: str
    ) -> None:
        renew(run, ONE, TWO, now=NOW)
        renewal = run.read_renewal(0)
        if damage == "missing":
            run.objects.path(renewal.tokens[0].response).unlink()
        else:
            junk = msgspec.structs.replace(renewal.tokens[0], response=run.objects.put(b"junk"))
            changed = msgspec.structs.replace(renewal, tokens=[junk, renewal.tokens[1]])
            run.renewal_path(0).write_bytes(encode(changed))
        assert command("timestamp", "renew", run.path, "--tsa", free_url(), "--json").json()["new"] is False
        words = ("timestamp", "renew", run.path, "--tsa", authorities[0], "--json")
        result = command(*words).json()
        assert (result["renewal"], result["new"], result["entries"]) == (1, True, 7)
        assert command(*words).json()["obtained"] == []

    @pytest.mark.parametrize("pem", [False, True])
    def test_revocation_data_are_kept_with_the_renewal(
        self, run: RunDirectory, command: Command, authorities: list[str], tmp_path: Path, pem: bool
    ) -> None:
        file = tmp_path / "one.crl"
        file.write_bytes(crl(ONE.root, this=NOW, pem=pem))
        words = ("timestamp", "renew", run.path, "--tsa", authorities[0], "--revocation", file)
        assert command(*words).code == 0
        (name,) = parse_statement(run.read_renewal(0).statement).revocation or []
        assert run.objects.get(name, limit=1 << 16)[0] == 0x30
        assert "nothing is due" in command(*words).err

    def test_what_is_no_revocation_data_is_refused(
        self, run: RunDirectory, command: Command, tmp_path: Path
    ) -> None:
        file = tmp_path / "junk.crl"
        file.write_bytes(b"junk")
        done = command("timestamp", "renew", run.path, "--revocation", file, "--json")
        assert done.code == 2
        assert "junk.crl: neither a CRL nor an OCSP response" in done.json()["error"]

    def test_a_copy_without_private_is_renewed_and_gets_none(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        shutil.rmtree(run.path / "private")
        assert command("timestamp", "renew", run.path, "--tsa", authorities[0]).code == 0
        assert run.renewals() == [0]
        assert not (run.path / "private").exists()

    def test_one_process_at_a_time(self, run: RunDirectory, command: Command) -> None:
        with run.lock_evidence():
            assert command("timestamp", "renew", run.path).code == 4
        shutil.rmtree(run.path / "private")
        with run.lock_evidence():
            done = command("timestamp", "renew", run.path)
        assert done.code == 4
        assert "in use by another process" in done.err

    def test_without_authorities_those_of_the_run_are_asked(
        self, run: RunDirectory, command: Command
    ) -> None:
        own = EmbeddedAuthority.open(run.path.parent / "home" / "tsa")
        stamp(run, 2, own, NOW, "embedded")
        done = command("timestamp", "renew", run.path, "--json")
        assert done.code == 0
        assert [one["authority"] for one in done.json()["obtained"]] == ["embedded"]

    def test_a_label_in_the_run_is_not_a_place_to_connect_to(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        stamp(run, 2, ONE.authority, NOW, authorities[0])
        done = command("timestamp", "renew", run.path)
        assert done.code == 2
        assert f"name whom to ask, for example --tsa {authorities[0]}" in done.err

    def test_what_could_not_be_read_is_the_last_word(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        run.seal_path(1).unlink()
        run.seal_path(0).write_bytes(b"x")
        done = command("timestamp", "renew", run.path, "--tsa", authorities[0], "--json")
        assert done.code == 4
        assert done.json()["renewal"] == 0
        assert done.err.splitlines()[-1].startswith("not everything is covered or whole: seal 0")

    def test_files_may_be_read_by_whoever_may_read_the_run(
        self, run: RunDirectory, command: Command, authorities: list[str]
    ) -> None:
        command("timestamp", "renew", run.path, "--tsa", authorities[0])
        assert stat.S_IMODE(run.renewal_path(0).stat().st_mode) & 0o400

    @needs_openssl
    def test_openssl_renews(self, run: RunDirectory, command: Command, tmp_path: Path) -> None:
        with http(openssl(tmp_path)) as server:
            assert command("timestamp", "renew", run.path, "--tsa", server.url).code == 0
        (token,) = run.read_renewal(0).tokens
        assert token.authority == server.url

    def test_help_names_the_options(self, command: Command) -> None:
        done = command("timestamp", "renew", "--help")
        assert "--tsa" in done.out
        assert "--revocation" in done.out


def test_json_of_a_failure_is_one_object(command: Command, tmp_path: Path) -> None:
    done = command("timestamp", "renew", tmp_path / "none", "--json")
    assert done.code == 2
    assert json.loads(done.out)["schema"] == "polledger.timestamp-renew/1"


def test_statements_are_bounded() -> None:
    with pytest.raises(MalformedError):
        parse_statement(bytes(1 << 14))
    with pytest.raises(ValueError, match="ascending"):
        Statement(v=1, run=RUN, index=0, previous=ZERO, size=1, root=ZERO, revocation=[b"b" * 32, b"a" * 32])


def test_the_documented_entries_and_imprint_are_what_is_made() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    token = TokenRef(authority="a", request=b"\x11" * 32, response=b"\x22" * 32)
    entries = [Covered(v=1, over=ZERO).entry(), Covered(v=1, over=ZERO, token=token).entry()]
    made = make_statement(run=bytes(16), index=0, previous=ZERO, entries=entries)
    for value in (*entries, imprint(encode(made))):
        assert value.hex() in text
