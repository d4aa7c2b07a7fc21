"""The beginning of a run: rehearse, commit code and data, build, seal genesis. PROTOCOL sections 4, 6 and 9."""

import contextlib
import functools
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from polledger.core.config import encode_config
from polledger.core.encoding import encode
from polledger.core.records import Dataset, Environment, Genesis
from polledger.core.seeds import training_seed
from polledger.core.source import TaskSource
from polledger.errors import Unavailable, UsageError
from polledger.files import PRIVATE_FILE, read_bounded, write_atomic
from polledger.helper import OWN_ROOT
from polledger.keys import public_key
from polledger.store.run import Hints, RunDirectory
from polledger.training.dataset import data_identity, hash_dataset
from polledger.training.domains import encode_domains
from polledger.training.keeping import in_words, resolve, stored_count
from polledger.training.origin import Origin, Source, read_source, start
from polledger.training.plan import Plan, SealOptions, Setting
from polledger.training.recording import (
    DEFAULT_EVERY,
    DEFAULT_SEAL_EVERY,
    DEFAULT_WARM,
    Cadence,
    RunRecorder,
)
from polledger.training.rehearsal import Rehearsal, RunRequest, attempt, has_dataset, load_task, run_rehearsal
from polledger.training.sealer import Sealer
from polledger.training.source import collect_source, source_digest, verify_tree

if TYPE_CHECKING:
    from polledger.training.batches import BatchSource
    from polledger.training.firstinterval import FirstInterval
    from polledger.training.runner import Runner

RUN_ID_BYTES = 16

_AUTHORITIES, _WITNESSES = "authorities.json", "witnesses.json"
DEFAULT_DEVICE = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A run that is about to begin: all that genesis commits to but the data."""

    setting: Setting
    request: RunRequest
    rehearsal: Rehearsal
    source: TaskSource
    contents: dict[str, bytes]
    cadence: Cadence
    runner: "Runner"
    environment: Environment
    origin: Origin


def begin_run(setting: Setting) -> Plan:
    """Everything before step 0, up to a sealed genesis. Raises UsageError for a task that would not train or replay.

    The seal covers genesis and checkpoint 0, so that whatever has a seal can be resumed.
    """
    source = read_source(setting.options)
    setting.watcher.phase("rehearsing one step in a fresh process")
    draft = draft_run(setting, run_rehearsal(request_of(setting)), source)
    return open_plan(draft, commit_data)


def open_plan(draft: Draft, commit: Callable[[Draft], Dataset | UnsetType]) -> Plan:
    """Begin the run of ``draft``, up to a sealed genesis; ``commit`` gives what that says of the data."""
    setting = draft.setting
    first = _open_first_interval(draft)
    with contextlib.ExitStack() as opened:
        opened.callback(first.close)
        genesis = make_genesis(draft, commit(draft))
        recorder = open_recorder(draft, genesis)
        opened.callback(recorder.close)
        told = functools.partial(first.note_checkpoint, 0)
        recorder.begin(genesis, draft.runner.live(), told=told)
        batches = open_batches(setting, draft.request, draft.runner, first=0, last=genesis.steps)
        opened.pop_all()
    return Plan(
        genesis=genesis,
        runner=draft.runner,
        recorder=recorder,
        start=0,
        inputs=draft.request.inputs,
        batches=batches,
        first=first,
    )


def draft_run(setting: Setting, rehearsal: Rehearsal, start_at: Source | None = None) -> Draft:
    """Collect the code that ``rehearsal`` found and build the task in this process; writes nothing.

    ``start_at``: what its first state is taken from, None for the seed alone.
    """
    request = request_of(setting)
    request = replace(request, location=replace(setting.location, class_name=rehearsal.class_name))
    source, contents = collect_source(
        request.location,
        class_name=rehearsal.class_name,
        modules=rehearsal.modules,
        distributions=rehearsal.distributions,
    )
    setting.watcher.phase("building the first state")
    runner = build_runner(request)
    origin = Origin() if start_at is None else start(runner, start_at, setting.options.fresh)
    cadence = _cadence(setting, steps=runner.task.config["steps"], state_bytes=rehearsal.state_bytes)
    _check_unchanged(source, setting)
    return Draft(
        setting=setting,
        request=request,
        rehearsal=rehearsal,
        source=source,
        contents=contents,
        cadence=cadence,
        runner=runner,
        # Described now: a task may set switches while it loads and builds.
        environment=describe(request.device),
        origin=origin,
    )


def build_runner(request: RunRequest) -> "Runner":
    """The task in this process, deterministic switches set, its objects built from the seed."""
    from polledger.training import determinism
    from polledger.training.runner import Runner

    determinism.apply_switches(request.device)
    task = load_task(request)
    runner = Runner(task, seed=request.seed, device=request.device)
    attempt(runner.build, "build()", request, task)
    return runner


def open_batches(
    setting: Setting, request: RunRequest, runner: "Runner", *, first: int, last: int
) -> "BatchSource":
    """Where the batches of steps ``first`` to ``last`` − 1 come from, as ``--workers`` says."""
    from polledger.training.batches import InProcess, InWorkers

    workers = setting.options.workers
    if not workers:
        return InProcess(runner)
    return InWorkers(request, workers=workers, first=first, last=last)


def describe(device: str) -> Environment:
    """The environment in force, once the task is built."""
    from polledger.training.determinism import describe_environment

    return describe_environment(device)


def remember_data(run: RunDirectory, inputs: dict[str, str], task: bytes, dataset: Dataset) -> None:
    """Keep what the inputs' files look like, so that a resumed run need not read all of them again."""
    identity = data_identity(inputs, task)
    if identity is not None:
        note = {"identity": identity, "root": dataset.root.hex(), "size": dataset.size}
        write_atomic(run.path / "private" / "dataset.json", [json.dumps(note).encode()], mode=PRIVATE_FILE)


def write_hints(setting: Setting, inputs: dict[str, str], *, keep: int) -> None:
    """Leave in run.toml what spares typing later: the task's name, where data lie, what is stored, the origin."""
    options = setting.options
    sealing = {
        "device": options.device or DEFAULT_DEVICE,
        "keep": str(keep),
        "seal_every": str(options.seal_every or DEFAULT_SEAL_EVERY),
        "store_batches": str(options.store_batches).lower(),
        "withhold_metrics": str(options.withhold_metrics).lower(),
    }
    hints: Hints = {"task": options.task, "inputs": inputs, "sealing": sealing}
    for kind, path in (("parent", options.parent), ("external", options.external)):
        if path is not None:
            # So that both may be moved together.
            hints[kind] = os.path.relpath(path.resolve(), setting.run.path.resolve())
    setting.run.write_hints(hints)
    # Not in run.toml: a URL may carry credentials.
    _remember(setting.run, _AUTHORITIES, options.authorities)
    _remember(setting.run, _WITNESSES, options.witnesses)


def remembered_authorities(run: RunDirectory) -> tuple[str, ...]:
    """The authorities that the run was begun with; none where the default one was, or the note is lost."""
    return _remembered(run, _AUTHORITIES)


def remembered_witnesses(run: RunDirectory) -> tuple[str, ...]:
    """The witnesses that the run was begun with; none where there were none, or the note is lost."""
    return _remembered(run, _WITNESSES)


def _remember(run: RunDirectory, file: str, names: Sequence[str]) -> None:
    if names:
        write_atomic(run.path / "private" / file, [json.dumps(list(names)).encode()], mode=PRIVATE_FILE)


def _remembered(run: RunDirectory, file: str) -> tuple[str, ...]:
    try:
        names = json.loads(bytes(read_bounded(run.path / "private" / file, limit=1 << 16)))
    except (FileNotFoundError, Unavailable, ValueError):
        return ()
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def request_of(setting: Setting) -> RunRequest:
    """What ``setting`` asks to train, under the seed that its options and key give."""
    options = setting.options
    seed = training_seed(options.seed or 0, None if options.unbound else public_key(setting.key))
    return RunRequest(
        location=setting.location,
        settings=options.settings,
        inputs=dict(options.inputs),
        seed=seed,
        device=options.device or DEFAULT_DEVICE,
        workers=options.workers,
    )


def _cadence(setting: Setting, *, steps: int, state_bytes: int) -> Cadence:
    options = setting.options
    keep = options.keep or 1
    cadence = Cadence(
        steps=steps,
        every=options.every or DEFAULT_EVERY,
        warm=DEFAULT_WARM if options.warm is None else options.warm,
        keep=keep if isinstance(keep, int) else 1,
        seal_every=options.seal_every or DEFAULT_SEAL_EVERY,
    )
    if isinstance(keep, int):
        return cadence
    cadence = resolve(cadence, keep, state_bytes=state_bytes, directory=setting.run.path)
    count = stored_count(cadence)
    size = f"{count} states of {in_words(state_bytes)}, at most {in_words(count * state_bytes)} in all"
    setting.watcher.phase(f"storing {size}: --keep {cadence.keep}")
    return cadence


def _check_unchanged(source: TaskSource, setting: Setting) -> None:
    root = setting.location.root
    found = [] if root is None else verify_tree(source, root)
    if isinstance(found, list):
        raise UsageError(f"the task changed while it was loaded: {', '.join(found)}; start again")


def _open_first_interval(draft: Draft) -> "FirstInterval":
    """Start the processes that will replay the first intervals."""
    from polledger.training.firstinterval import FirstInterval
    from polledger.training.replay import ReplayContext, TaskProgram

    request = draft.request
    own = request.location.root == OWN_ROOT and (request.location.module or "").startswith("polledger.")
    context = ReplayContext(
        program=TaskProgram(source=draft.source, files=None if own else draft.contents),
        config=encode_config(draft.runner.task.config),
        seed=request.seed,
        device=request.device,
        environment=draft.environment,
        inputs=dict(request.inputs),
    )
    return FirstInterval(context, secret=draft.setting.run.secret(), ends=draft.cadence.early_ends)


def commit_data(draft: Draft) -> Dataset | UnsetType:
    """Hash the data set, store its leaves; UNSET for a task that cannot enumerate its data, or whose own ``batch``
    says what a step consumes: no example can then be shown to be what was consumed.
    """
    setting, request, runner = draft.setting, draft.request, draft.runner
    if not has_dataset(runner.task) or runner.makes_batches:
        return UNSET
    setting.watcher.phase("hashing the data set")
    hashed = hash_dataset(
        attempt(lambda: runner.data, "dataset()", request, runner.task),
        request=request,
        secret=setting.run.secret(),
        seconds_per_example=draft.rehearsal.seconds_per_example,
        progress=setting.watcher.progress,
    )
    hashed.store(setting.run)
    remember_data(setting.run, dict(request.inputs), source_digest(draft.source), hashed.dataset)
    return hashed.dataset


def make_genesis(draft: Draft, data: Dataset | UnsetType) -> Genesis:
    """The genesis record of ``draft``, under a fresh run id."""
    options, cadence, runner = draft.setting.options, draft.cadence, draft.runner
    return Genesis(
        v=1,
        run=secrets.token_bytes(RUN_ID_BYTES),
        index=0,
        task=source_digest(draft.source),
        kind=runner.kind,
        config=encode_config(runner.task.config),
        seed=options.seed or 0,
        bound=not options.unbound,
        key=public_key(draft.setting.key),
        every=cadence.every,
        warm=cadence.warm,
        steps=cadence.steps,
        dataset=data,
        domains=encode_domains(runner.task.domains) or UNSET,
        objects=runner.describe(),
        environment=draft.environment,
        origin=draft.origin.origin,
        parent=draft.origin.parent,
        external=draft.origin.external,
        fresh=draft.origin.fresh,
        terms=UNSET if options.terms is None else options.terms,
    )


def open_recorder(draft: Draft, genesis: Genesis) -> RunRecorder:
    """Store the task's code, leave the hints, and open the ledger: nothing is recorded yet."""
    from polledger.training.devicehash import DeviceHashing

    setting, run = draft.setting, draft.setting.run
    for data in (*draft.contents.values(), encode(draft.source)):
        run.objects.put(data)
    write_hints(setting, dict(setting.options.inputs), keep=draft.cadence.keep)
    sealer = Sealer.create(run, genesis.run, setting.key, stamp=setting.stamping.stamp)
    stored = stores_batches(setting.options, draft.runner)
    return RunRecorder(
        run,
        sealer,
        draft.cadence,
        store_batches=stored,
        state_bytes=draft.rehearsal.state_bytes,
        hashing=DeviceHashing(setting.watcher.warn),
        withhold_metrics=setting.options.withhold_metrics,
    )


def stores_batches(options: SealOptions, runner: "Runner") -> bool:
    """PROTOCOL section 12: where asked for, and where the task makes its batches itself."""
    from polledger.training.task import overrides

    return options.store_batches or overrides(type(runner.task), "batch")
