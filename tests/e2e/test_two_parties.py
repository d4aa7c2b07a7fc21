"""Two directories that share nothing but the files exchanged: the verdicts of the run's own directory."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from polledger import __version__
from polledger.core.records import AnyRecord, Checkpoint
from polledger.core.state import FlatState, encode_state, parse_state
from polledger.keys import load_key
from polledger.redteam.rewrite import read_records, rewrite_run
from polledger.store.run import RunDirectory
from tests.e2e.conftest import TASKS, Cli, Done
from tests.states import change_tensor

CASES = {
    "tiny": (TASKS / "tiny.py", ("--every", 4, "--warm", 2)),
    "thinned": (TASKS / "tiny.py", ("--every", 2, "--warm", 2, "--keep", 3)),
    "custom": (TASKS / "kitchen_sink.py", ("--every", 10, "--warm", 1, "--steps", 20)),
    "digits": ("polledger.examples.digits", ("--steps", 12, "--every", 4, "--warm", 1)),
    # The text is the prover's: the verifier never has it.
    "chars": (
        "polledger.examples.chars",
        ("--steps", 6, "--every", 3, "--warm", 1, "--input", f"text={Path(__file__).parents[2] / 'LICENSE'}"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Parties:
    """The prover's directory with the run, the verifier's with nothing.

    ``code``: words that let the task run; ``data``: words that say where the prover's data lie.
    """

    cli: Cli
    prover: Path
    verifier: Path
    code: tuple[object, ...]
    data: tuple[object, ...] = ()

    def challenge(self, *words: object, name: str = "c") -> Done:
        """The prover hands over its newest head; the verifier keeps the challenge and sends a copy."""
        run = RunDirectory.open(self.prover / "run")
        shutil.copy(run.seal_path(run.seals()[-1]), self.verifier / "head")
        done = self.cli("challenge", "head", *words, "-o", name, "--json", cwd=self.verifier)
        if done.code == 0:
            shutil.copy(self.verifier / name, self.prover / name)
        return done

    def open(self, *words: object, name: str = "c", out: str = "p") -> Done:
        """The prover answers and sends the file."""
        done = self.cli("open", "run", name, "-o", out, *words, "--json", cwd=self.prover)
        if done.code == 0:
            shutil.copy(self.prover / out, self.verifier / out)
        return done

    def verify(self, *words: object, out: str = "p") -> Done:
        return self.cli("verify", out, *words, *self.code, "--json", cwd=self.verifier)

    def verify_run(self, *words: object) -> Done:
        return self.cli("verify", "run", *words, *self.code, *self.data, "--json", cwd=self.prover)


Between = Callable[..., Parties]


@pytest.fixture
def between(cli: Cli, tmp_path: Path) -> Between:
    def make(run: Path, task: object, *data: object) -> Parties:
        prover, verifier = tmp_path / "prover", tmp_path / "verifier"
        prover.mkdir()
        verifier.mkdir()
        shutil.copytree(run, prover / "run")
        code = () if str(task).startswith("polledger.") else ("--task", task)
        return Parties(cli=cli, prover=prover, verifier=verifier, code=code, data=data)

    return make


def tampered(run: Path, target: Path, home: Path) -> Path:
    """The run with another state in the middle, everything signed again by its key."""
    directory = RunDirectory.open(run)
    stored = [item for item in read_records(directory) if isinstance(item, Checkpoint) and item.stored]
    victim = stored[len(stored) // 2]
    flat = parse_state(directory.objects.read_state(victim.root, limit=1 << 30), root=victim.root)
    other = encode_state(bent(flat))

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        return [
            msgspec.structs.replace(record, root=other.root) if record.index == victim.index else record
            for record in records
        ]

    rewrite_run(run, target, key=load_key(home / "key.pem"), edit=edit, states=[other])
    return target


def bent(flat: FlatState) -> FlatState:
    """Another value in the first floating tensor of the model."""
    path = next(
        tensor.path
        for tensor in flat.tensors
        if tensor.path.startswith("model/") and tensor.dtype == "float32"
    )
    return change_tensor(flat, path, lambda values: values + np.float32(0.5))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_proof_and_directory_have_one_verdict(
    sealed: Callable[..., Path],
    between: Between,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    monkeypatch.setenv("POLLEDGER_HOME", str(home))
    task, words = CASES[case]
    honest = sealed(task, *words)
    parties = between(honest, task, *(words[-2:] if "--input" in words else ()))
    check_same_verdict(parties, "VERIFIED")
    shutil.rmtree(parties.prover / "run")
    shutil.move(tampered(honest, tmp_path / "bad", home), parties.prover / "run")
    check_same_verdict(parties, "REFUTED")


def check_same_verdict(parties: Parties, verdict: str) -> None:
    """Every interval drawn, opened and verified, from the file and in the directory."""
    assert parties.challenge("--sample", 1000, name=verdict).code == 0
    opened = parties.open(name=verdict, out=f"p{verdict}")
    assert opened.code == 0, opened.err
    shown = parties.verify("--challenge", verdict, out=f"p{verdict}")
    whole = parties.verify_run("--challenge", verdict)
    assert (shown.json["verdict"], whole.json["verdict"]) == (verdict, verdict), (shown.err, whole.err)
    assert shown.json["sample"]["drawn_intervals"] == whole.json["sample"]["drawn_intervals"]
    bad = [
        {finding["interval"] for finding in done.findings("fail") if finding["step"] == 9}
        for done in (shown, whole)
    ]
    assert bad[0] == bad[1]
    assert bool(bad[0]) == (verdict == "REFUTED")


def test_a_session_of_a_small_sample(tiny: Path, between: Between) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    asked = parties.challenge("--sample", 1, "--deadline", "2d")
    assert asked.json["schema"] == "polledger.challenge/1"
    assert asked.json["asks"] == "1 interval"
    opened = parties.open()
    assert opened.json["bytes"] == (parties.prover / "p").stat().st_size
    done = parties.verify("--challenge", "c")
    assert (done.code, done.json["verdict"]) == (0, "VERIFIED")
    assert "was not screened" in done.last
    assert done.json["sample"]["intervals"] == opened.json["opened"]
    # The verifier's directory has what was exchanged, and nothing more.
    assert sorted(os.listdir(parties.verifier)) == ["c", "head", "p"]
    # Without the challenge that it kept, the same file shows nothing.
    other = parties.verify()
    assert (other.code, other.json["verdict"]) == (3, "UNVERIFIABLE")
    assert "chosen by the presenter" in other.last


def test_code_is_named_where_nobody_vouches_for_it(tiny: Path, between: Between) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    parties.challenge("--sample", 1)
    parties.open()
    done = parties.cli("verify", "p", "--challenge", "c", "--json", cwd=parties.verifier)
    assert done.code == 3
    assert "`polledger verify p --challenge c --trust-code" in done.last
    assert "tiny.py, in the proof" in done.last


def test_a_damaged_proof_is_one_line(tiny: Path, between: Between) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    parties.challenge("--sample", 1)
    parties.open()
    path = parties.verifier / "p"
    data = path.read_bytes()
    for at, code in ((3, 2), (40, 3), (len(data) // 2, 3), (len(data) - 1, 3)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        done = parties.verify("--challenge", "c")
        assert done.code == code, at
        assert len(done.err.strip().splitlines()) == 1
        assert "Traceback" not in done.err
        if code == 3:
            assert done.json["verdict"] == "UNVERIFIABLE"
    path.write_bytes(data[: len(data) // 3])
    assert "cut off" in parties.verify("--challenge", "c").last


def test_what_is_wrong_with_a_question_or_an_answer_is_said_in_one_line(tiny: Path, between: Between) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    parties.challenge("--sample", 1)
    for words, said in (
        (("challenge", "head", "--sample", 1, "-o", "c"), "never overwritten"),
        (("challenge", "head", "--sample", 1, "--deadline", "2001-01-01", "-o", "d"), "in the past"),
        (("challenge", "head", "--sample", 1, "--deadline", "soon", "-o", "d"), "--deadline is 7d"),
        (("challenge", "c", "--sample", 1, "-o", "d"), "holds no head"),
        (("challenge", "none", "--sample", 1, "-o", "d"), "does not exist"),
        (("verify", "c"), "neither the directory of a run nor a proof"),
        (("verify", "head", "--challenge", "head"), "neither the directory of a run nor a proof"),
    ):
        done = parties.cli(*words, cwd=parties.verifier)
        assert (done.code, len(done.err.strip().splitlines())) == (2, 1), words
        assert said in done.last, words
    for words, said in (
        (("open", "run", "none", "-o", "p"), "does not exist"),
        (("open", "run", "run/ledger.log", "-o", "p"), "is no challenge"),
        (("open", "run", "c", "-o", "c"), "never overwritten"),
        (("verify", "run", "--challenge", "c", "--sample", 3), "leave --sample and --nonce out"),
        (("verify", "run", "--challenge", "run/ledger.log"), "is no challenge"),
    ):
        done = parties.cli(*words, cwd=parties.prover)
        assert (done.code, len(done.err.strip().splitlines())) == (2, 1), words
        assert said in done.last, words


def test_two_rounds_and_a_compact_proof(tiny: Path, between: Between) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    first = parties.challenge("--sketch", name="c1")
    assert first.json["asks"] == "sketches of every stored checkpoint"
    assert parties.open(name="c1", out="s1").json["opened"] == []
    for words, said in (
        (("s1", "--sample", 1), "give yours with --challenge"),
        (("head", "--challenge", "c1", "--sample", 1), "is none"),
        (("head", "--sketch", "--sample", 1), "leave --sample out"),
    ):
        done = parties.cli("challenge", *words, "-o", "c2", cwd=parties.verifier)
        assert (done.code, said in done.last) == (2, True), done.err
    words = ("challenge", "s1", "--challenge", "c1", "--sample", 1, "-o", "c2", "--json")
    assert parties.cli(*words, cwd=parties.verifier).code == 0
    shutil.copy(parties.verifier / "c2", parties.prover / "c2")
    assert parties.open("--compact", name="c2").code == 0
    done = parties.verify("--challenge", "c2")
    assert (done.code, done.json["verdict"]) == (0, "VERIFIED"), done.err
    assert "was not screened" not in done.last
    assert done.json["screening"]["read"] == done.json["screening"]["stored"]


def test_a_refusal_is_on_record(tiny: Path, between: Between, home: Path) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    parties.challenge("--sample", 3)
    for words, code, said in (
        (("--most", 1), 4, "no more than 1 are"),
        (("--refuse", "not before the patent is filed", "--key", home / "key.pem"), 0, "patent"),
    ):
        out = f"r{code}"
        done = parties.open(*words, out=out)
        assert (done.code, said in done.last) == (code, True), done.err
        shutil.copy(parties.prover / out, parties.verifier / out)
        report = parties.verify("--challenge", "c", out=out)
        assert (report.code, report.json["verdict"]) == (3, "UNVERIFIABLE")
        assert said in report.last
        assert (report.json["version"], bool(report.json["verified_at"])) == (__version__, True)
        assert ("signed by the key of the run" if code == 0 else "not signed") in report.last
        facts = parties.cli("inspect", out, "--json", cwd=parties.verifier).json
        assert (facts["kind"], said in facts["reason"]) == ("refusal", True)
    parties.challenge("--sample", 2, name="other")
    report = parties.verify("--challenge", "other", out="r0")
    assert "yours, made" in report.last
    assert "is unanswered" in report.last


def test_what_is_exchanged_says_what_it_is(tiny: Path, between: Between) -> None:
    parties = between(tiny, TASKS / "tiny.py")
    parties.challenge("--sample", 1, "--deadline", "2d")
    parties.open()
    challenge = parties.cli("inspect", "c", "--json", cwd=parties.verifier).json
    assert (challenge["kind"], challenge["asks"], challenge["overdue"]) == ("challenge", "1 interval", None)
    assert challenge["age"].startswith("0 h")
    proof = parties.cli("inspect", "p", "--json", cwd=parties.verifier).json
    assert (proof["kind"], proof["mode"], proof["challenge"]) == ("proof", "full", challenge["digest"])
    shown = parties.cli("inspect", "c", cwd=parties.verifier)
    assert challenge["digest"] in shown.out
    assert parties.cli("inspect", "head", cwd=parties.verifier).code == 2


def test_terms_are_fixed_before_training_and_kept(cli: Cli, between: Between, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[comparison]\nmargin = 4.0\n")
    from polledger.verify.policy import load_policy

    terms = tmp_path / "terms.toml"
    terms.write_text(
        f'every = 12\nnonce = "{"ab" * 16}"\npolicy = "{load_policy(policy).digest().hex()}"\n', "utf-8"
    )
    run, task = tmp_path / "run", TASKS / "tiny.py"
    words = ("--terms", terms, "--withhold-metrics", "--every", 12, "--warm", 0, "--steps", 12)
    assert cli("seal", task, "--run", run, *words).code == 0
    records = read_records(RunDirectory.open(run))
    assert not any(
        "metrics" in record.__struct_fields__ and record.metrics
        for record in records
        if hasattr(record, "metrics")
    )
    parties = between(run, task)
    assert parties.challenge("--sample", 1, name="other").code == 0
    refused = parties.open(name="other", out="r")
    assert (refused.code, "another policy" in refused.last) == (4, True)
    assert parties.challenge("--sample", 1, "--policy", policy).code == 0
    assert parties.open().code == 0
    done = parties.verify("--challenge", "c", "--policy", policy)
    assert (done.code, done.json["verdict"]) == (0, "VERIFIED"), done.err
    (found,) = [finding for finding in done.json["findings"] if finding["name"] == "terms"]
    assert (found["outcome"], "ab" * 16 in found["detail"]) == ("pass", True)
    # For a verifier who did not fix them they say something, and decide nothing.
    other = cli("verify", run, "--task", task, "--sample", 1, "--json")
    (found,) = [finding for finding in other.json["findings"] if finding["name"] == "terms"]
    assert (other.code, found["outcome"]) == (0, "unverifiable")


def test_terms_that_are_none_are_named(cli: Cli, tmp_path: Path) -> None:
    terms = tmp_path / "terms.toml"
    for text, said in (
        ("", "it has every, nonce or policy"),
        ("k = 3", "not k"),
        ("every = 0", ">= 1"),
        ('nonce = "ab"', "length >= 16"),
        ('policy = "zz"', "hexadecimal"),
        ("every", "terms.toml"),
    ):
        terms.write_text(text)
        done = cli("seal", TASKS / "tiny.py", "--run", tmp_path / "run", "--terms", terms)
        assert (done.code, said in done.last) == (2, True), done.err
    assert "no such file" in cli("seal", "x.py", "--run", tmp_path / "run", "--terms", tmp_path / "none").last
