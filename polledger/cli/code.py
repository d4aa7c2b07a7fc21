"""Whether a run's task code may run on this machine, and as what. PROTOCOL section 14, "Code".

Reading and hashing only: nothing of the task is imported here. The code that runs is always the committed one, byte
for byte; the question is who vouches for it.
"""

import importlib.metadata
import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec import UnsetType

from polledger.cli.output import output
from polledger.cli.reading import (
    check_class,
    check_inputs,
    declared_names,
    declares_inputs,
    overrides_of,
    possible_tasks,
)
from polledger.core.encoding import SOURCE_LIMITS
from polledger.core.environment import CLASS_FIELDS
from polledger.core.records import Environment, Genesis
from polledger.core.replay import Replayer
from polledger.core.report import Finding
from polledger.core.reportform import CodeForm
from polledger.core.seeds import training_seed
from polledger.core.source import SOURCE_BYTES, TaskSource, parse_source
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.helper import OWN_ROOT
from polledger.store.run import RunDirectory
from polledger.training.location import TaskLocation, resolve_task
from polledger.training.replay import ReplayContext, ReplayEngine, TaskProgram
from polledger.training.source import PLAIN_LOOP, count_lines, source_digest, verify_tree
from polledger.verify.policy import Policy, ReplaySettings
from polledger.verify.replaytask import PACKAGE
from polledger.verify.request import Code

_RESTORE = "restore the object from a copy"

SOURCES_LISTED = 100
"""Files of the committed source that a report names; their count and their lines are of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOptions:
    """What the user said about code. ``ask``: whether a terminal is there to ask y/N.

    ``chain``: these are the options for several runs, one of which starts from the other. What does not fit one of them
    is then meant for another. ``command``: what verifies the same again, where that is not the run's directory.
    """

    tasks: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    ask: bool = False
    chain: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeDecision:
    """Files to run (None: polledger's own module as it lies here) and who vouches for them; or why not."""

    vouched: str
    files: Mapping[str, bytes] | None = None
    problem: str = ""
    remedy: str | None = None


def load_code(run: RunDirectory, genesis: Genesis, options: CodeOptions, policy: Policy) -> Code:
    """What runs when ``genesis`` is replayed here. Raises UsageError if ``--task`` or ``--trust-code`` is wrong.

    Committed source that the run does not hold whole is a finding, whoever has a copy of it: it is evidence.
    """
    summary: CodeForm = {"kind": genesis.kind, "digest": genesis.task.hex()}
    try:
        source = read_source(run, genesis.task)
    except (Unavailable, MalformedError) as error:
        return _refused(summary, str(error), _RESTORE)
    committed = committed_source(run, source)
    summary |= _described(source, committed)
    if source.class_name == PLAIN_LOOP:
        detail = "the training was a plain loop: its commitments hold, its computation is not shown"
        return _refused(summary, detail, "only a run sealed from a Task can be replayed")
    options = replace(options, chain=options.chain or genesis.origin == "parent")
    decision = decide(run, genesis, committed, source, options, policy)
    summary["vouched"] = decision.vouched
    if decision.problem:
        return _refused(summary, decision.problem, decision.remedy)
    program = TaskProgram(source=source, files=decision.files)
    overridden = overrides_of(program)
    if genesis.kind == "recipe" and overridden:
        detail = f"genesis calls the task a recipe, but {source.class_name} defines {', '.join(overridden)}"
        return _refused(summary, detail, "ask the prover to seal it as a custom task")
    options = replace(options, inputs=_inputs(program, options))
    return Code(
        summary=summary,
        engines=_engines(program, genesis, options, policy),
        finding=_finding(committed.problem, committed.remedy) if committed.problem else None,
        inputs_declared=declares_inputs(program),
        data_here=bool(options.inputs) or not declares_inputs(program),
        own=decision.files is None,
        packages=differing_packages(source),
    )


def _inputs(program: TaskProgram, options: CodeOptions) -> Mapping[str, str]:
    """The inputs that this task takes. Raises UsageError for one that no task can be meant to take."""
    if not options.chain:
        check_inputs(program, options.inputs)
        return options.inputs
    names = declared_names(program)
    return {name: path for name, path in options.inputs.items() if names is None or name in names}


def _engines(program: TaskProgram, genesis: Genesis, options: CodeOptions, policy: Policy) -> "Engines":
    return Engines(
        program=program,
        genesis=genesis,
        inputs=options.inputs,
        warm=policy.replay == ReplaySettings(),
        patience=policy.code.patience,
        device=policy.replay.device,
    )


def _refused(summary: CodeForm, detail: str, remedy: str | None) -> Code:
    return Code(summary=summary, engines=None, finding=_finding(detail, remedy))


def _finding(detail: str, remedy: str | None) -> Finding:
    return Finding(step=7, name="code", outcome="unverifiable", detail=detail, remedy=remedy)


def read_source(run: RunDirectory, digest: bytes) -> TaskSource:
    """The manifest that genesis commits to. Raises Unavailable, or MalformedError for one that is none."""
    return parse_source(run.objects.get(digest, limit=SOURCE_LIMITS.size))


def _described(source: TaskSource, committed: CodeDecision) -> CodeForm:
    """What the report says about the code."""
    return {
        "class": source.class_name,
        "lines": _lines(committed, source),
        "entry": source.entry,
        "files": len(source.files),
        "sources": [
            {"path": file.path, "size": file.size, "sha256": file.digest.hex()}
            for file in source.files[:SOURCES_LISTED]
        ],
    }


def _lines(committed: CodeDecision, source: TaskSource) -> int:
    """Lines of the committed files, counted; the manifest's own word only where a file is not there to count."""
    return source.lines if committed.files is None else count_lines(committed.files.values())


@dataclass(slots=True, kw_only=True)
class Engines:
    """Starts engines pinned to an environment. ``warm``: the first one loads both its processes side by side.

    ``device``: the kind to replay on, None for the recorded one.
    """

    program: TaskProgram
    genesis: Genesis
    inputs: Mapping[str, str]
    warm: bool
    patience: float
    device: str | None = None

    def __call__(self, environment: Environment) -> AbstractContextManager[Replayer]:
        genesis = self.genesis
        engine = ReplayEngine(
            ReplayContext(
                program=self.program,
                config=genesis.config,
                seed=training_seed(genesis.seed, genesis.key if genesis.bound else None),
                device=self.device or replay_device(environment),
                environment=environment,
                inputs=self.inputs,
                kind=genesis.kind,
                patience=self.patience,
            )
        )
        if self.warm:
            # Later engines replay again what differs: most need one process only.
            self.warm = False
            engine.start()
        return engine


def replay_device(environment: Environment) -> str:
    """torch's kind of device to replay on: the environment records ``cpu`` or the accelerator's model."""
    if environment.device == "cpu":
        return "cpu"
    return "mps" if environment.device.startswith("Apple") else "cuda"


def decide(
    run: RunDirectory,
    genesis: Genesis,
    committed: CodeDecision,
    source: TaskSource,
    options: CodeOptions,
    policy: Policy,
) -> CodeDecision:
    """Who vouches for the code: ``--trust-code``, the policy, ``--task``, polledger itself, or the user when asked.

    ``committed``: the source as :func:`committed_source` found it in the run.
    """
    digest = genesis.task.hex()
    if digest in (item.lower() for item in options.trusted):
        return _vouched(committed, "--trust-code")
    if options.trusted and not options.chain:
        raise UsageError(f"--trust-code {options.trusted[0]}: the run commits to {digest}")
    local = [_local(source, spec) for spec in options.tasks]
    fitting = [item for item in local if not item.problem]
    if fitting or (local and not options.chain):
        return (fitting or local)[0]
    if digest in policy.code.trusted:
        return _vouched(committed, "policy")
    if is_own(source):
        return _own(run, source, options)
    return _unvouched(run, committed, source, options)


def committed_source(run: RunDirectory, source: TaskSource) -> CodeDecision:
    """The files of ``source`` as the run holds them, vouched for by nobody yet; a problem where one is lost."""
    try:
        files = {entry.path: run.objects.get(entry.digest, limit=SOURCE_BYTES) for entry in source.files}
    except Unavailable as error:
        return CodeDecision(vouched="", problem=str(error), remedy=_RESTORE)
    return CodeDecision(vouched="", files=files)


def _vouched(committed: CodeDecision, by: str) -> CodeDecision:
    return committed if committed.problem else replace(committed, vouched=by)


def _local(source: TaskSource, spec: str) -> CodeDecision:
    location = resolve_task(spec)
    found = verify_tree(source, location.root or Path())
    if isinstance(found, dict):
        if names_entry(location, source):
            if location.class_name is None:
                check_class(spec, found[source.entry], source.class_name)
            return CodeDecision(vouched="--task", files=found)
        found = [f"that is {source.class_name} in {source.entry}"]
    return CodeDecision(
        vouched="",
        problem=f"{spec} is not the code the run commits to: {'; '.join(found[:3])}",
        remedy="check out the committed version, or read the committed source and give --trust-code",
    )


def names_entry(location: TaskLocation, source: TaskSource) -> bool:
    """Whether a task that the verifier named is the one that runs, and not another file of the same tree or path."""
    if location.path is None or location.root is None:
        return False
    same_file = location.path.relative_to(location.root).as_posix() == source.entry
    return same_file and location.class_name in (None, source.class_name)


def is_own(source: TaskSource) -> bool:
    """True for a module inside polledger itself."""
    return not isinstance(source.module, UnsetType) and source.module.startswith("polledger.")


def _own(run: RunDirectory, source: TaskSource, options: CodeOptions) -> CodeDecision:
    """polledger's own task, if the copy here is the committed one; otherwise the user has to vouch."""
    found = verify_tree(source, OWN_ROOT)
    if isinstance(found, dict):
        return CodeDecision(vouched="polledger", files=None)
    place = _place(run, source, options)
    return CodeDecision(
        vouched="",
        problem=f"{source.module} here is not the one the run commits to: {'; '.join(found[:3])}",
        remedy=f"use the polledger version that sealed the run, or read {place} and give --trust-code",
    )


def _unvouched(
    run: RunDirectory, committed: CodeDecision, source: TaskSource, options: CodeOptions
) -> CodeDecision:
    local = _local_copy(run, source)
    if committed.problem and not local:
        return committed
    where = (
        f"{local} has the committed digest"
        if local
        else f"the committed source is {_place(run, source, options)}"
    )
    # Where it is lost there is nothing to agree to.
    ask = options.ask and not committed.problem
    if ask and _confirmed(source.class_name, _lines(committed, source), where):
        return _vouched(committed, "asked")
    command = options.command or f"polledger verify {shlex.quote(str(run.path))}"
    if local:
        remedy = f"run `{command} --task {shlex.quote(local)}`"
    else:
        remedy = f"read it and run `{command} --trust-code {source_digest(source).hex()}`"
    return CodeDecision(vouched="", problem=f"replay would run your code: {where}", remedy=remedy)


def _place(run: RunDirectory, source: TaskSource, options: CodeOptions) -> str:
    """Where the committed source can be read; a proof holds it, and is unpacked for a moment only."""
    return (
        f"{source.entry}, in the proof: ask the prover for it" if options.command else _listing(run, source)
    )


def _listing(run: RunDirectory, source: TaskSource) -> str:
    entry = next((item for item in source.files if item.path == source.entry), None)
    return str(run.objects.path(entry.digest)) if entry else source.entry


def _local_copy(run: RunDirectory, source: TaskSource) -> str:
    """Name under which the committed code lies here, as ``--task`` takes it; empty where none does."""
    hint = run.read_hints().get("task")
    candidates = [hint] if isinstance(hint, str) else []
    candidates += [f"./{source.entry}"] if isinstance(source.module, UnsetType) else [source.module]
    for spec in candidates:
        # The hint is not authenticated: it may name anything, or nothing a file can be called.
        try:
            location = resolve_task(spec)
            found = verify_tree(source, location.root or Path())
        except (UsageError, OSError, ValueError, RuntimeError):
            continue
        if isinstance(found, dict) and names_entry(location, source):
            return _unambiguous(spec, location, found[source.entry], source.class_name)
    return ""


def _unambiguous(spec: str, location: TaskLocation, data: bytes, class_name: str) -> str:
    """``spec``, with the class where ``--task`` would ask for it."""
    clear = location.class_name is not None or possible_tasks(data, class_name) == [class_name]
    return spec if clear else f"{spec}:{class_name}"


def _confirmed(class_name: str, lines: int, where: str) -> bool:
    """Ask on the terminal; anything but y is no."""
    output.note(f"replay would run the task's code ({class_name}, {lines} lines): {where}")
    answer = output.ask(f"run {class_name} in an isolated process? [y/N]")
    return answer.strip().lower() in ("y", "yes")


def differing_packages(source: TaskSource) -> tuple[str, ...]:
    """``package NAME`` for every distribution that the task imported and that has another version here, or none.

    Replays load what is installed beside this interpreter. Not compared: the digests of RECORD files, which hold
    paths of the machine; and what the environment class names itself.
    """
    return tuple(
        f"{PACKAGE}{item.name}"
        for item in source.distributions
        if item.name.lower() not in CLASS_FIELDS and installed_version(item.name) != item.version
    )


def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None where there is none of that name."""
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
