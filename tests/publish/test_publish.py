"""Publishing: append-only, to a directory and to a real S3 server on loopback."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.digest import sha256
from polledger.core.dsse import IN_TOTO, encode_envelope, parse_envelope, sign_envelope
from polledger.errors import Unavailable, UsageError
from polledger.keys import signer_of
from polledger.publish.publishing import PAGE, Publication, gather, publish
from polledger.publish.store import Destination, Folder, Remote, open_destination
from polledger.store.claimfiles import CLAIM, PROOF, TOKENS, ClaimFiles
from polledger.verify.claimalone import read_claim_files, verify_alone
from tests.verify.build import Built, make_run
from tests.verify.check import request
from tests.verify.claiming import write_claim


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make_run(tmp_path_factory.mktemp("publish") / "run")


@pytest.fixture
def files(run: Built, tmp_path: Path) -> ClaimFiles:
    return write_claim(run, tmp_path / "claim", tsa=tmp_path / "tsa")


def superseding(run: Built, directory: Path, earlier: Publication) -> ClaimFiles:
    digest = sha256(earlier.read.envelope.payload).hex()
    return write_claim(run, directory, change=lambda plain: plain["predicate"].update(supersedes=digest))


def everything(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_what_is_published_is_a_claim_that_verifies(files: ClaimFiles, tmp_path: Path) -> None:
    assert publish(gather(files), Folder(tmp_path / "site")) == ""
    site = everything(tmp_path / "site")
    assert {CLAIM, PROOF, PAGE} < set(site)
    assert all(sha256(data).hex() == name[7:] for name, data in site.items() if name.startswith(f"{TOKENS}/"))
    published = ClaimFiles(path=tmp_path / "site" / CLAIM)
    report = verify_alone(published, read_claim_files(published), request())
    assert [one.outcome for one in report.findings if one.name == "claim"] == ["pass"]


def test_publishing_again_changes_nothing_and_completes(files: ClaimFiles, tmp_path: Path) -> None:
    publication, site = gather(files), tmp_path / "site"
    publish(publication, Folder(site))
    before = everything(site)
    times = {name: (site / name).stat().st_mtime_ns for name in before}
    publish(publication, Folder(site))
    assert {name: (site / name).stat().st_mtime_ns for name in before} == times
    (site / CLAIM).unlink()
    next((site / TOKENS).iterdir()).unlink()
    publish(publication, Folder(site))
    assert everything(site) == before


def test_another_claim_is_never_written_over(run: Built, files: ClaimFiles, tmp_path: Path) -> None:
    site = tmp_path / "site"
    publish(gather(files), Folder(site))
    before = everything(site)
    other = write_claim(
        run, tmp_path / "other", change=lambda plain: plain["predicate"]["claimant"].update(name="B")
    )
    with pytest.raises(UsageError, match="does not supersede it"):
        publish(gather(other), Folder(site))
    assert everything(site) == before


def test_claims_that_supersede_each_other_form_a_chain(run: Built, files: ClaimFiles, tmp_path: Path) -> None:
    site = tmp_path / "site"
    first = gather(files)
    publish(first, Folder(site))
    second = gather(superseding(run, tmp_path / "second", first))
    third = gather(superseding(run, tmp_path / "third", second))
    with pytest.raises(UsageError, match="does not supersede"):
        publish(third, Folder(site))
    assert publish(second, Folder(site)) == "next/"
    assert publish(third, Folder(site)) == "next/next/"
    assert (site / "next" / CLAIM).read_bytes() == second.envelope
    digest = sha256(first.read.envelope.payload).hex()
    late = write_claim(
        run,
        tmp_path / "late",
        change=lambda plain: plain["predicate"].update(supersedes=digest, task="1" * 64),
    )
    with pytest.raises(UsageError, match="does not supersede"):
        publish(gather(late), Folder(site))


def test_only_the_same_key_supersedes(run: Built, files: ClaimFiles, tmp_path: Path) -> None:
    site = tmp_path / "site"
    thief = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
    payload = parse_envelope(files.path.read_bytes()).payload
    theirs = json.loads(payload)
    theirs["predicate"]["claimant"]["key"] = thief.public_key().public_bytes_raw().hex()
    stolen = sign_envelope(IN_TOTO, json.dumps(theirs).encode(), (signer_of(thief),))
    site.mkdir()
    (site / CLAIM).write_bytes(encode_envelope(stolen))
    mine = write_claim(
        run,
        tmp_path / "mine",
        change=lambda plain: plain["predicate"].update(supersedes=sha256(stolen.payload).hex()),
    )
    with pytest.raises(UsageError, match="another key"):
        publish(gather(mine), Folder(site))


def test_a_file_that_differs_stops_before_the_claim_is_there(files: ClaimFiles, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / PROOF).write_bytes(b"of somebody else")
    with pytest.raises(Unavailable, match="nothing that was published is overwritten"):
        publish(gather(files), Folder(site))
    assert not (site / CLAIM).exists()
    assert (site / PROOF).read_bytes() == b"of somebody else"


def test_a_page_left_by_another_claim_stops_before_the_claim_is_there(
    run: Built, files: ClaimFiles, tmp_path: Path
) -> None:
    other = write_claim(
        run, tmp_path / "other", change=lambda plain: plain["predicate"]["claimant"].update(name="B")
    )
    site = tmp_path / "site"
    site.mkdir()
    (site / PAGE).write_bytes(gather(other).files[PAGE])
    with pytest.raises(Unavailable, match="shows another claim"):
        publish(gather(files), Folder(site))
    assert not (site / CLAIM).exists()


def test_the_page_of_another_version_over_the_same_claim_stays(files: ClaimFiles, tmp_path: Path) -> None:
    site, publication = tmp_path / "site", gather(files)
    site.mkdir()
    page = publication.files[PAGE].replace(b"<footer>", b"<footer>Another version.")
    (site / PAGE).write_bytes(page)
    publish(publication, Folder(site))
    assert (site / PAGE).read_bytes() == page
    assert (site / CLAIM).read_bytes() == publication.envelope


def test_what_is_missing_beside_the_claim_is_said(files: ClaimFiles) -> None:
    next(files.tokens.directory.iterdir()).unlink()
    with pytest.raises(Unavailable, match="is missing"):
        gather(files)
    files.proof_path.unlink()
    with pytest.raises(UsageError, match="there is no proof"):
        gather(files)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real S3 server process on loopback with the bucket ``claims``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/moto-api/").close()
                break
            time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"{address}/claims", method="PUT")).close()
        yield address
    finally:
        server.terminate()
        server.wait()
        log.close()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setitem(os.environ, name, value)
    return "s3://claims"


def test_an_s3_bucket_takes_a_claim_and_keeps_it(
    run: Built, files: ClaimFiles, bucket: str, tmp_path: Path
) -> None:
    place = f"{bucket}/models/small"
    first = gather(files)
    assert publish(first, open_destination(place)) == ""
    assert publish(first, open_destination(place)) == ""
    stored = open_destination(place)
    assert stored.read(CLAIM, limit=1 << 20) == first.envelope
    for name, data in first.files.items():
        assert stored.read(name, limit=1 << 26) == data
    other = write_claim(
        run, tmp_path / "other", change=lambda plain: plain["predicate"]["claimant"].update(name="B")
    )
    with pytest.raises(UsageError, match="does not supersede it"):
        publish(gather(other), open_destination(place))
    second = gather(superseding(run, tmp_path / "second", first))
    assert publish(second, open_destination(place)) == "next/"
    assert stored.read(f"next/{CLAIM}", limit=1 << 20) == second.envelope


class Blind(Remote):
    """Sees nothing: what another one created a moment ago is not known yet."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(_Unseeing(remote._filesystem), remote._root, remote._shown)


class _Unseeing:
    def __init__(self, filesystem: object) -> None:
        self._filesystem = filesystem

    def exists(self, path: str) -> bool:
        return False

    def __getattr__(self, name: str) -> object:
        return getattr(self._filesystem, name)


def test_the_server_itself_refuses_the_second_of_two_who_create_at_once(bucket: str) -> None:
    place = open_destination(f"{bucket}/race")
    assert isinstance(place, Remote)
    assert place.create("a", b"first")
    assert not Blind(place).create("a", b"second")
    assert place.read("a", limit=10) == b"first"


def test_a_bucket_that_does_not_answer_is_said_in_one_line(
    files: ClaimFiles, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable) as raised:
        publish(gather(files), open_destination("s3://no-such-bucket/x"))
    assert "s3://no-such-bucket/x" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["file", "memory"])
def test_other_file_systems_take_claims_too(files: ClaimFiles, tmp_path: Path, place: str) -> None:
    dest = f"file://{tmp_path}/deep/site" if place == "file" else f"memory://{tmp_path.name}/site"
    publication = gather(files)
    there: Destination = open_destination(dest)
    publish(publication, there)
    assert there.read(CLAIM, limit=1 << 20) == publication.envelope
    assert not there.create(CLAIM, b"x")
    with pytest.raises(Unavailable, match="more than 3 bytes"):
        there.read(CLAIM, limit=3)


def test_a_url_that_nothing_opens_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        open_destination("nothing://x")
