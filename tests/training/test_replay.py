"""The replay engine: real child processes, real task code, against a runner in this process."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from polledger.core.config import encode_config
from polledger.core.replay import IsolationReport, OpenedBatch, ReplayFailed, ReplayJob, Variant
from polledger.core.source import SourceFile, TaskSource
from polledger.core.state import EncodedState, encode_state
from polledger.redteam.smuggling import PROGRAMS
from polledger.training import childprocess, replay, wire
from polledger.training.determinism import apply_environment, describe_environment
from polledger.training.location import load_task_class, resolve_task
from polledger.training.nest import encode_nest
from polledger.training.replay import ReplayContext, ReplayEngine, TaskProgram, read_model
from polledger.training.runner import Runner
from polledger.training.task import prepare_task

TASKS = Path(__file__).resolve().parents[1] / "e2e" / "tasks"
SEED = 0xFEDCBA9876543210

LOOKED = ("files", "told", "objects", "memory", "network")
"""What spoof 20 says it found, by kind of place."""

BROKEN = """import torch
from polledger import Task
class Broken(Task):
    config = {{'steps': 1, 'batch_size': 1}}
    def build(self):
        {code}
        return {{'model': torch.nn.Linear(1, 1)}}
    def step(self, state, batch):
        return {{}}
"""

CLAIMING = """from polledger.training import wire
plain = wire.Ready
def claim(**values):
    return plain(**{**values, **{name: True for name in ("files", "network") if name in values}})
wire.Ready = claim
"""

HALF_CLOSING = """import os, time
from polledger.training import determinism, wire
# Descriptors 3 and 4 are the pipes: requests, replies.
os.close(3)
with os.fdopen(4, "wb", closefd=False) as replies:
    for _ in range(2):
        wire.write_message(replies, wire.Ready(v=1, environment=determinism.describe_environment()))
time.sleep(600)
"""

LISTING = """import os, torch
from polledger import Task
class Listing(Task):
    config = {'steps': 1}
    inputs = {'data': None}
    def batch(self, n):
        return torch.tensor(len(os.listdir(self.inputs['data'])))
    def build(self):
        return {'model': torch.nn.Linear(1, 1)}
    def step(self, state, batch):
        return {}
"""

COUNTING = """import torch
from polledger import Task
class Counting(Task):
    config = {'steps': 3, 'batch_size': 1}
    calls = 0
    def dataset(self):
        return [torch.ones(1)]
    def build(self):
        return {'model': torch.nn.Linear(1, 1)}
    def step(self, state, batch):
        self.calls += 1
        return {'calls': self.calls}
"""

SCRIBBLE = (
    "import os, fcntl; [os.write(int(n), b'\\xff' * 64) for n in os.listdir('/proc/self/fd')"
    " if int(n) > 2 and os.path.exists(f'/proc/self/fd/{n}') and fcntl.fcntl(int(n), fcntl.F_GETFL) & 3 == 1]"
)
"""Writes rubbish into every descriptor that is open for writing."""


def context(path: Path, class_name: str, config: Mapping[str, Any]) -> ReplayContext:
    """What a verifier would hand to the engine for the task in ``path``."""
    data = path.read_bytes()
    file = SourceFile(path=path.name, executable=False, size=len(data), digest=hashlib.sha256(data).digest())
    source = TaskSource(v=1, entry=path.name, class_name=class_name, lines=1, files=[file], distributions=[])
    return ReplayContext(
        program=TaskProgram(source=source, files={path.name: data}),
        config=encode_config(config),
        seed=SEED,
        device="cpu",
        environment=describe_environment("cpu"),
    )


def runner_of(path: Path, class_name: str, **config: Any) -> Runner:
    task = load_task_class(resolve_task(f"{path}:{class_name}"))
    return Runner(prepare_task(task, config=config, seed=SEED), seed=SEED)


def frozen(state: EncodedState) -> tuple[bytes, bytes]:
    """Root and file, copied out of live tensors."""
    return state.root, b"".join(bytes(part) for part in state.chunks())


@pytest.fixture(scope="module")
def trained() -> tuple[Runner, dict[int, tuple[bytes, bytes]]]:
    """The kitchen sink task after 6 steps, with its states at 0, 3 and 6."""
    runner = runner_of(TASKS / "kitchen_sink.py", "KitchenSink")
    runner.build()
    states = {0: frozen(encode_state(runner.flatten()))}
    for step in range(6):
        runner.step(step, runner.batch(step))
        states[step + 1] = frozen(encode_state(runner.flatten()))
    return runner, states


@pytest.fixture(scope="module")
def engine(trained: tuple[Runner, Any]) -> Iterator[ReplayEngine]:
    path = TASKS / "kitchen_sink.py"
    # The recorder runs with pinned switches; so does this process, that bits can be equal.
    environment = describe_environment("cpu")
    apply_environment(environment)
    with ReplayEngine(context(path, "KitchenSink", trained[0].task.config)) as made:
        made.start()
        yield made


def opened(runner: Runner, engine: ReplayEngine, first: int, last: int) -> tuple[OpenedBatch, ...]:
    return tuple(engine.open_batches([(step, runner.batch_indices(step)) for step in range(first, last)]))


def test_the_child_is_of_this_polledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "checkout" / "polledger"
    shutil.copytree(
        Path(childprocess.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(childprocess, "__file__", str(copy / "training" / "childprocess.py"))
    path = tmp_path / "broken.py"
    path.write_text(BROKEN.format(code="import polledger; raise ValueError(polledger.__file__)"))
    broken = context(path, "Broken", {"steps": 1, "batch_size": 1})
    with ReplayEngine(broken) as engine, pytest.raises(ReplayFailed, match=str(copy)):
        engine.rebuild()


def test_config_that_genesis_leaves_out_is_not_made_up(trained: Any) -> None:
    config = dict(trained[0].task.config)
    del config["lr"]
    with (
        ReplayEngine(context(TASKS / "kitchen_sink.py", "KitchenSink", config)) as engine,
        pytest.raises(ReplayFailed, match="genesis leaves out 'lr'"),
    ):
        engine.rebuild()


def test_what_one_interval_leaves_on_the_task_is_gone_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    runner = runner_of(path, "Counting")
    runner.build()
    root, start = frozen(encode_state(runner.flatten()))
    with ReplayEngine(context(path, "Counting", runner.task.config)) as engine:
        batches = opened(runner, engine, 0, 1)
        job = ReplayJob(start=start, root=root, first_step=0, last_step=1, batches=batches)
        assert [engine.replay(job).steps[0].metrics["calls"] for _ in range(3)] == [1.0] * 3


def test_rebuild_gives_the_first_state(trained: Any, engine: ReplayEngine) -> None:
    runner, states = trained
    rebuilt = engine.rebuild()
    assert rebuilt.state == states[0][1]
    assert list(rebuilt.objects) == runner.describe()


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 3), (3, 6)])
def test_replay_gives_the_next_state_bit_for_bit(
    trained: Any, engine: ReplayEngine, first: int, last: int
) -> None:
    runner, states = trained
    root, start = states[first]
    job = ReplayJob(
        start=start, root=root, first_step=first, last_step=last, batches=opened(runner, engine, first, last)
    )
    outcome = engine.replay(job)
    assert outcome.state == states[last][1]
    assert [step.step for step in outcome.steps] == list(range(first, last))
    wanted = b"".join(bytes(part) for part in encode_nest(runner.batch(first)))
    assert outcome.steps[0].batch == wanted


def test_every_step_says_whether_it_drew(trained: Any, engine: ReplayEngine, tmp_path: Path) -> None:
    runner, states = trained
    batches = opened(runner, engine, 0, 1)
    job = ReplayJob(start=states[0][1], root=states[0][0], first_step=0, last_step=1, batches=batches)
    assert engine.replay(job).steps[0].drew
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    plain = runner_of(path, "Counting")
    plain.build()
    root, start = frozen(encode_state(plain.flatten()))
    with ReplayEngine(context(path, "Counting", plain.task.config)) as other:
        job = ReplayJob(start=start, root=root, first_step=0, last_step=1, batches=opened(plain, other, 0, 1))
        assert not other.replay(job).steps[0].drew


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_looked_for_once(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = replace(
        context(TASKS / "kitchen_sink.py", "KitchenSink", trained[0].task.config),
        device="cuda",
        environment=msgspec.structs.replace(describe_environment("cpu"), device="NVIDIA H100"),
    )
    started = []
    spawn = replay.spawn
    monkeypatch.setattr(replay, "spawn", lambda *given: started.append(given) or spawn(*given))
    with ReplayEngine(recorded) as engine:
        for _ in range(3):
            with pytest.raises(
                ReplayFailed, match=r"no device cuda here, and NVIDIA H100 is what it was recorded"
            ):
                next(engine.open_batches([(0, [0])]))
    assert len(started) == 1


def test_replay_under_another_thread_count_says_so(trained: Any, engine: ReplayEngine) -> None:
    runner, states = trained
    job = ReplayJob(
        start=states[0][1], root=states[0][0], first_step=0, last_step=1, batches=opened(runner, engine, 0, 1)
    )
    threads = engine.rebuild().environment.threads + 1
    assert engine.replay(job, variant=Variant(threads=threads)).environment.threads == threads


def test_a_start_that_does_not_match_its_root_is_refused(trained: Any, engine: ReplayEngine) -> None:
    runner, states = trained
    job = ReplayJob(
        start=states[1][1], root=states[0][0], first_step=0, last_step=1, batches=opened(runner, engine, 0, 1)
    )
    with pytest.raises(ReplayFailed, match="root"):
        engine.replay(job)
    # The engine goes on with a fresh child.
    assert engine.rebuild().state == states[0][1]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no luck')", "no luck"),
        ("import os; os._exit(3)", "exit status 3"),
        ("import os; os.write(1, b'x' * 100); raise KeyError('k')", "KeyError"),
        (SCRIBBLE, "nonsense"),
    ],
    ids=["raises", "exits", "prints", "writes into the pipes"],
)
def test_task_code_that_fails_is_reported_not_believed(tmp_path: Path, code: str, reason: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN.format(code=code))
    broken = context(path, "Broken", {"steps": 1, "batch_size": 1})
    with ReplayEngine(broken) as engine, pytest.raises(ReplayFailed, match=reason):
        engine.rebuild()


NAP = "611.25"
"""Seconds that nothing else sleeps: names the processes that a task starts."""

FORK = f"import subprocess; subprocess.Popen(['sleep', '{NAP}'], start_new_session=True)"


def test_task_code_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN.format(code="import time; time.sleep(600)"))
    hanging = replace(context(path, "Broken", {"steps": 1, "batch_size": 1}), patience=20.0)
    with ReplayEngine(hanging) as engine, pytest.raises(ReplayFailed, match="no answer within 20 s"):
        engine.rebuild()


def test_what_task_code_starts_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN.format(code=FORK))
    with ReplayEngine(context(path, "Broken", {"steps": 1, "batch_size": 1})) as engine:
        engine.rebuild()
        # Popen returns once exec has closed its files, a moment before /proc has the new name.
        assert comes_true(napping)
        if not engine.isolation().network:
            pytest.skip("this kernel offers no namespaces")
    assert comes_true(lambda: not napping())


def comes_true(condition: Callable[[], object]) -> bool:
    """Whether a condition holds within a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def napping() -> int:
    """How many processes sleep for NAP."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes() == f"sleep\0{NAP}\0".encode()
        except OSError:
            continue
    return found


def test_task_code_can_signal_nobody_but_itself(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    code = "import os, signal; os.kill(os.getppid() or 1, 0); open('seen', 'w').write(str(os.getppid()))"
    path.write_text(BROKEN.format(code=code))
    with ReplayEngine(context(path, "Broken", {"steps": 1, "batch_size": 1})) as engine:
        engine.rebuild()
        if not engine.isolation().network:
            pytest.skip("this kernel offers no namespaces")
        (seen,) = (Path(child._directory.name) / "seen" for child in engine._children.values())
        # Number 0: the parent lies outside the namespace and has no number there.
        assert seen.read_text() == "0"


def start_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children start as on a system with neither Landlock nor namespaces."""
    bare = "; import polledger.training.child as child; from polledger.training.isolation import Isolation; "
    bare += "child.isolate = lambda **_: Isolation(files=False, network=False); main()"
    monkeypatch.setattr(childprocess, "_BOOT", childprocess._BOOT.replace("; main()", bare))


def test_a_child_that_takes_no_request_and_goes_on_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(HALF_CLOSING + BROKEN.format(code="pass"))
    start_bare(monkeypatch)
    halting = replace(context(path, "Broken", {"steps": 1, "batch_size": 1}), patience=20.0)
    with ReplayEngine(halting) as engine, pytest.raises(ReplayFailed, match="no answer within 20 s"):
        engine.rebuild()


def test_that_nothing_isolates_task_code_is_not_its_own_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(CLAIMING + BROKEN.format(code="pass"))
    start_bare(monkeypatch)
    with ReplayEngine(context(path, "Broken", {"steps": 1, "batch_size": 1})) as engine:
        engine.rebuild()
        assert engine.isolation() == IsolationReport(files=False, network=False)


def test_an_answer_far_beyond_its_size_is_refused(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, states = trained
    monkeypatch.setattr(replay, "STATE_SLACK", 0)
    with ReplayEngine(context(TASKS / "kitchen_sink.py", "KitchenSink", runner.task.config)) as engine:
        assert engine.rebuild(size=len(states[0][1])).state == states[0][1]
        with pytest.raises(ReplayFailed, match="nonsense: a frame of"):
            engine.rebuild(size=len(states[0][1]) // 2 - 1)


def test_what_does_not_fit_into_memory_was_not_replayed(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    with ReplayEngine(context(TASKS / "kitchen_sink.py", "KitchenSink", trained[0].task.config)) as engine:
        engine.rebuild()
        monkeypatch.setattr(wire, "read_frame", full)
        with pytest.raises(ReplayFailed, match="does not fit into memory"):
            engine.rebuild()


def test_task_code_finds_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = tmp_path / "run"
    path = tmp_path / "peek.py"
    path.write_text((PROGRAMS / "peek.py").read_text().replace('RUN = ""', f"RUN = {str(evidence)!r}"))
    monkeypatch.setenv("TMPDIR", str(evidence / "objects"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runner = runner_of(path, "Peek", steps=1, schedule="constant")
    runner.build()
    root, start = frozen(encode_state(runner.flatten()))
    (evidence / "objects" / "ab").mkdir(parents=True)
    (evidence / "objects" / "ab" / root.hex()[2:]).write_bytes(start)
    with ReplayEngine(context(path, "Peek", runner.task.config)) as engine:
        job = ReplayJob(
            start=start, root=root, first_step=0, last_step=1, batches=opened(runner, engine, 0, 1)
        )
        (step,) = engine.replay(job).steps
        if not engine.isolation().files:
            pytest.skip("this kernel does not enforce file isolation")
    # The task does look: with the evidence in reach, it finds it.
    here = runner.step(0, runner.batch(0))
    assert here["files"] > 0
    assert here["told"] > 0
    assert {name: step.metrics[name] for name in LOOKED} == dict.fromkeys(LOOKED, 0.0)


def test_model_file_is_read_without_running_it(tmp_path: Path) -> None:
    import torch

    from polledger.core.state import parse_state

    model = torch.nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    root, data = read_model(tmp_path / "model.pt")
    flat = parse_state(data, root=root)
    assert [tensor.path for tensor in flat.tensors] == ["model/bias", "model/weight"]


def test_model_file_with_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ReplayFailed, match=r"it holds more than tensors, .*: give the state_dict alone"):
        read_model(tmp_path / "model.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04", b"x" * 5000])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_file_that_is_no_model_is_refused_in_words(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ReplayFailed, match="give the state_dict alone"):
        read_model(tmp_path / name)


def test_paths_need_not_be_normal_text(tmp_path: Path) -> None:
    import torch

    # How another system spells é, and a byte that is no UTF-8 at all.
    directory = tmp_path / os.fsdecode(b"e\xcc\x81\xff")
    directory.mkdir()
    torch.save(torch.nn.Linear(1, 1).state_dict(), directory / "model.pt")
    assert read_model(directory / "model.pt")[1]
    broken = replace_inputs(tmp_path, {"data": str(directory)})
    with ReplayEngine(broken) as engine:
        assert list(engine.open_batches([(0, None)]))


def replace_inputs(tmp_path: Path, inputs: dict[str, str]) -> ReplayContext:
    """A task whose batch is the number of files in its input."""
    path = tmp_path / "listing.py"
    path.write_text(LISTING)
    return replace(context(path, "Listing", {"steps": 1}), inputs=inputs)


def test_an_engine_that_was_closed_begins_no_process(trained: Any) -> None:
    runner, path = trained[0], TASKS / "kitchen_sink.py"
    engine = ReplayEngine(context(path, "KitchenSink", runner.task.config))
    engine.close()
    with pytest.raises(ReplayFailed, match="replaying was ended"):
        engine.rebuild()
    assert not engine._children
    engine.close()
