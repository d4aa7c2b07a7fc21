"""Sealing a real training: what is recorded, when it is sealed, and how it goes on after an interruption."""

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from polledger.core.config import decode_config
from polledger.core.encoding import real
from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.records import Checkpoint, Final, Genesis, Resume, Step
from polledger.core.schedule import hyperparameters
from polledger.core.seeds import training_seed
from polledger.core.source import parse_source
from polledger.core.state import parse_state
from polledger.errors import Unavailable, UsageError
from polledger.keys import create_key, load_or_create_key, public_key
from polledger.store.packed import plain_size
from polledger.store.run import RunDirectory
from polledger.training.keeping import Auto
from polledger.training.plan import SealResult, TaskFailed
from tests.training.sealing import (
    SMALL,
    Listener,
    check_seals,
    of_type,
    records_of,
    seal_task,
)

pytestmark = pytest.mark.usefixtures("own_home", "switches")

OPTIONS = {"every": 4, "warm": 2, "seal_every": 3}

GROWING = """import torch
from polledger import Task
class Growing(Task):
    config = {"steps": 8, "batch_size": 2}
    def dataset(self):
        return [torch.ones(2)] * 8
    def build(self):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        return {"model": model, "optimizer": torch.optim.SGD(model[1].parameters(), lr=0.1)}
    def step(self, state, batch):
        if self.step_number == 3:
            state["optimizer"].add_param_group({"params": list(state["model"][0].parameters())})
        state["model"](batch).sum().backward()
        state["optimizer"].step()
"""


@pytest.fixture(scope="module")
def small(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SealResult, Listener]:
    """A finished run of the small task; copy it before changing it."""
    run, listener = tmp_path_factory.mktemp("small") / "run", Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLLEDGER_HOME", str(home))
        result = seal_task(SMALL, run, listener, **OPTIONS)
    return run, result, listener


@pytest.fixture
def run(small: tuple[Path, SealResult, Listener]) -> Path:
    return small[0]


class Stopping(Listener):
    """Asks the session to stop after a step, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def step(self, done: int, total: int, metrics: object) -> None:
        if done == self.after:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def half(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task and a run of it that was stopped after step 6."""
    base = tmp_path_factory.mktemp("half")
    shutil.copy(SMALL, base / "small.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLLEDGER_HOME", str(home))
        seal_task(base / "small.py", base / "run", Stopping(6), **OPTIONS)
    return base


class TestRecords:
    def test_every_step_and_checkpoint_is_on_record_in_order(self, run: Path) -> None:
        records = records_of(run)
        assert [record.index for record in records] == list(range(len(records)))
        assert [step.step for step in of_type(records, Step)] == list(range(24))
        assert [c.step for c in of_type(records, Checkpoint)] == [0, 1, 2, 4, 8, 12, 16, 20, 24]
        position = {c.step: c.index for c in of_type(records, Checkpoint)}
        for step in of_type(records, Step):
            assert position[0] < step.index
            if step.step + 1 in position:
                assert position[step.step + 1] == step.index + 1

    def test_genesis_says_what_was_fixed_in_advance(self, run: Path, home: Path) -> None:
        genesis = records_of(run)[0]
        assert isinstance(genesis, Genesis)
        key = public_key(load_or_create_key(home / "key.pem"))
        assert (genesis.key, genesis.bound, genesis.seed, genesis.kind) == (key, True, 0, "recipe")
        assert (genesis.every, genesis.warm, genesis.steps, genesis.origin) == (4, 2, 24, "scratch")
        assert decode_config(genesis.config)["width"] == 16
        assert [item.name for item in genesis.objects] == ["model", "optimizer"]
        assert [domain.field for domain in genesis.domains] == ["1"]

    def test_code_and_data_are_kept_under_what_genesis_commits_to(self, run: Path) -> None:
        genesis, objects = records_of(run)[0], RunDirectory.open(run).objects
        source = parse_source(objects.get(genesis.task, limit=1 << 20))
        assert objects.get(source.files[0].digest, limit=1 << 20) == SMALL.read_bytes()
        assert (source.entry, source.class_name) == ("small.py", "Small")
        assert {"torch", "polledger", "numpy"} <= {item.name for item in source.distributions}
        entries = bytes(objects.read(genesis.dataset.root, limit=1 << 20))
        leaves = [leaf_hash(entries[at : at + 32]) for at in range(0, len(entries), 32)]
        assert (len(leaves), tree_root(leaves)) == (96, genesis.dataset.root)

    def test_recorded_hyperparameters_are_the_schedules_and_only_changes_are_written(self, run: Path) -> None:
        records = records_of(run)
        config = decode_config(records[0].config)
        in_force: dict[str, object] = {}
        steps = of_type(records, Step)
        for step in steps:
            for group in step.groups or ():
                in_force.update(group.values)
            assert in_force["lr"] == real(hyperparameters(config, step.step)[0]["lr"])
        assert "weight_decay" in steps[0].groups[0].values
        assert set(steps[5].groups[0].values) == {"lr"}

    def test_every_stored_checkpoint_reads_back_to_its_root(self, run: Path) -> None:
        objects = RunDirectory.open(run).objects
        for record in of_type(records_of(run), Checkpoint):
            assert record.stored
            parse_state(objects.read(record.root, limit=1 << 24), root=record.root)

    def test_final_names_the_last_checkpoint_and_the_model(
        self, run: Path, small: tuple[Path, SealResult, Listener]
    ) -> None:
        records = records_of(run)
        final = records[-1]
        assert isinstance(final, Final)
        assert (final.object, final.steps) == ("model", 24)
        assert final.checkpoint == of_type(records, Checkpoint)[-1].index == final.index - 1
        assert final.model_root == small[1].model_root

    def test_seals_cover_genesis_first_and_everything_last(self, run: Path) -> None:
        heads = check_seals(run)
        # Genesis with checkpoint 0, then every third checkpoint, then the end.
        sizes = [head.size for head in heads]
        assert sizes[0] == 2
        assert sizes[-1] == len(records_of(run))
        assert len(sizes) == 4

    def test_every_head_has_a_token_of_the_embedded_authority(self, run: Path) -> None:
        directory = RunDirectory.open(run)
        for number in directory.seals():
            (token,) = directory.read_seal(number).tokens
            assert token.authority == "embedded"
            assert directory.objects.has(token.response)

    def test_replay_of_the_first_interval_found_nothing(
        self, small: tuple[Path, SealResult, Listener]
    ) -> None:
        assert small[2].warnings == []

    def test_directory_hides_its_secret(self, run: Path) -> None:
        assert (run / "private").stat().st_mode & 0o077 == 0
        assert (run / "private" / "secret").stat().st_mode & 0o077 == 0


def test_keep_stores_every_kth_the_warm_ones_and_the_last(tmp_path: Path) -> None:
    seal_task(SMALL, tmp_path / "run", every=4, warm=1, keep=3, settings=("steps=22",))
    records = records_of(tmp_path / "run")
    stored = {c.step: c.stored for c in of_type(records, Checkpoint)}
    assert stored == {0: True, 1: True, 4: False, 8: False, 12: True, 16: False, 20: False, 22: True}
    objects = RunDirectory.open(tmp_path / "run").objects
    for record in of_type(records, Checkpoint):
        assert objects.has(record.root) == record.stored
        if record.stored:
            data = objects.path(record.root).read_bytes()
            assert plain_size(data, len(data)) == objects.state_size(record.root)
            parse_state(objects.read_state(record.root, limit=1 << 24), root=record.root)


def test_where_every_state_is_stored_none_is_packed(run: Path) -> None:
    objects = RunDirectory.open(run).objects
    for record in of_type(records_of(run), Checkpoint):
        data = objects.path(record.root).read_bytes()
        assert plain_size(data, len(data)) is None


def test_a_run_with_packed_states_goes_on_from_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {"every": 4, "warm": 1, "keep": 2, "settings": ("steps=22",)}
    whole = seal_task(SMALL, tmp_path / "whole", **options)
    seal_task(SMALL, tmp_path / "run", Stopping(18), **options)
    resumed = seal_task(SMALL, tmp_path / "run", resume=True)
    assert resumed.trained < 22
    assert resumed.model_root == whole.model_root


def test_keep_auto_stores_what_fits_and_says_so(tmp_path: Path) -> None:
    options = {"every": 2, "warm": 1, "settings": ("steps=22",)}
    seal_task(SMALL, tmp_path / "all", **options)
    last = of_type(records_of(tmp_path / "all"), Checkpoint)[-1]
    size = RunDirectory.open(tmp_path / "all").objects.path(last.root).stat().st_size
    listener = Listener()
    seal_task(SMALL, tmp_path / "run", keep=Auto(budget=5 * size), listener=listener, **options)
    stored = [c.step for c in of_type(records_of(tmp_path / "run"), Checkpoint) if c.stored]
    assert stored == [0, 1, 8, 16, 22]
    assert any(phase.endswith("--keep 4") for phase in listener.phases)
    assert RunDirectory.open(tmp_path / "run").read_hints()["sealing"]["keep"] == "4"


def test_same_seed_and_key_give_the_same_model_and_another_seed_or_key_another(
    tmp_path: Path, small: tuple[Path, SealResult, Listener]
) -> None:
    other = tmp_path / "other.pem"
    create_key(other)
    again = seal_task(SMALL, tmp_path / "again", every=50, warm=0)
    seed = seal_task(SMALL, tmp_path / "seed", every=50, warm=0, seed=1)
    key = seal_task(SMALL, tmp_path / "key", every=50, warm=0, key=other)
    assert again.model_root == small[1].model_root
    assert len({again.model_root, seed.model_root, key.model_root}) == 3


def test_unbound_training_follows_from_the_seed_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    create_key(other)
    one = seal_task(SMALL, tmp_path / "one", every=50, warm=0, unbound=True)
    two = seal_task(SMALL, tmp_path / "two", every=50, warm=0, unbound=True, key=other)
    assert one.model_root == two.model_root
    assert records_of(tmp_path / "one")[0].bound is False
    assert training_seed(0, None) != training_seed(0, bytes(32))


class TestStopping:
    def test_ctrl_c_finishes_the_step_seals_and_resume_gives_the_same_model(
        self, tmp_path: Path, small: tuple[Path, SealResult, Listener]
    ) -> None:
        path = tmp_path / "run"
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        result = seal_task(SMALL, path, Stopping(11), **OPTIONS)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        assert (result.interrupted, result.steps, result.model_root) == (True, 11, None)
        assert check_seals(path)[-1].size == len(records_of(path))

        listener = Listener()
        resumed = seal_task(SMALL, path, listener, resume=True)
        assert (resumed.interrupted, resumed.steps, resumed.trained) == (False, 24, 16)
        assert resumed.model_root == small[1].model_root
        (record,) = of_type(records_of(path), Resume)
        source = records_of(path)[record.source]
        assert isinstance(source, Checkpoint)
        assert source.step == 8
        assert (record.first, record.last) == (source.index + 1, record.index - 1)
        assert record.reason == "ended after a seal"
        # No input names the files behind the data, so that nothing vouches for them: all are read again.
        assert "checking the data set" in listener.phases

        heads = check_seals(path)
        finished = seal_task(SMALL, path, resume=True)
        assert (finished.trained, finished.model_root) == (0, resumed.model_root)
        assert check_seals(path) == heads


class TestResumeRefuses:
    """A resumed run is the same run: one stopped run, copied for each thing that must not change."""

    @pytest.fixture
    def copy(self, half: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(half, tmp_path / "half"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"every": 5}, "--every 4: a resumed run keeps it"),
            ({"warm": 3}, "--warm 2"),
            ({"seed": 7}, "--seed 0"),
            ({"settings": ("lr=0.02",)}, "has 0.01 for 'lr'"),
            ({"settings": ("steps=30",)}, "has 24 for 'steps'"),
            ({"settings": ("clip=1.0",)}, "has no such key for 'clip'"),
            ({"unbound": True}, "bound to its key"),
        ],
    )
    def test_options_of_another_run(self, copy: Path, options: dict[str, object], message: str) -> None:
        before = (copy / "run" / "ledger.log").read_bytes()
        with pytest.raises(UsageError, match=message):
            seal_task(copy / "small.py", copy / "run", resume=True, **options)
        assert (copy / "run" / "ledger.log").read_bytes() == before

    def test_equal_options_are_no_obstacle(self, copy: Path) -> None:
        options = {"every": 4, "warm": 2, "seed": 0, "settings": ("lr=0.01",)}
        assert seal_task(copy / "small.py", copy / "run", resume=True, **options).steps == 24

    def test_changed_code(self, copy: Path) -> None:
        (copy / "small.py").write_text(SMALL.read_text() + "\n")
        with pytest.raises(UsageError, match=r"not what this run committed to: small\.py differs"):
            seal_task(copy / "small.py", copy / "run", resume=True)

    def test_another_task(self, copy: Path) -> None:
        (copy / "other.py").write_text(SMALL.read_text())
        with pytest.raises(UsageError, match=r"trains Small of small\.py: give that task"):
            seal_task(copy / "other.py", copy / "run", resume=True)

    def test_another_task_than_a_finished_runs(self, copy: Path) -> None:
        seal_task(copy / "small.py", copy / "run", resume=True)
        (copy / "other.py").write_text(SMALL.read_text())
        with pytest.raises(UsageError, match=r"trains Small of small\.py: give that task"):
            seal_task(copy / "other.py", copy / "run", resume=True)

    def test_another_key(self, copy: Path) -> None:
        create_key(copy / "other.pem")
        with pytest.raises(UsageError, match="another key"):
            seal_task(copy / "small.py", copy / "run", resume=True, key=copy / "other.pem")

    def test_changed_sealed_record(self, copy: Path) -> None:
        ledger = copy / "run" / "ledger.log"
        data = bytearray(ledger.read_bytes())
        data[200] ^= 1
        ledger.write_bytes(data)
        with pytest.raises(Unavailable, match="restore the file from a copy"):
            seal_task(copy / "small.py", copy / "run", resume=True)

    def test_no_intact_checkpoint(self, copy: Path) -> None:
        objects = RunDirectory.open(copy / "run").objects
        for record in of_type(records_of(copy / "run"), Checkpoint):
            objects.path(record.root).write_bytes(b"")
        with pytest.raises(Unavailable, match="no stored checkpoint"):
            seal_task(copy / "small.py", copy / "run", resume=True)

    def test_an_earlier_checkpoint_is_used_where_the_latest_is_damaged(self, copy: Path) -> None:
        objects = RunDirectory.open(copy / "run").objects
        last = of_type(records_of(copy / "run"), Checkpoint)[-1]
        path = objects.path(last.root)
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
        result = seal_task(copy / "small.py", copy / "run", resume=True)
        (resume,) = of_type(records_of(copy / "run"), Resume)
        assert records_of(copy / "run")[resume.source].step == 2
        assert result.steps == 24

    def test_existing_run_without_resume(self, copy: Path) -> None:
        with pytest.raises(UsageError, match="--resume"):
            seal_task(copy / "small.py", copy / "run")

    def test_run_in_use(self, copy: Path) -> None:
        with RunDirectory.open(copy / "run").lock(), pytest.raises(Unavailable, match="in use"):
            seal_task(copy / "small.py", copy / "run", resume=True)


class TestRefuses:
    def test_failing_step_is_named_and_what_was_done_is_sealed(self, tmp_path: Path) -> None:
        text = SMALL.read_text().replace(
            "time.sleep(PAUSE)\n        values,",
            "if self.step_number == 5:\n            raise ValueError('boom')\n        values,",
        )
        (tmp_path / "failing.py").write_text(text)
        with pytest.raises(TaskFailed, match=r"step 5 failed: ValueError: boom .failing\.py, line \d+"):
            seal_task(tmp_path / "failing.py", tmp_path / "run", **OPTIONS)
        assert of_type(records_of(tmp_path / "run"), Step)[-1].step == 4
        assert check_seals(tmp_path / "run")[-1].size == len(records_of(tmp_path / "run"))

    def test_directory_made_for_nothing_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text("raise ValueError('no')\n")
        with pytest.raises(UsageError, match=r"broken\.py does not load: ValueError: no"):
            seal_task(tmp_path / "broken.py", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_directory_with_other_things_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("work of years")
        with pytest.raises(UsageError, match="not empty"):
            seal_task(SMALL, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_run_that_another_process_has_just_begun_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create = RunDirectory.create

        def begun(path: Path) -> RunDirectory:
            other = create(path)
            locked.enter_context(other.lock())
            return create(path)

        monkeypatch.setattr(RunDirectory, "create", begun)
        with contextlib.ExitStack() as locked:
            with pytest.raises(Unavailable, match="in use by another process"):
                seal_task(SMALL, tmp_path / "run")
            assert (tmp_path / "run" / "private" / "secret").exists()


def test_resume_without_a_seal_says_that_it_begins_anew(tmp_path: Path) -> None:
    listener = Listener()
    result = seal_task(SMALL, tmp_path / "run", listener, resume=True, settings=("steps=2",))
    assert result.steps == 2
    assert any("begins anew" in said for said in listener.warnings)


def test_a_resumed_run_asks_the_authorities_it_was_begun_with(tmp_path: Path) -> None:
    path, url = tmp_path / "run", "http://user:word@127.0.0.1:9/tsa"
    seal_task(SMALL, path, Stopping(11), authorities=(url,), **OPTIONS)
    assert "word" not in (path / "run.toml").read_text()
    seal_task(SMALL, path, resume=True)
    directory = RunDirectory.open(path)
    assert all(not directory.read_seal(number).tokens for number in directory.seals())


def test_what_does_not_replay_is_stored_from_then_on(tmp_path: Path) -> None:
    text = SMALL.read_text().replace("noisy = values", "noisy = values * (1 + time.time_ns() % 997)")
    (tmp_path / "wild.py").write_text(text)
    seal_task(tmp_path / "wild.py", tmp_path / "run", keep=100, **OPTIONS)
    stored = {record.step: record.stored for record in of_type(records_of(tmp_path / "run"), Checkpoint)}
    assert set(stored.values()) == {True}


@pytest.mark.parametrize("change", ["values * (1 + time.time_ns() % 997)", "values + self.hidden()"])
def test_what_a_fresh_process_cannot_repeat_is_named_before_the_warm_steps_end(
    tmp_path: Path, change: str
) -> None:
    text = SMALL.read_text().replace("noisy = values", f"noisy = {change}")
    text += "\n    def hidden(self):\n        self.seen = getattr(self, 'seen', 0) + 1\n"
    text += "        return torch.arange(8) ** self.seen\n"
    (tmp_path / "hidden.py").write_text(text)
    listener = Listener()
    seal_task(tmp_path / "hidden.py", tmp_path / "run", listener, **OPTIONS)
    assert any("step 1 gave another state, first at model/0.bias" in said for said in listener.warnings)
    assert any("self.seen of the task" in said for said in listener.warnings) == ("hidden" in change)


def test_a_task_that_exits_in_a_step_has_failed_there(tmp_path: Path) -> None:
    text = SMALL.read_text().replace(
        "        noisy = ",
        "        if self.step_number == 5:\n            raise SystemExit('enough')\n        noisy = ",
    )
    (tmp_path / "exits.py").write_text(text)
    with pytest.raises(TaskFailed, match="step 5 failed: SystemExit: enough"):
        seal_task(tmp_path / "exits.py", tmp_path / "run", **OPTIONS)
    assert check_seals(tmp_path / "run")[-1].size == len(records_of(tmp_path / "run"))


def test_code_first_imported_by_a_step_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "aside_of_late.py").write_text("")
    text = SMALL.read_text().replace(
        "        noisy = ",
        "        if self.step_number == 5:\n            import aside_of_late\n        noisy = ",
    )
    (tmp_path / "late.py").write_text(text)
    listener = Listener()
    seal_task(tmp_path / "late.py", tmp_path / "run", listener, **OPTIONS)
    (said,) = listener.warnings
    assert f"{tmp_path / 'aside_of_late.py'} was first imported by a step" in said


def test_parameter_groups_added_on_the_way_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "growing.py").write_text(GROWING)
    listener = Listener()
    seal_task(tmp_path / "growing.py", tmp_path / "run", listener, **OPTIONS)
    assert any("parameter groups were added to 'optimizer'" in said for said in listener.warnings)


def test_authority_that_does_not_answer_costs_no_seal_and_leaves_a_queue(tmp_path: Path) -> None:
    result = seal_task(
        SMALL,
        tmp_path / "run",
        authorities=("http://127.0.0.1:9/tsa",),
        every=12,
        warm=0,
        settings=("steps=12",),
    )
    assert result.waiting == len(check_seals(tmp_path / "run")) == 2
    assert all(not RunDirectory.open(tmp_path / "run").read_seal(number).tokens for number in (0, 1))
