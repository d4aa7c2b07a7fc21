"""``polledger verify``: options, code decisions, report and exit codes. Real replays are in tests/e2e."""

import hashlib
import importlib.metadata
import io
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from polledger.cli import code, reading
from polledger.cli.code import CodeOptions, decide, is_own, load_code
from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.opened import IntervalResult
from polledger.core.records import Genesis
from polledger.core.report import Report
from polledger.core.screening import Flag
from polledger.core.source import Distribution, SourceFile, TaskSource
from polledger.errors import UsageError
from polledger.helper import OWN_ROOT
from polledger.training.replay import TaskProgram
from polledger.verify.policy import Policy, parse_policy
from tests.cli.conftest import Command
from tests.verify.build import Built
from tests.verify.check import validate

NONCE = "5e" * 32


def test_a_run_whose_code_is_not_at_hand_is_unverifiable(command: Command, sealed: Built) -> None:
    said = command("verify", sealed.run.path)
    assert said.code == 3
    assert said.last.startswith("UNVERIFIABLE: step 7")
    assert "is missing" in said.last
    assert "What this does not say" in said.out


def test_json_is_one_object_with_the_report(command: Command, sealed: Built) -> None:
    said = command("verify", sealed.run.path, "--json", "--nonce", NONCE, "--sample", 2)
    report = said.json
    assert (said.code, report["exit_code"], report["verdict"]) == (3, 3, "UNVERIFIABLE")
    assert report["schema"] == "polledger.verify/1"
    assert report["sample"]["nonce"] == NONCE
    assert report["sample"]["total"] == 5
    assert report["first_bad"]["step"] == 7
    assert report["head"]["size"] == len(sealed.records)
    assert said.err.count("UNVERIFIABLE") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nowhere"], 2), ([".", "--sample", "none"], 2), ([".", "--report", "/proc/nowhere"], 4)],
)
def test_failures_are_what_the_schema_says(
    command: Command, sealed: Built, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    monkeypatch.chdir(sealed.run.path)
    value = command("verify", *words, "--json").json
    assert value["exit_code"] == code
    validate(value)


def test_quiet_leaves_only_the_last_sentence(command: Command, sealed: Built) -> None:
    said = command("verify", sealed.run.path, "--quiet", "--no-replay")
    assert said.out == ""
    assert said.err.strip().count("\n") == 0


def test_no_replay_and_no_scan_say_what_was_left_out(command: Command, sealed: Built) -> None:
    report = command("verify", sealed.run.path, "--no-replay", "--no-scan", "--json").json
    blocked = {
        (item["step"], item["name"]) for item in report["findings"] if item["outcome"] == "unverifiable"
    }
    assert {(4, "stillness"), (7, "inclusion"), (8, "origin"), (9, "replay")} <= blocked
    assert report["intervals"] == []


def test_damage_is_named_in_the_last_line(command: Command, copied: Built) -> None:
    copied.run.seal_path(1).unlink()
    said = command("verify", copied.run.path, "--no-replay")
    assert said.code == 3
    assert "seal 1" in said.last


def test_report_directory_gets_the_object_and_its_page(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    where = tmp_path / "deep" / "report"
    words = ("verify", sealed.run.path, "--no-replay", "--nonce", NONCE, "--report", where)
    said = command(*words, "--json")
    data = (where / "report.json").read_bytes()
    assert json.loads(data) == said.json
    validate(json.loads(data))
    page = (where / "report.html").read_text("utf-8")
    assert said.json["sentence"].split(": ", 1)[1][1:] in page
    assert hashlib.sha256(data).hexdigest() in page
    assert command(*words).code == 3


def test_a_report_directory_that_cannot_be_made_is_one_line(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/deeper", "/proc/nowhere"):
        said = command("verify", sealed.run.path, "--no-replay", "--report", tmp_path / name)
        assert (said.code, said.out) == (4, "")
        assert "cannot write the report" in said.last
        assert "UNVERIFIABLE" not in said.err


def test_somebody_elses_directory_is_refused_before_anything_is_done(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    for path in (tmp_path, sealed.run.path):
        said = command("verify", sealed.run.path, "--no-replay", "--report", path)
        assert (said.code, said.out) == (2, "")
        assert "name a new directory" in said.last
    assert (tmp_path / "report.html").read_text() == "mine"


def test_the_verdict_is_said_before_the_report_is_written(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        said = command("verify", sealed.run.path, "--no-replay", "--report", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.code == 4
    assert "What this does not say" in said.out
    assert [line.split(":")[0] for line in said.err.splitlines()[-2:]] == ["UNVERIFIABLE", "polledger"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/dev/null", "."])
def test_a_model_is_a_regular_file(command: Command, sealed: Built, name: str) -> None:
    said = command("verify", sealed.run.path, "--model", name)
    assert said.code == 2
    assert said.last == f"polledger: --model {name}: is not a regular file"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--sample", "many"], "many"),
        (["--nonce", "xyz"], "xyz"),
        (["--nonce", "ab"], "16 to 64 bytes"),
        (["--engine", "ray"], "ray"),
        (["--policy", "nowhere.toml"], "nowhere.toml"),
        (["--trust", "nowhere.toml"], "nowhere.toml"),
        (["--model", "nowhere.pt"], "nowhere.pt"),
        (["--input", "data"], "NAME=PATH"),
    ],
)
def test_wrong_options_are_usage_errors(
    command: Command, sealed: Built, words: list[str], named: str
) -> None:
    said = command("verify", sealed.run.path, *words)
    assert said.code == 2
    assert named in said.last
    as_json = command("verify", sealed.run.path, *words, "--json")
    assert as_json.json["error"]


def test_policy_file_is_used(command: Command, sealed: Built, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[structure]\nevery = 3\n")
    report = command("verify", sealed.run.path, "--no-replay", "--policy", policy, "--json").json
    assert report["policy"] == parse_policy(policy.read_text()).digest().hex()
    assert "above the policy" in report["first_bad"]["detail"]


def test_verifying_loads_no_torch(sealed: Built) -> None:
    script = (
        "import sys\n"
        "from polledger.cli.app import main\n"
        "try:\n"
        f"    main(['verify', {str(sealed.run.path)!r}, '--sample', '2', '--quiet'])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 3, ended.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Who vouches for code

TASK = b"class T(Task):\n    pass\n"


def source_of(built: Built, files: dict[str, bytes], *, entry: str = "task.py", **changes: Any) -> Genesis:
    """Store a source manifest for ``built``; returns a genesis that commits to it."""
    values: dict[str, Any] = {
        "v": 1,
        "entry": entry,
        "class_name": "T",
        "lines": 2,
        "files": [
            SourceFile(path=path, executable=False, size=len(data), digest=built.run.objects.put(data))
            for path, data in sorted(files.items())
        ],
        "distributions": [],
    }
    digest = built.run.objects.put(encode(TaskSource(**{**values, **changes})))
    genesis = msgspec.structs.replace(built.records[0], task=digest)
    assert isinstance(genesis, Genesis)
    return genesis


def decision(built: Built, genesis: Genesis, options: CodeOptions, policy: Policy | None = None) -> Any:
    source = code.read_source(built.run, genesis.task)
    committed = code.committed_source(built.run, source)
    return decide(built.run, genesis, committed, source, options, policy or Policy())


def test_unvouched_code_does_not_run_and_the_way_out_is_named(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    found = load_code(copied.run, genesis, CodeOptions(), Policy())
    assert found.engines is None
    assert found.finding is not None
    assert found.finding.detail.startswith("replay would run your code: the committed source is ")
    assert f"--trust-code {genesis.task.hex()}" in (found.finding.remedy or "")
    (here / "task.py").write_bytes(TASK)
    local = load_code(copied.run, genesis, CodeOptions(), Policy()).finding
    assert local is not None
    assert local.detail == "replay would run your code: ./task.py has the committed digest"
    assert local.remedy == f"run `polledger verify {copied.run.path} --task ./task.py`"


def test_a_local_file_with_other_bytes_is_not_offered(copied: Built, here: Path) -> None:
    (here / "task.py").write_bytes(TASK + b"#")
    found = load_code(copied.run, source_of(copied, {"task.py": TASK}), CodeOptions(), Policy()).finding
    assert found is not None
    assert "--trust-code" in (found.remedy or "")


def test_the_task_option_needs_the_committed_bytes(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    (here / "task.py").write_bytes(TASK)
    good = decision(copied, genesis, CodeOptions(tasks=("task.py",)))
    assert (good.vouched, good.files, good.problem) == ("--task", {"task.py": TASK}, "")
    (here / "task.py").write_bytes(TASK + b"#")
    bad = decision(copied, genesis, CodeOptions(tasks=("task.py",)))
    assert bad.vouched == ""
    assert "task.py differs" in bad.problem
    with pytest.raises(UsageError):
        decision(copied, genesis, CodeOptions(tasks=("nowhere.py",)))


def test_trust_code_runs_the_committed_source_of_that_digest_only(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    found = decision(copied, genesis, CodeOptions(trusted=(genesis.task.hex().upper(),)))
    assert (found.vouched, found.files) == ("--trust-code", {"task.py": TASK})
    with pytest.raises(UsageError, match="commits to"):
        decision(copied, genesis, CodeOptions(trusted=("00" * 32,)))


@pytest.mark.parametrize("loss", ["missing", "damaged"])
@pytest.mark.parametrize("vouched", ["--task", "polledger"])
def test_committed_source_that_is_lost_is_a_finding_whoever_has_a_copy(
    copied: Built, here: Path, vouched: str, loss: str
) -> None:
    (here / "task.py").write_bytes(TASK)
    own = vouched == "polledger"
    genesis = own_source(copied) if own else source_of(copied, {"task.py": TASK})
    options = CodeOptions(tasks=() if own else ("task.py",))
    whole = load_code(copied.run, genesis, options, Policy())
    assert (whole.summary["vouched"], whole.finding, whole.own) == (vouched, None, own)
    digest = code.read_source(copied.run, genesis.task).files[0].digest
    path = copied.run.objects.path(digest)
    path.unlink() if loss == "missing" else path.write_bytes(b"x")
    found = load_code(copied.run, genesis, options, Policy())
    assert found.engines is not None
    assert found.finding is not None
    assert (found.finding.step, found.finding.name, found.finding.blocks) == (7, "code", True)
    assert digest.hex() in found.finding.detail
    assert loss in found.finding.detail
    assert found.finding.remedy == "restore the object from a copy"


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("class T(Task): ...", ["T"]),
        ("class T(polledger.Task): ...\nclass Net(nn.Module): ...\nclass Data: ...", ["T"]),
        ("class A(Task): ...\nclass T(Task): ...", ["A", "T"]),
        ("class T(Task): ...\nclass A(T): ...", ["T", "A"]),
        ("class Base(Task): ...\nclass Middle(Base): ...\nclass T(Middle): ...", ["Base", "Middle", "T"]),
        ("from polledger import Task as Work\nclass A(Work): ...\nclass T(Task): ...", ["A", "T"]),
        ("class T(Base): ...\nclass Net(nn.Module): ...", ["T"]),
        ("class T(Base): ...\nclass A(Base[int]): ...", ["T", "A"]),
        ("class T(Base): ...\nclass A(Task): ...", ["T", "A"]),
        ("class A(Task): ...\nT = type('T', (A,), {})", ["A"]),
        ("if True:\n    class T(Task): ...", []),
        ("class T(T): ...", []),
        ("class broken(:", []),
    ],
)
def test_classes_that_may_be_the_task_are_found_in_the_text(text: str, tasks: list[str]) -> None:
    assert reading.possible_tasks(text.encode(), "T") == tasks


def lying_here(built: Built, here: Path, text: bytes) -> Genesis:
    """Genesis of a run of ``text``, which lies in the working directory as task.py."""
    (here / "task.py").write_bytes(text)
    return source_of(built, {"task.py": text})


def test_a_file_with_several_tasks_leaves_no_choice_to_the_run(copied: Built, here: Path) -> None:
    genesis = lying_here(copied, here, b"class A(Task): ...\nclass T(A): ...\n")
    with pytest.raises(UsageError, match="task.py defines A and T: name one, as in task.py:A$"):
        load_code(copied.run, genesis, CodeOptions(tasks=("task.py",)), Policy())
    assert load_code(copied.run, genesis, CodeOptions(tasks=("task.py:T",)), Policy()).engines is not None
    other = load_code(copied.run, genesis, CodeOptions(tasks=("task.py:A",)), Policy())
    assert other.engines is None
    offered = load_code(copied.run, genesis, CodeOptions(), Policy()).finding
    assert offered is not None
    assert offered.remedy == f"run `polledger verify {copied.run.path} --task ./task.py:T`"


def test_a_file_that_does_not_show_its_task_needs_the_name(copied: Built, here: Path) -> None:
    genesis = lying_here(copied, here, b"class A(Task): ...\nT = type('T', (A,), {})\n")
    with pytest.raises(UsageError, match="name it, as in task.py:T$"):
        load_code(copied.run, genesis, CodeOptions(tasks=("task.py",)), Policy())


@pytest.mark.parametrize("is_here", [True, False])
def test_nobody_is_asked_to_run_source_that_is_lost(
    copied: Built, here: Path, monkeypatch: pytest.MonkeyPatch, is_here: bool
) -> None:
    genesis = lying_here(copied, here, TASK) if is_here else source_of(copied, {"task.py": TASK})
    copied.run.objects.path(sha256(TASK)).unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    found = decision(copied, genesis, CodeOptions(ask=True))
    assert (found.vouched, found.files) == ("", None)
    assert (sha256(TASK).hex() in found.problem) is not is_here
    if is_here:
        assert found.remedy == f"run `polledger verify {copied.run.path} --task ./task.py`"
    else:
        assert found.remedy == "restore the object from a copy"


def test_damaged_committed_source_does_not_run(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    copied.run.objects.path(sha256(TASK)).write_bytes(b"import os")
    found = decision(copied, genesis, CodeOptions(trusted=(genesis.task.hex(),)))
    assert (found.vouched, found.files) == ("", None)
    assert sha256(TASK).hex() in found.problem


def test_policy_can_vouch_for_a_digest(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    policy = parse_policy(f'[code]\ntrusted = ["{genesis.task.hex()}"]')
    assert decision(copied, genesis, CodeOptions(), policy).vouched == "policy"
    other = parse_policy(f'[code]\ntrusted = ["{"00" * 32}"]')
    assert decision(copied, genesis, CodeOptions(), other).vouched == ""


def own_source(built: Built, **changes: bytes) -> Genesis:
    path = "polledger/examples/digits.py"
    files = {path: changes.get("digits", (OWN_ROOT / path).read_bytes())}
    return source_of(built, files, entry=path, module="polledger.examples.digits", class_name="Digits")


def test_polledgers_own_module_runs_when_it_is_the_committed_one(copied: Built, here: Path) -> None:
    found = decision(copied, own_source(copied), CodeOptions())
    assert (found.vouched, found.files) == ("polledger", None)
    changed = decision(copied, own_source(copied, digits=b"import os"), CodeOptions())
    assert changed.vouched == ""
    assert "digits.py differs" in changed.problem


@pytest.mark.parametrize(
    ("module", "own"),
    [(UNSET, False), ("polledger.examples.digits", True), ("polledgerx.task", False), ("mine.task", False)],
)
def test_only_modules_inside_polledger_are_its_own(copied: Built, module: Any, own: bool) -> None:
    entry = "task.py" if module is UNSET else module.replace(".", "/") + ".py"
    genesis = source_of(copied, {entry: TASK}, entry=entry, module=module)
    assert is_own(code.read_source(copied.run, genesis.task)) == own


@pytest.mark.parametrize(
    ("answer", "runs"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_on_a_terminal_the_user_is_asked(
    copied: Built,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    runs: bool,
) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    found = decision(copied, genesis, CodeOptions(ask=True))
    assert (found.vouched == "asked") == runs
    assert (found.files is not None) == runs
    assert capsys.readouterr().err.splitlines()[-1].startswith("run T in an isolated process? [y/N]")


def test_a_plain_loop_is_never_replayed(copied: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    source = code.read_source(copied.run, genesis.task)
    monkeypatch.setattr(code, "PLAIN_LOOP", source.class_name)
    found = load_code(copied.run, genesis, CodeOptions(trusted=(genesis.task.hex(),)), Policy())
    assert found.engines is None
    assert found.finding is not None
    assert "plain loop" in found.finding.detail


def test_summary_says_kind_digest_lines_and_who_vouches(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK})
    found = load_code(copied.run, genesis, CodeOptions(trusted=(genesis.task.hex(),)), Policy())
    assert found.summary == {
        "kind": "recipe",
        "digest": genesis.task.hex(),
        "class": "T",
        "lines": 2,
        "entry": "task.py",
        "files": 1,
        "sources": [{"path": "task.py", "size": len(TASK), "sha256": hashlib.sha256(TASK).hexdigest()}],
        "vouched": "--trust-code",
    }
    assert found.engines is not None


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ("inputs = {'data': None}", {"data"}),
        ("inputs: dict = {'text': None, 'more': 'x'}", {"text", "more"}),
        ("inputs = {}", set()),
        ("inputs = {**BASE, 'data': None}", None),
        ("inputs = {NAME: None}", None),
        ("inputs = dict(data=None)", None),
        ("pass", None),
    ],
)
def test_an_input_the_task_does_not_have_is_a_usage_error(
    copied: Built, here: Path, body: str, known: set[str] | None
) -> None:
    genesis = source_of(copied, {"task.py": f"class T:\n    {body}\n".encode()})
    for name in ("data", "text", "other"):
        options = CodeOptions(trusted=(genesis.task.hex(),), inputs={name: "/x"})
        if known is None or name in known:
            assert load_code(copied.run, genesis, options, Policy()).engines is not None
        else:
            with pytest.raises(UsageError, match=f"--input {name}: T has no such input"):
                load_code(copied.run, genesis, options, Policy())


def test_lines_are_counted_not_believed(copied: Built, here: Path) -> None:
    genesis = source_of(copied, {"task.py": TASK + b"# one\n\nx = 1\n"}, lines=1)
    trusted = CodeOptions(trusted=(genesis.task.hex(),))
    assert load_code(copied.run, genesis, trusted, Policy()).summary["lines"] == 3
    source = code.read_source(copied.run, genesis.task)
    copied.run.objects.path(source.files[0].digest).unlink()
    assert load_code(copied.run, genesis, trusted, Policy()).summary["lines"] == 1


@pytest.mark.parametrize(
    ("name", "version", "differs"),
    [
        ("msgspec", importlib.metadata.version("msgspec"), ()),
        ("msgspec", "0.0.1", ("package msgspec",)),
        ("no-such-distribution", "1", ("package no-such-distribution",)),
        ("torch", "0.0.1", ()),  # the environment class names it
    ],
)
def test_packages_of_another_version_make_another_class(
    copied: Built, here: Path, name: str, version: str, differs: tuple[str, ...]
) -> None:
    listed = [Distribution(name=name, version=version)]
    genesis = source_of(copied, {"task.py": TASK}, distributions=listed)
    found = load_code(copied.run, genesis, CodeOptions(trusted=(genesis.task.hex(),)), Policy())
    assert found.packages == differs


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        (b"class T:\n    pass\n", False),
        (b"class T:\n    inputs = {'data': None}\n", True),
        (b"class T:\n    inputs: dict = {}\n", True),
        (b"def f(self):\n    return self.inputs\n", True),
        (b"inputs, labels = batch\n", False),
        (b"def broken(:\n", True),
    ],
)
def test_inputs_are_found_in_the_source(copied: Built, text: bytes, declared: bool) -> None:
    source = code.read_source(copied.run, source_of(copied, {"task.py": text}).task)
    assert reading.declares_inputs(TaskProgram(source=source, files={"task.py": text})) == declared
    assert reading.declares_inputs(TaskProgram(source=source, files={}))


@pytest.mark.parametrize(
    "body", ["def step(self, state, batch): ...", "batch = None", "async def build(self): ..."]
)
def test_a_recipe_that_overrides_its_step_does_not_run(copied: Built, here: Path, body: str) -> None:
    genesis = source_of(copied, {"task.py": f"class T:\n    {body}\n".encode()})
    options = CodeOptions(trusted=(genesis.task.hex(),))
    found = load_code(copied.run, genesis, options, Policy())
    assert found.engines is None
    assert found.finding is not None
    assert "calls the task a recipe" in found.finding.detail
    custom = msgspec.structs.replace(genesis, kind="custom")
    assert load_code(copied.run, custom, options, Policy()).engines is not None


def test_other_classes_may_define_step(copied: Built, here: Path) -> None:
    text = b"class Other:\n    def step(self): ...\nclass T:\n    def loss(self): ...\n"
    genesis = source_of(copied, {"task.py": text})
    found = load_code(copied.run, genesis, CodeOptions(trusted=(genesis.task.hex(),)), Policy())
    assert found.engines is not None


def test_inputs_of_polledgers_own_modules_are_read_from_their_files(copied: Built) -> None:
    source = code.read_source(copied.run, own_source(copied).task)
    assert not reading.declares_inputs(TaskProgram(source=source, files=None))


def test_report_prints_failures_with_place_and_values() -> None:
    from rich.console import Console

    from polledger.cli.reporting import report_text
    from polledger.core.opened import Odds, Sample
    from polledger.core.report import Finding
    from polledger.core.tolerance import Distances, GroupMeasure, Rules, judge_group

    measure = GroupMeasure(name="model/parameters", exact=False, strict_equal=True, e=0.7, u=1.0, nu=0.001)
    judged = judge_group(measure, rules=Rules(), confirmed=False)
    apart = Distances(l1=1.0, l2=0.5, linf=0.1, cosine=0.0, worst="model/w", reference=8.0)
    interval = IntervalResult(
        interval=3,
        first=8,
        last=12,
        outcome="fail",
        exact=False,
        groups=(judged,),
        distances={"model/parameters": apart},
    )
    bad = Finding(
        step=9,
        name="replay",
        outcome="fail",
        detail="steps differ",
        record=20,
        interval=3,
        expected="e1",
        found="f1",
    )
    report = Report(
        run="ab",
        head={"size": 5, "seal": 1, "root": "", "digest": ""},
        findings=(bad,),
        intervals=(interval, *(replace(interval, interval=i) for i in range(4, 60))),
        sample=Sample(nonce=b"n", total=80, drawn=57, intervals=tuple(range(3, 60))),
        odds=(Odds(label="one", bogus=1, detection=0.1, needed=79),),
        comparison="tolerance",
        environment={"differences": ["threads"]},
        code={"kind": "custom", "class": "Mine", "digest": "ab" * 32, "lines": 120, "vouched": "--task"},
        timing={"noise_seconds": 3.21, "noise_replays": 10, "opened_seconds": 29.0},
    )
    text = report_text(report, Console(width=200, file=io.StringIO()))
    assert not any(line.endswith(" ") for line in text.splitlines())
    for part in (
        "record 20, interval 3: steps differ",
        "expected e1, found f1",
        "model/parameters",
        "0.7",
        "custom Mine, 120 lines",
        "another environment (threads)",
        "10 noise replays took 3.2 s",
        "57 intervals in 29.0 s, 0.51 s each on average",
        "e/d_ref",
        "0.062",
        "57 of 80 intervals were drawn",
        "with probability 0.9",
        "17 more",
    ):
        assert part in text, part


def test_markup_in_hostile_text_is_printed_as_it_is() -> None:
    from rich.console import Console

    from polledger.cli.reporting import report_text
    from polledger.core.report import Finding, Report

    bad = Finding(step=1, name="parse", outcome="unverifiable", detail="[red]x[/red] [/]", remedy="[b]r[/b]")
    report = Report(run=None, head=None, findings=(bad,))
    text = report_text(report, Console(width=200, file=io.StringIO()))
    assert "[red]x[/red] [/]" in text
    assert "[b]r[/b]" in text


HOSTILE = "x\x1b]0;title\x07\nVERIFIED: \x9b2J\u202e"


def test_report_shows_what_was_flagged_and_what_replay_said() -> None:
    from rich.console import Console

    from polledger.cli.reporting import FLAGS_SHOWN, report_text
    from polledger.core.reportwords import FLAG_REASONS

    result = IntervalResult(interval=3, first=8, last=12, outcome="pass", exact=True)
    bad = replace(result, interval=4, outcome="fail")
    flag = Flag(kind="pace", first=3, last=9, group="model/parameters", value=3.0, limit=2.0, whole=False)
    flags = [
        flag,
        replace(flag, kind="jump", first=3, last=3, value=math.inf),
        replace(flag, kind="alone", first=7, last=7, group="", value=2.0, limit=4.0),
        *(replace(flag, kind="optimizer", first=i, last=i, group="\x1b[31m") for i in range(20)),
    ]
    report = Report(
        run="ab",
        head=None,
        findings=(),
        intervals=(result, bad),
        screening={"flags": [item.to_json() for item in flags]},
    )
    lines = report_text(report, Console(width=200, file=io.StringIO())).splitlines()
    shown = [line.split() for line in lines if any(reason in line for reason in FLAG_REASONS.values())]
    assert len(shown) == FLAGS_SHOWN
    assert shown[0][:5] + shown[0][-2:] == ["3-9", "2", "of", "7", "fail", "model/parameters", "1.5"]
    assert shown[1][:5] + shown[1][-1:] == ["3", "1", "of", "1", "pass", "inf"]
    assert shown[2][:5] == ["7", "0", "of", "1", "-"]
    assert any(f"{len(flags) - FLAGS_SHOWN} more" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_no_value_in_a_report_acts_on_the_terminal() -> None:
    from rich.console import Console

    from polledger.cli.reporting import report_text
    from polledger.core.report import Finding, Report
    from polledger.core.timesummary import TimeSummary
    from polledger.core.tolerance import GroupMeasure, Rules, judge_group

    measure = GroupMeasure(name=HOSTILE, exact=False, strict_equal=True, e=0.7, u=1.0, nu=0.001)
    judged = judge_group(measure, rules=Rules(), confirmed=False)
    said = {"detail": HOSTILE, "expected": HOSTILE, "found": HOSTILE, "remedy": HOSTILE}
    report = Report(
        run=HOSTILE,
        head={"size": HOSTILE, "seal": HOSTILE},
        findings=(Finding(step=9, name=HOSTILE, outcome="fail", **said),),
        intervals=(
            IntervalResult(interval=3, first=8, last=12, outcome="fail", exact=False, groups=(judged,)),
        ),
        time=TimeSummary(first=HOSTILE, last=HOSTILE),
        code={"kind": HOSTILE, "class": HOSTILE, "digest": HOSTILE, "lines": HOSTILE, "vouched": HOSTILE},
        comparison="tolerance",
        environment={"differences": [HOSTILE]},
    )
    text = report_text(report, Console(width=400, file=io.StringIO()))
    assert text.replace("\n", "").isprintable()
    assert text.count("VERIFIED: ") == 15  # of the code's digest only the beginning is shown
    assert not any(line.lstrip().startswith("VERIFIED") for line in text.splitlines())


def test_engine_factory_starts_only_the_first_engine_early(
    copied: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    class Engine:
        def __init__(self, context: Any) -> None:
            self.context = context

        def start(self) -> None:
            started.append(self.context.device)

    monkeypatch.setattr(code, "ReplayEngine", Engine)
    genesis = source_of(copied, {"task.py": TASK})
    make: Callable[..., Any] = code.Engines(
        program=TaskProgram(source=code.read_source(copied.run, genesis.task), files={}),
        genesis=genesis,
        inputs={"data": "/x"},
        warm=True,
        patience=5.0,
    )
    first, second = make(genesis.environment), make(genesis.environment)
    assert started == ["cpu"]
    assert first.context.seed == second.context.seed == copied.spec.s
    assert first.context.inputs == {"data": "/x"}
    assert first.context.patience == 5.0
    elsewhere = make(msgspec.structs.replace(genesis.environment, device="NVIDIA H100"))
    make.device = "cpu"  # type: ignore[attr-defined]
    given = make(msgspec.structs.replace(genesis.environment, device="NVIDIA H100"))
    assert (elsewhere.context.device, given.context.device) == ("cuda", "cpu")
