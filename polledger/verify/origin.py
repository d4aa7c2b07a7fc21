"""Step 8: the first state is what the committed seed, and what genesis names besides, give. PROTOCOL section 10."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from msgspec import UnsetType

from polledger.core.dtypes import DTYPE_BYTES
from polledger.core.records import Domain, Environment, Genesis, StateObject
from polledger.core.replay import RebuiltState, Replayer, ReplayFailed, Variant
from polledger.core.report import Finding
from polledger.core.state import FlatState, TensorData, escape
from polledger.errors import EnvironmentMismatch, MalformedError, Unavailable, UsageError
from polledger.verify.ancestry import Start
from polledger.verify.lineage import Interval
from polledger.verify.replaytask import ELSEWHERE
from polledger.verify.states import LoadedState, hash_state

NAME = "origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginTask:
    """What step 8 needs: genesis, the first interval and its recorded start (None where it is not at hand).

    ``differences`` names in what an environment is of another class than the recorded one.
    """

    genesis: Genesis
    first: Interval
    recorded: LoadedState | None
    base: Variant
    differences: Callable[[Environment, Environment], list[str]]
    start: Start | None = None
    """What the first state takes from elsewhere than the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Outcome of step 8; ``environment`` is what the rebuilding process described, None where none got that far."""

    findings: tuple[Finding, ...]
    environment: Environment | None = None


def step_origin(task: OriginTask, replayer: Replayer, again: Callable[[], Replayer]) -> Origin:
    """Step 8. ``pass``: a rebuild under the seed, and what genesis says it starts from, give checkpoint 0 bit for bit.

    The optimizer is empty, unless the whole state of a parent goes on; whether the parent stands is another finding.

    ``again`` gives a fresh process that rebuilds a second time where the first one differs: only two agreeing
    rebuilds in the recorded environment class contradict the record. Raises nothing that hostile input causes.
    """
    start = task.start
    if start is None and task.genesis.origin != "scratch":
        text = "what the run starts from was not looked for"
        return Origin(findings=(_unverifiable(text, "verify the run with its parent or file"),))
    if start is not None and start.problem:
        return Origin(findings=(_unverifiable(start.problem, start.remedy),))
    try:
        size = None if task.recorded is None else len(task.recorded.data)
        rebuilt = replayer.rebuild(variant=task.base, size=size)
        findings = _judge(task, rebuilt, hash_state(rebuilt.state), again)
        return Origin(findings=tuple(findings), environment=rebuilt.environment)
    except (ReplayFailed, MalformedError, EnvironmentMismatch, Unavailable) as error:
        return Origin(
            findings=(_unverifiable(f"the first state cannot be rebuilt here: {error}", ELSEWHERE),)
        )


def _judge(
    task: OriginTask, rebuilt: RebuiltState, built: LoadedState, again: Callable[[], Replayer]
) -> list[Finding]:
    checkpoint = task.first.start
    differences = task.differences(rebuilt.environment, task.genesis.environment)
    dispute = _Dispute(task=task, built=built, differences=differences, again=again)
    try:
        state = built if task.start is None else task.start.first_state(built)
    except UsageError as error:
        return [dispute.finding(f"checkpoint 0 cannot start from {_what(task)}: {error}")]
    if state.root != checkpoint.root:
        return [dispute.differs(state)]
    findings = [
        *_object_findings(task.genesis.objects, rebuilt.objects, differences),
        *_domain_findings(task.genesis.domains, rebuilt.domains, differences),
    ]
    goes_on = task.start is not None and task.start.state is not None
    if not goes_on:
        findings += _optimizer_findings(state.flat, rebuilt.objects, checkpoint.index)
    return findings or [_passed(task, goes_on=goes_on)]


def _what(task: OriginTask) -> str:
    return "" if task.start is None else task.start.what


def _passed(task: OriginTask, *, goes_on: bool) -> Finding:
    bound = "the seed is bound to the key" if task.genesis.bound else "the seed is NOT bound to the key"
    if goes_on:
        detail = f"checkpoint 0 is {_what(task)} bit for bit; {bound}"
    else:
        besides = f" and {_what(task)} give" if task.start is not None else " gives"
        detail = f"the committed seed{besides} checkpoint 0 bit for bit, optimizer empty; {bound}"
    return Finding(step=8, name=NAME, outcome="pass", detail=detail, record=task.first.start.index)


def _unverifiable(detail: str, remedy: str, *, record: int | None = None) -> Finding:
    return Finding(step=8, name=NAME, outcome="unverifiable", detail=detail, remedy=remedy, record=record)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dispute:
    """A first state that is not the recorded one: whose fault that is."""

    task: OriginTask
    built: LoadedState
    differences: list[str]
    again: Callable[[], Replayer]

    def differs(self, state: LoadedState) -> Finding:
        """Checkpoint 0 should have been ``state``."""
        start, recorded = self.task.start, self.task.first.start.root
        path = f", first at {where}" if (where := first_difference(state, self.task.recorded)) else ""
        roots = state.root, recorded
        if start is not None and start.state is not None:
            # Two roots under two heads, one of which names the other: no machine has a part in it.
            return self._fail(f"checkpoint 0 is not {start.what}{path}", roots)
        if self.differences:
            here = ", ".join(self.differences[:4])
            text = f"the rebuild differs from checkpoint 0{path}; this machine differs in {here}"
            return self._unverifiable(text, ELSEWHERE)
        besides = "" if start is None else f" and {start.what}"
        return self.finding(f"checkpoint 0 is not what the committed seed and key{besides} give{path}", roots)

    def finding(self, detail: str, roots: tuple[bytes, bytes] | None = None) -> Finding:
        """``detail`` refutes where two rebuilds in the recorded class agree."""
        if self.differences:
            return self._unverifiable(detail, ELSEWHERE)
        second = self.again().rebuild(variant=self.task.base, size=len(self.built.data))
        if hash_state(second.state).root != self.built.root:
            text = "two rebuilds of the first state differ: building the task is not deterministic"
            return self._unverifiable(text, "make model() and build() depend on nothing but the seed")
        return self._fail(detail, roots)

    def _unverifiable(self, detail: str, remedy: str) -> Finding:
        return _unverifiable(detail, remedy, record=self.task.first.start.index)

    def _fail(self, detail: str, roots: tuple[bytes, bytes] | None) -> Finding:
        expected, found = (None, None) if roots is None else (root.hex() for root in roots)
        return Finding(
            step=8,
            name=NAME,
            outcome="fail",
            detail=detail,
            record=self.task.first.start.index,
            expected=expected,
            found=found,
        )


def first_difference(ours: LoadedState, theirs: LoadedState | None) -> str:
    """Path of the first entry in which two states differ; empty where the other one is not at hand."""
    if theirs is None:
        return ""
    for a, b in (
        (_skeletons(ours.flat), _skeletons(theirs.flat)),
        (_tensors(ours.flat), _tensors(theirs.flat)),
    ):
        for path in sorted(a.keys() | b.keys()):
            if path not in a or path not in b or a[path] != b[path]:
                return path
    return ""


def _skeletons(flat: FlatState) -> dict[str, object]:
    return {entry.path: entry.structure for entry in flat.skeletons}


def _tensors(flat: FlatState) -> dict[str, object]:
    return {tensor.path: (tensor.dtype, tensor.shape, tensor.data) for tensor in flat.tensors}


def _object_findings(
    committed: Sequence[StateObject], rebuilt: Sequence[StateObject], differences: list[str]
) -> Iterator[Finding]:
    """How the state falls into groups must be what the rebuild describes: the comparison rests on it."""
    ours = {item.name: item for item in rebuilt}
    theirs = {item.name: item for item in committed}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) == theirs.get(name):
            continue
        detail = f"genesis describes the object {name!r} otherwise than the rebuild"
        yield _contradiction(detail, _described(ours.get(name)), _described(theirs.get(name)), differences)


def _contradiction(detail: str, expected: str, found: str, differences: list[str]) -> Finding:
    """What genesis says against what the committed code says here."""
    if differences:
        return _unverifiable(detail, ELSEWHERE, record=0)
    return Finding(step=8, name=NAME, outcome="fail", detail=detail, record=0, expected=expected, found=found)


def _described(item: StateObject | None) -> str:
    return "nothing" if item is None else f"{item.kind}, {len(item.buffers or ())} buffers"


def _domain_findings(
    committed: Sequence[Domain] | UnsetType, declared: Sequence[Domain], differences: list[str]
) -> Iterator[Finding]:
    """What genesis leaves out is checked on no example: the domains must be those that the task declares."""
    ours = {item.field: item for item in declared}
    theirs = {item.field: item for item in (() if isinstance(committed, UnsetType) else committed)}
    for field in sorted(ours.keys() | theirs.keys()):
        if ours.get(field) != theirs.get(field):
            detail = f"genesis states another domain of {field!r} than the task"
            expected, found = (
                "none" if item is None else item.kind for item in (ours.get(field), theirs.get(field))
            )
            yield _contradiction(detail, expected, found, differences)


def _optimizer_findings(flat: FlatState, objects: Sequence[StateObject], record: int) -> Iterator[Finding]:
    """An optimizer that starts with state was given it by the task's code: only constants are accepted.

    (Adagrad starts with sums of one value; a planted momentum buffer is not constant.)
    """
    prefixes = tuple(f"{escape(item.name)}/state/" for item in objects if item.kind == "optimizer")
    for tensor in flat.tensors if prefixes else ():
        if tensor.path.startswith(prefixes) and not is_constant(tensor):
            detail = (
                f"the optimizer does not start empty: {tensor.path} holds values the task's code put there"
            )
            yield _unverifiable(detail, "read the task's build()", record=record)
            return


def is_constant(tensor: TensorData) -> bool:
    """True when all elements have the same bits."""
    width = DTYPE_BYTES[tensor.dtype]
    return bytes(tensor.data) == bytes(tensor.data[:width]) * (len(tensor.data) // width)
