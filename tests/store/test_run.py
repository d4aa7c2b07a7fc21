import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from polledger.core.encoding import SEAL_LIMITS
from polledger.core.records import Seal, TokenRef
from polledger.core.renewal import Renewal
from polledger.errors import EXIT_CANNOT_PROCEED, EXIT_USAGE, MalformedError, Unavailable, UsageError
from polledger.store.ledger import LedgerWriter, read_ledger
from polledger.store.run import RunDirectory

ROOT = Path(__file__).resolve().parents[2]

TOKEN = TokenRef(authority="a", request=bytes(32), response=b"\x01" * 32)
OTHER = TokenRef(authority="b", request=bytes(32), response=b"\x02" * 32)


def seal(index: int = 0, note: bytes = b"note", tokens: tuple[TokenRef, ...] = ()) -> Seal:
    return Seal(v=1, index=index, note=note, tokens=list(tokens))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestCreating:
    def test_a_new_run_has_an_empty_ledger_and_no_seals(self, run: RunDirectory) -> None:
        assert run.ledger_path == run.path / "ledger.log"
        assert not read_ledger(run.ledger_path).records
        assert run.seals() == []
        assert sorted(path.name for path in run.path.iterdir()) == [
            "ledger.log",
            "objects",
            "private",
            "seals",
        ]

    def test_only_the_owner_may_look_into_private(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            run = RunDirectory.create(tmp_path / "open")
            with run.lock():
                pass
        finally:
            os.umask(before)
        assert mode(run.path / "private") == 0o700
        assert [mode(path) for path in (run.path / "private").iterdir()] == [0o600, 0o600]
        assert mode(run.ledger_path) == 0o666

    def test_what_others_may_read_follows_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            run = RunDirectory.create(tmp_path / "run")
            run.write_seal(seal())
            name = run.objects.put(b"x")
            run.write_hints({"task": "t"})
        finally:
            os.umask(before)
        for path in (run.ledger_path, run.seal_path(0), run.objects.path(name), run.path / "run.toml"):
            assert mode(path) == 0o640

    def test_every_run_has_its_own_secret(self, run: RunDirectory, tmp_path: Path) -> None:
        other = RunDirectory.create(tmp_path / "other")
        assert len(run.secret()) == 32
        assert run.secret() != other.secret()
        assert RunDirectory.open(run.path).secret() == run.secret()

    def test_names_are_durable(self, tmp_path: Path, synced: list[Path]) -> None:
        run = RunDirectory.create(tmp_path / "run")
        assert {tmp_path, run.path, run.path / "private"} <= set(synced)

    def test_missing_parents_are_made(self, tmp_path: Path) -> None:
        assert RunDirectory.create(tmp_path / "a" / "b").secret()

    def test_an_empty_directory_is_taken(self, tmp_path: Path) -> None:
        assert RunDirectory.create(tmp_path).path == tmp_path

    @pytest.mark.parametrize(
        "left",
        [
            ["private"],
            ["private", "objects", "seals"],
            ["private", "seals", ".tmp-1-0"],
            ["private", "ledger.log"],
        ],
        ids=str,
    )
    def test_an_interrupted_creation_is_taken_over(self, tmp_path: Path, left: list[str]) -> None:
        for name in left:
            (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
        assert RunDirectory.create(tmp_path).secret()

    def test_taking_over_keeps_secret_and_ledger(self, run: RunDirectory) -> None:
        inode = run.ledger_path.stat().st_ino
        again = RunDirectory.create(run.path)
        assert again.secret() == run.secret()
        assert again.ledger_path.stat().st_ino == inode

    def test_a_run_that_has_begun_is_not_created_again(self, run: RunDirectory) -> None:
        with LedgerWriter.open(run.ledger_path) as writer:
            writer.append(b"x")
        with pytest.raises(UsageError, match="holds a run already: choose another one"):
            RunDirectory.create(run.path)

    def test_a_run_that_has_seals_is_not_created_again(self, run: RunDirectory) -> None:
        run.write_seal(seal())
        with pytest.raises(UsageError, match="holds a run already"):
            RunDirectory.create(run.path)

    def test_a_directory_with_other_things_is_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UsageError, match=r"is not empty \(it has thesis\.tex\)"):
            RunDirectory.create(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("kind", ["file", "dangling link"])
    def test_a_file_is_not_taken(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "run"
        path.touch() if kind == "file" else path.symlink_to(tmp_path / "nothing")
        with pytest.raises(UsageError, match="is a file: give a directory"):
            RunDirectory.create(path)

    def test_a_path_below_a_file_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(Unavailable, match=r"^cannot make .*: Not a directory$"):
            RunDirectory.create(tmp_path / "file" / "run")


class TestOpening:
    def test_a_run_is_opened_without_touching_it(self, run: RunDirectory) -> None:
        before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))
        opened = RunDirectory.open(run.path)
        opened.seals()
        opened.read_hints()
        assert opened.path == run.path
        assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before

    def test_a_missing_path_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="does not exist") as caught:
            RunDirectory.open(tmp_path / "nothing")
        assert caught.value.exit_code == EXIT_USAGE

    def test_a_file_is_no_run(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="is a file, not a run directory"):
            RunDirectory.open(tmp_path / "file")

    def test_a_directory_without_ledger_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"is not a run directory: it has no ledger\.log"):
            RunDirectory.open(tmp_path)

    def test_a_path_that_cannot_be_looked_at_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match=r"^cannot open .*: File name too long$"):
            RunDirectory.open(tmp_path / ("n" * 300))

    def test_a_copy_without_private_opens_but_has_no_secret(self, run: RunDirectory) -> None:
        (run.path / "private" / "secret").unlink()
        (run.path / "private").rmdir()
        with pytest.raises(Unavailable, match="secret is missing: only the prover's own directory"):
            RunDirectory.open(run.path).secret()

    @pytest.mark.parametrize("length", [0, 31, 33])
    def test_a_secret_of_another_length_is_refused(self, run: RunDirectory, length: int) -> None:
        (run.path / "private" / "secret").write_bytes(bytes(length))
        with pytest.raises(Unavailable, match="secret"):
            run.secret()

    def test_the_queue_is_private(self, run: RunDirectory) -> None:
        assert run.queue_path.parent == run.path / "private"


class TestSeals:
    def test_a_seal_comes_back_as_it_was(self, run: RunDirectory) -> None:
        written = seal(3, b"head", (TOKEN, OTHER))
        run.write_seal(written)
        assert run.read_seal(3) == written
        assert run.seal_path(3).name == "000003.msgpack"

    def test_a_seal_and_its_name_are_on_the_disk_when_written(
        self, run: RunDirectory, synced: list[Path]
    ) -> None:
        run.write_seal(seal())
        assert len(synced) == 2
        assert synced[0].parent == run.path / "seals"
        assert synced[1] == run.path / "seals"

    def test_seals_are_listed_in_order_and_nothing_else_is(self, run: RunDirectory) -> None:
        for index in (0, 2, 10, 1_000_000):
            run.write_seal(seal(index))
        for name in (
            ".tmp-1-0",
            "README",
            "1.msgpack",
            "0000001.msgpack",
            "000003.msgpack.bak",
            "٠٠٠٠٠٤.msgpack",
        ):
            (run.path / "seals" / name).touch()
        assert run.seals() == [0, 2, 10, 1_000_000]

    def test_late_tokens_are_added(self, run: RunDirectory) -> None:
        run.write_seal(seal(tokens=(TOKEN,)))
        run.write_seal(seal(tokens=(TOKEN, OTHER)))
        assert run.read_seal(0).tokens == [TOKEN, OTHER]

    def test_a_head_is_never_rewritten(self, run: RunDirectory) -> None:
        run.write_seal(seal(tokens=(TOKEN,)))
        with pytest.raises(UsageError, match="a head is never rewritten"):
            run.write_seal(seal(note=b"other", tokens=(TOKEN,)))
        assert run.read_seal(0) == seal(tokens=(TOKEN,))

    def test_cosignatures_are_added_and_never_removed(self, run: RunDirectory) -> None:
        one = msgspec.structs.replace(seal(), cosignatures=[b"one\n"])
        two = msgspec.structs.replace(seal(tokens=(TOKEN,)), cosignatures=[b"one\n", b"two\n"])
        for manifest in (seal(), one, two):
            run.write_seal(manifest)
        for lacking in (seal(tokens=(TOKEN,)), msgspec.structs.replace(two, cosignatures=[b"two\n"])):
            with pytest.raises(UsageError, match="cosignatures are never removed"):
                run.write_seal(lacking)
        assert run.read_seal(0) == two

    def test_tokens_are_never_removed(self, run: RunDirectory) -> None:
        run.write_seal(seal(tokens=(TOKEN, OTHER)))
        with pytest.raises(UsageError, match="tokens are never removed"):
            run.write_seal(seal(tokens=(OTHER,)))
        assert run.read_seal(0).tokens == [TOKEN, OTHER]

    def test_a_missing_seal_is_named(self, run: RunDirectory) -> None:
        with pytest.raises(Unavailable, match=r"seal 7 is missing: .*000007"):
            run.read_seal(7)

    def test_any_changed_byte_of_a_seal_is_refused_or_another_seal(self, run: RunDirectory) -> None:
        original = seal(tokens=(TOKEN,))
        run.write_seal(original)
        data = bytearray(run.seal_path(0).read_bytes())
        refused = 0
        for position in range(len(data)):
            data[position] ^= 1
            run.seal_path(0).write_bytes(data)
            data[position] ^= 1
            try:
                assert run.read_seal(0) != original
            except MalformedError:
                refused += 1
        assert refused > 50

    def test_an_unreadable_seal_is_named(self, run: RunDirectory) -> None:
        run.seal_path(4).write_bytes(b"\xc0")
        with pytest.raises(MalformedError, match=r"^seal 4 \(.*000004\.msgpack\) cannot be read: .*nil"):
            run.read_seal(4)

    def test_a_seal_under_another_number_is_refused(self, run: RunDirectory) -> None:
        run.write_seal(seal(1))
        run.seal_path(1).rename(run.seal_path(2))
        with pytest.raises(MalformedError, match=r"000002\.msgpack holds seal 1, not 2"):
            run.read_seal(2)

    def test_an_oversized_seal_is_refused_unread(self, run: RunDirectory) -> None:
        with run.seal_path(0).open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(Unavailable, match="at most 1048576 are expected"):
            run.read_seal(0)

    def test_a_seal_that_breaks_its_bounds_is_not_written(self, run: RunDirectory) -> None:
        with pytest.raises(UsageError):
            run.write_seal(msgspec.structs.replace(seal(), note=bytes(1 << 17)))
        assert run.seals() == []

    def test_a_run_without_seals_directory_is_one_line(self, run: RunDirectory) -> None:
        (run.path / "seals").rmdir()
        with pytest.raises(Unavailable, match=r"cannot read .*seals: No such file"):
            run.seals()


HOLDER = """
import sys, time
from pathlib import Path
from polledger.store.run import RunDirectory
with RunDirectory.open(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(600)
"""


def renewal(index: int = 0, statement: bytes = b"s", tokens: tuple[TokenRef, ...] = (TOKEN,)) -> Renewal:
    return Renewal(v=1, index=index, statement=statement, tokens=list(tokens))


class TestRenewals:
    def test_a_renewal_comes_back_as_it_was(self, run: RunDirectory) -> None:
        run.write_renewal(renewal(3, tokens=(TOKEN, OTHER)))
        assert run.read_renewal(3) == renewal(3, tokens=(TOKEN, OTHER))
        assert run.renewal_path(3) == run.path / "renewals" / "000003.msgpack"

    def test_the_first_and_the_folder_are_on_the_disk_when_written(
        self, run: RunDirectory, synced: list[Path]
    ) -> None:
        run.write_renewal(renewal())
        assert [path if path.is_dir() else path.parent for path in synced] == [
            run.path, run.path / "renewals", run.path / "renewals"
        ]  # fmt: skip

    def test_they_are_listed_in_order_and_a_run_without_has_none(self, run: RunDirectory) -> None:
        assert run.renewals() == []
        for index in (2, 0, 10):
            run.write_renewal(renewal(index))
        (run.path / "renewals" / "1.msgpack").touch()
        assert run.renewals() == [0, 2, 10]

    def test_tokens_are_added_and_nothing_is_taken_away(self, run: RunDirectory) -> None:
        run.write_renewal(renewal())
        run.write_renewal(renewal(tokens=(TOKEN, OTHER)))
        with pytest.raises(UsageError, match="never removed"):
            run.write_renewal(renewal(tokens=(OTHER,)))
        with pytest.raises(UsageError, match="never rewritten"):
            run.write_renewal(renewal(statement=b"t", tokens=(TOKEN, OTHER)))
        assert run.read_renewal(0).tokens == [TOKEN, OTHER]

    def test_an_unreadable_one_is_named(self, run: RunDirectory) -> None:
        run.write_renewal(renewal())
        run.renewal_path(0).write_bytes(b"x")
        with pytest.raises(MalformedError, match=r"renewal 0 .* cannot be read"):
            run.read_renewal(0)
        run.renewal_path(0).write_bytes(bytes(SEAL_LIMITS.size + 1))
        with pytest.raises(Unavailable, match="at most"):
            run.read_renewal(0)

    def test_a_copy_without_private_is_locked_as_it_is(self, run: RunDirectory) -> None:
        shutil.rmtree(run.path / "private")
        run.write_renewal(renewal())
        leftover = run.path / "renewals" / ".tmp-99-0"
        leftover.write_bytes(b"half")
        with run.lock_evidence():
            assert not leftover.exists()
            with pytest.raises(Unavailable, match="in use"), run.lock_evidence():
                pass
        assert not (run.path / "private").exists()

    def test_beside_private_the_lock_is_that_of_the_run(self, run: RunDirectory) -> None:
        with run.lock(), pytest.raises(Unavailable, match="in use"), run.lock_evidence():
            pass


class TestLock:
    def test_a_second_process_is_told_in_one_line(self, run: RunDirectory) -> None:
        command = [sys.executable, "-c", HOLDER, str(run.path)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            with pytest.raises(Unavailable, match=r"is in use by another process$") as caught, run.lock():
                pass
            assert caught.value.exit_code == EXIT_CANNOT_PROCEED
        finally:
            child.kill()
            child.communicate()
        # However the holder ended, the run is free again.
        with run.lock():
            pass

    def test_a_lock_is_free_again_after_use(self, run: RunDirectory) -> None:
        for _ in range(2):
            with run.lock():
                pass
        with pytest.raises(ZeroDivisionError), run.lock():
            raise ZeroDivisionError
        with run.lock():
            pass

    def test_a_held_lock_is_not_taken_again(self, run: RunDirectory) -> None:
        with run.lock(), pytest.raises(Unavailable, match="in use"), RunDirectory.open(run.path).lock():
            pass

    def test_leftovers_of_a_crash_are_cleared(self, run: RunDirectory) -> None:
        run.objects.put(b"x")
        places = [run.path, run.path / "seals", run.path / "private", *(run.path / "objects").iterdir()]
        leftovers = [place / ".tmp-99-0" for place in places]
        for leftover in leftovers:
            leftover.write_bytes(b"half")
        with run.lock():
            assert not any(leftover.exists() for leftover in leftovers)
        assert run.secret()

    def test_nothing_is_cleared_while_another_holds_the_lock(self, run: RunDirectory) -> None:
        with run.lock():
            (run.path / "seals" / ".tmp-99-0").touch()
            with pytest.raises(Unavailable), RunDirectory.open(run.path).lock():
                pass
            assert (run.path / "seals" / ".tmp-99-0").exists()


class TestHints:
    def test_hints_come_back(self, run: RunDirectory) -> None:
        hints = {
            "task": "path/to/train.py:Digits",
            "odd key": 'quotes " and \\ and \n and \x7f and é',
            "inputs": {"text": "/data/t.txt", "dotted.name": "", "é": "x"},
        }
        run.write_hints(hints)
        assert run.read_hints() == hints

    def test_hints_are_replaced(self, run: RunDirectory) -> None:
        run.write_hints({"task": "a"})
        run.write_hints({"name": "b"})
        assert run.read_hints() == {"name": "b"}

    def test_a_run_without_hints_has_none(self, run: RunDirectory) -> None:
        assert run.read_hints() == {}

    @pytest.mark.parametrize(
        "content",
        [b"\xff", b"= broken", b"a = 1\na = 2", b"x" * 70_000, b"a = " + b"[" * 60_000],
        ids=lambda b: b[:9],
    )
    def test_damaged_hints_are_no_hints(self, run: RunDirectory, content: bytes) -> None:
        (run.path / "run.toml").write_bytes(content)
        assert run.read_hints() == {}

    def test_foreign_values_are_left_out(self, run: RunDirectory) -> None:
        (run.path / "run.toml").write_text('a = "x"\nb = 1\nc = ["x"]\n[d]\ne = "y"\nf = 2\n[d.g]\nh = "z"\n')
        assert run.read_hints() == {"a": "x", "d": {"e": "y"}}

    @pytest.mark.parametrize(
        "hints", [{"a": 1}, {"a": {"b": 1}}, {"a": "\ud800"}, {"a": "x" * 70_000}], ids=ascii
    )
    def test_what_hints_cannot_hold_is_refused(self, run: RunDirectory, hints: dict) -> None:
        with pytest.raises(UsageError, match="hint"):
            run.write_hints(hints)
