"""Continuing a run that was interrupted, at any moment and in any way. PROTOCOL sections 2 and 4.

What was sealed stays; records after the last head that are whole are kept and sealed later. Training goes
on from the latest checkpoint whose payload is intact, and everything after it is recorded as abandoned.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from polledger.core.config import decode_config
from polledger.core.records import AnyRecord, Checkpoint, Environment, Final, Genesis, Resume
from polledger.core.seeds import training_seed
from polledger.core.source import SOURCE_BYTES, TaskSource, parse_source
from polledger.core.state import FlatState, parse_state
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import read_bounded
from polledger.store.run import RunDirectory, hinted_origin
from polledger.training.dataset import data_identity, hash_dataset
from polledger.training.location import TaskLocation
from polledger.training.origin import STATE_LIMIT, check_resumed
from polledger.training.overrides import apply_settings, recipe_settings
from polledger.training.plan import Plan, SealOptions, SealResult, Setting
from polledger.training.recording import DEFAULT_SEAL_EVERY, Cadence, RunRecorder
from polledger.training.rehearsal import RunRequest
from polledger.training.sealer import Sealer
from polledger.training.source import verify_tree
from polledger.training.startup import (
    DEFAULT_DEVICE,
    build_runner,
    describe,
    open_batches,
    remember_data,
    stores_batches,
    write_hints,
)

if TYPE_CHECKING:
    from polledger.training.runner import Runner

_RECORD = msgspec.msgpack.Decoder(AnyRecord)
# Our own ledger: the tree's root has just been compared with a head under our own key.


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A run as it was left. ``final`` is set if it is finished; then everything is sealed."""

    sealer: Sealer
    genesis: Genesis
    records: Sequence[AnyRecord]
    final: Final | None


def reopen(setting: Setting) -> Found:
    """Check the run's end and open it for writing; a finished run is sealed to its end.

    Raises UsageError for another key, Unavailable for a ledger that does not match its seals.
    """
    opened = Sealer.reopen(setting.run, setting.key, stamp=setting.stamping.stamp)
    records = [_RECORD.decode(record) for record in opened.records]
    genesis = records[0]
    if not isinstance(genesis, Genesis):
        raise Unavailable(f"{setting.run.ledger_path}: record 0 is not genesis")
    sealer = opened.sealer
    setting.stamping.catch_up(opened.seal, opened.head)
    final = records[-1] if isinstance(records[-1], Final) else None
    if final is not None and sealer.sealed < sealer.size:
        # The payloads under it may never have reached the disk.
        source, _ = _latest_intact(setting.run, records, sealer.sealed)
        final = final if source.index == final.checkpoint else None
        if final is not None:
            sealer.seal()
    return Found(sealer=sealer, genesis=genesis, records=records, final=final)


def finished(setting: Setting, found: Found) -> SealResult:
    """The result for a run that had nothing left to do. Raises UsageError if it is another task's."""
    genesis, final = found.genesis, found.final
    _check_code(setting, genesis)
    return SealResult(
        run=setting.run.path,
        run_id=genesis.run,
        kind=genesis.kind,
        steps=genesis.steps,
        total=genesis.steps,
        trained=0,
        model_root=None if final is None else final.model_root,
        metrics={},
        interrupted=False,
        waiting=0,
        blocked=0.0,
        seconds=0.0,
        inputs=setting.options.inputs,
    )


def continue_run(setting: Setting, found: Found) -> Plan:
    """Bring the task into its latest intact state and record the interruption.

    Raises UsageError if options, code or data are not those of the run, Unavailable if no stored state is
    intact.
    """
    genesis, run = found.genesis, setting.run
    location = _check_code(setting, genesis)
    options = _with_hints(setting.options, run)
    request = RunRequest(
        location=location,
        settings=(),
        config=decode_config(genesis.config),
        inputs=dict(options.inputs),
        seed=training_seed(genesis.seed, genesis.key if genesis.bound else None),
        device=options.device or DEFAULT_DEVICE,
    )
    setting.watcher.phase("restoring the latest state")
    runner = build_runner(request)
    _check_data(setting, genesis, request, runner)
    source, state = _latest_intact(run, found.records, found.sealer.sealed)
    runner.load(state)
    size = sum(len(one.data) for one in state.tensors)
    recorder = _recorder(replace(setting, options=options), found, runner, state_bytes=size)
    recorder.resume(_resume_record(found, source, describe(request.device)), source)
    recorder.seal()
    write_hints(replace(setting, options=options), dict(options.inputs), keep=recorder.cadence.keep)
    return Plan(
        genesis=genesis,
        runner=runner,
        recorder=recorder,
        start=source.step,
        inputs=request.inputs,
        batches=open_batches(setting, request, runner, first=source.step, last=genesis.steps),
        first=None,
    )


def check_options(options: SealOptions, genesis: Genesis) -> None:
    """Raises UsageError for an option that would make another run than ``genesis`` commits to."""
    given = {"every": options.every, "warm": options.warm, "seed": options.seed}
    for name, value in given.items():
        recorded = getattr(genesis, name)
        if value is not None and value != recorded:
            raise UsageError(f"this run has --{name} {recorded}: a resumed run keeps it")
    if options.unbound and genesis.bound:
        raise UsageError("this run is bound to its key: a resumed run stays so, leave out --unbound")
    if options.terms is not None and options.terms != genesis.terms:
        raise UsageError("this run has other terms, or none: a resumed run keeps them, leave out --terms")
    check_resumed(options, genesis)
    config = decode_config(genesis.config)
    known = recipe_settings(config, options.settings) if genesis.kind == "recipe" else {}
    wanted = apply_settings(config, options.settings, known=known)
    changed = [name for name, value in wanted.items() if name not in config or config[name] != value]
    if changed:
        found = repr(config[changed[0]]) if changed[0] in config else "no such key"
        raise UsageError(f"this run has {found} for {changed[0]!r}: a resumed run keeps its config")


def _check_code(setting: Setting, genesis: Genesis) -> TaskLocation:
    """The task's place, once its files have the committed digests."""
    source: TaskSource = parse_source(setting.run.objects.get(genesis.task, limit=SOURCE_BYTES))
    location = setting.location
    given = location.class_name or source.class_name
    root = location.root
    if (
        root is None
        or location.path is None
        or location.path != root / source.entry
        or given != source.class_name
    ):
        raise UsageError(f"this run trains {source.class_name} of {source.entry}: give that task")
    problems = verify_tree(source, root)
    if isinstance(problems, list):
        raise UsageError(f"the code is not what this run committed to: {', '.join(problems)}")
    return replace(location, class_name=source.class_name)


def _with_hints(options: SealOptions, run: RunDirectory) -> SealOptions:
    """What was not given again is taken from run.toml; none of it is committed."""
    hints = run.read_hints()
    inputs, sealing = hints.get("inputs", {}), hints.get("sealing", {})
    inputs = inputs if isinstance(inputs, dict) else {}
    sealing = sealing if isinstance(sealing, dict) else {}
    return replace(
        options,
        inputs={**inputs, **options.inputs},
        # What auto chose at the beginning is what it means now.
        keep=options.keep if isinstance(options.keep, int) else _positive(sealing.get("keep"), 1),
        seal_every=options.seal_every or _positive(sealing.get("seal_every"), DEFAULT_SEAL_EVERY),
        store_batches=options.store_batches or sealing.get("store_batches") == "true",
        withhold_metrics=options.withhold_metrics or sealing.get("withhold_metrics") == "true",
        device=options.device or sealing.get("device"),
        parent=options.parent or hinted_origin(run, "parent"),
        external=options.external or hinted_origin(run, "external"),
    )


def _positive(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and int(text) > 0 else default


def _check_data(setting: Setting, genesis: Genesis, request: RunRequest, runner: "Runner") -> None:
    """Raise UsageError if the data set is not the committed one; unchanged files are not read again."""
    committed = genesis.dataset
    if isinstance(committed, UnsetType):
        return
    run, inputs = setting.run, dict(request.inputs)
    if _remembered(run) == (data_identity(inputs, genesis.task), committed.root.hex()):
        return
    setting.watcher.phase("checking the data set")
    data = runner.data
    if len(data) == committed.size:
        hashed = hash_dataset(data, request=request, secret=run.secret(), progress=setting.watcher.progress)
        if hashed.dataset == committed:
            remember_data(run, inputs, genesis.task, committed)
            return
    raise UsageError("the data set is not the one this run committed to: put the same data back")


def _remembered(run: RunDirectory) -> tuple[str | None, str | None]:
    try:
        note = json.loads(bytes(read_bounded(run.path / "private" / "dataset.json", limit=1 << 12)))
        return str(note["identity"]), str(note["root"])
    except (FileNotFoundError, Unavailable, ValueError, KeyError, TypeError):
        return None, None


def surviving(records: Sequence[AnyRecord]) -> list[AnyRecord]:
    """The records that no resume has abandoned."""
    kept: list[AnyRecord] = []
    for record in records:
        if isinstance(record, Resume):
            kept = [earlier for earlier in kept if earlier.index <= record.source]
        kept.append(record)
    return kept


def _latest_intact(
    run: RunDirectory, records: Sequence[AnyRecord], sealed: int
) -> tuple[Checkpoint, FlatState]:
    """The checkpoint to go on from, and its state.

    Payloads of sealed records had reached the disk; of the others every one up to the chosen is checked,
    because a crash of the machine may have taken any of them.
    """
    stored = [record for record in surviving(records) if isinstance(record, Checkpoint) and record.stored]
    chosen: tuple[Checkpoint, FlatState] | None = None
    for record in (record for record in stored if record.index >= sealed):
        state = _read_state(run, record)
        if state is None:
            break
        chosen = record, state
    for record in reversed([record for record in stored if record.index < sealed]):
        if chosen is not None:
            break
        state = _read_state(run, record)
        chosen = None if state is None else (record, state)
    if chosen is None:
        raise Unavailable(f"no stored checkpoint of {run.path} is intact: restore objects/ from a copy")
    return chosen


def _read_state(run: RunDirectory, record: Checkpoint) -> FlatState | None:
    try:
        data = run.objects.read_state(record.root, limit=STATE_LIMIT)
        state = parse_state(data, root=record.root)
    except (Unavailable, MalformedError):
        return None
    run.objects.sync_later(record.root)
    return state


def _recorder(setting: Setting, found: Found, runner: "Runner", *, state_bytes: int) -> RunRecorder:
    from polledger.training.devicehash import DeviceHashing

    genesis, options = found.genesis, setting.options
    cadence = Cadence(
        steps=genesis.steps,
        every=genesis.every,
        warm=genesis.warm,
        keep=options.keep if isinstance(options.keep, int) else 1,
        seal_every=options.seal_every or DEFAULT_SEAL_EVERY,
    )
    return RunRecorder(
        setting.run,
        found.sealer,
        cadence,
        store_batches=stores_batches(options, runner),
        state_bytes=state_bytes,
        hashing=DeviceHashing(setting.watcher.warn),
        withhold_metrics=options.withhold_metrics,
    )


def _resume_record(found: Found, source: Checkpoint, environment: Environment) -> Resume:
    size = found.sealer.size
    lost = any(
        not isinstance(record, Resume) for record in surviving(found.records) if record.index > source.index
    )
    unsealed = size - found.sealer.sealed
    reason = f"ended with {unsealed} records unsealed" if unsealed else "ended after a seal"
    return Resume(
        v=1,
        run=found.genesis.run,
        index=size,
        environment=environment,
        source=source.index,
        first=source.index + 1 if lost else UNSET,
        last=size - 1 if lost else UNSET,
        reason=reason,
    )
