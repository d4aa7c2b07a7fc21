"""One of two rivals, a run or a claim: what its files establish by themselves. PROTOCOL section 13.

Reading and hashing only. What is missing or damaged is named, and never taken for something.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec import UnsetType

from polledger.core.claim import Claim
from polledger.core.compareform import AnchorForm, CoverageForm, SideForm, SideTimeForm, SideVerdictForm
from polledger.core.dtypes import byte_size
from polledger.core.moment import utc_text
from polledger.core.publicproof import parse_public_proof
from polledger.core.published import flat_model_root
from polledger.core.records import AnyRecord, Checkpoint, Final, Genesis, Step
from polledger.core.report import Finding, Report, sentence
from polledger.core.reportform import HeadForm, OriginForm
from polledger.core.start import MODEL, Tensors, model_tensors
from polledger.core.state import TensorEntry, tensor_root
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.claimfiles import ClaimFiles
from polledger.store.objects import ObjectStore
from polledger.timestamp.trust import Trust, operator_key
from polledger.verify.ancestry import describe_origin
from polledger.verify.claimalone import read_claim_files, verify_alone
from polledger.verify.claimed import RunFacts
from polledger.verify.evidence import Evidence
from polledger.verify.heads import Heads, SealedHead, match_heads, parse_records, step_heads, step_parse
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.policy import Policy
from polledger.verify.publicproof import NOTHING, PublicRun, check_public_proof
from polledger.verify.request import Request
from polledger.verify.states import load_state
from polledger.verify.time import Times, step_time
from polledger.verify.tokens import Stamp

Digests = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""Dtype, shape and tensor root by name in the ``state_dict``."""

GAPS = 8
"""Gaps that are listed: the first ones show what kind of damage it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """By when something existed, as a quorum of external operators say, give or take ``slack``."""

    time: datetime
    slack: timedelta

    def form(self) -> AnchorForm:
        """As the report has it."""
        return {"time": utc_text(self.time), "accuracy": self.slack.total_seconds()}


@dataclass(slots=True, kw_only=True)
class Side:
    """One rival. ``report``: its verdict, None where nothing was replayed. ``missing`` grows while it is looked at.

    ``facts``: what a public proof shows, where that is all there is; ``digests``: those of a claimed model's tensors.
    """

    name: str
    evidence: Evidence | None
    heads: Heads
    lineage: Lineage | None
    times: Times | None
    gaps: list[str]
    facts: RunFacts | None = None
    digests: Digests | None = None
    report: Report | None = None
    missing: list[str] = field(default_factory=list)
    _models: dict[bytes, Tensors | None] = field(default_factory=dict)

    @property
    def genesis(self) -> Genesis | None:
        """Its first record, authenticated."""
        if self.lineage is not None:
            return self.lineage.genesis
        return None if self.facts is None else self.facts.genesis

    @property
    def final(self) -> Final | None:
        """Its last record, where it is finished."""
        if self.lineage is not None:
            return self.lineage.final
        return None if self.facts is None else self.facts.final

    @property
    def model_root(self) -> bytes | None:
        """Root of the published model, where the run is finished."""
        return None if self.final is None else self.final.model_root

    @property
    def checkpoints(self) -> Sequence[Checkpoint]:
        """Those of the final lineage."""
        return () if self.lineage is None else self.lineage.checkpoints

    def model(self, checkpoint: Checkpoint, *, keep: bool = False) -> Tensors | None:
        """The published object's tensors at ``checkpoint``; None where its state is not at hand. ``keep`` it."""
        if checkpoint.root in self._models:
            return self._models[checkpoint.root]
        found = None if self.evidence is None else self._read(self.evidence.objects, checkpoint)
        if keep:
            self._models[checkpoint.root] = found
        return found

    def first_model(self) -> Tensors | None:
        """Where it begins."""
        return self.model(self.checkpoints[0], keep=True) if self.checkpoints else None

    def last_model(self) -> Tensors | None:
        """Where it ends: the published model of a finished run."""
        return self.model(self.checkpoints[-1], keep=True) if self.final and self.checkpoints else None

    def tensor_digests(self) -> Digests | None:
        """Dtype, shape and root of each tensor of the final model; None where it is not at hand."""
        model = self.last_model()
        if model is None:
            return self.digests
        return {name: (item.dtype, tuple(item.shape), tensor_root(item.data)) for name, item in model.items()}

    def _read(self, objects: ObjectStore, checkpoint: Checkpoint) -> Tensors | None:
        if not checkpoint.stored:
            return None
        final = self.final
        try:
            return model_tensors(
                load_state(objects, checkpoint.root).flat, MODEL if final is None else final.object
            )
        except (Unavailable, UsageError) as error:
            self.missing.append(f"the model after step {checkpoint.step}: {error}")
            return None

    def batches(self) -> set[bytes]:
        """Digests of the batches of all authentic steps."""
        return {record.batch for record in self.heads.records if isinstance(record, Step)}


def read_side(name: str, evidence: Evidence, *, trust: Trust | None, policy: Policy, now: datetime) -> Side:
    """What the files of a run establish: steps 1 to 4 of verification, without their verdict."""
    parsed = parse_records(evidence)
    heads = match_heads(evidence, parsed)
    found = [*step_parse(evidence, parsed, heads), *step_heads(evidence, parsed, heads)]
    genesis = heads.records[0] if heads.records else None
    times = step_time(
        heads, evidence.objects, trust=trust, policy=policy, now=now, renewals=evidence.renewals
    )
    side = Side(
        name=name,
        evidence=evidence,
        heads=heads,
        lineage=build_lineage(genesis, heads.records) if isinstance(genesis, Genesis) else None,
        times=times,
        gaps=_gaps(found, times),
    )
    if side.lineage is None:
        side.missing.append("no record of it is authentic")
    return side


def claimed_side(name: str, files: ClaimFiles, request: Request, *, verdict: bool) -> Side:
    """What a claim and the public proof beside it establish; ``verdict``: with what ``verify`` says to it.

    Raises UsageError if there is no claim, MalformedError if the file is none.
    """
    asked = read_claim_files(files)
    shown, problem = _public_run(files)
    times = step_time(shown.heads, files.tokens, trust=request.trust, policy=request.policy, now=request.now)
    side = Side(
        name=name,
        evidence=None,
        heads=shown.heads,
        lineage=None,
        times=times,
        gaps=_gaps(shown.findings, times),
        facts=shown.facts,
        digests=_claimed_digests(asked.read.claim, shown.facts),
        report=verify_alone(files, asked, request) if verdict else None,
    )
    if shown.facts is None:
        side.missing.append(problem or "the proof beside the claim shows no finished run")
    return side


def _gaps(found: Sequence[Finding], times: Times) -> list[str]:
    """What is not in order: of the tokens, what no verdict would pass over."""
    bad = [finding for finding in found if finding.outcome != "pass"]
    return [finding.detail for finding in (*bad, *(item for item in times.findings if item.blocks))]


def _public_run(files: ClaimFiles) -> tuple[PublicRun, str]:
    try:
        data = files.read_proof()
        if data is None:
            return NOTHING, "there is no public proof beside the claim"
        return check_public_proof(parse_public_proof(data)), ""
    except (MalformedError, Unavailable) as error:
        return NOTHING, f"the proof beside the claim cannot be read: {error}"


def _claimed_digests(claim: Claim, facts: RunFacts | None) -> Digests | None:
    """The tensors that the claim lists, if they are those of the model that the sealed run ends with."""
    entries = [
        TensorEntry(
            v=1,
            path=item.name,
            dtype=item.dtype,
            shape=item.shape,
            bytes=byte_size(item.dtype, item.shape),
            root=bytes.fromhex(item.root),
        )
        for item in claim.model.tensors
    ]
    if facts is None or flat_model_root(entries) != facts.final.model_root:
        return None
    return {item.path: (item.dtype, tuple(item.shape), item.root) for item in entries}


def anchored(side: Side, seal: SealedHead | None, *, policy: Policy) -> Anchored | None:
    """By when a quorum of external operators had vouched for the head of ``seal``; a later head covers it too."""
    if seal is None or side.times is None:
        return None
    earliest: dict[str, Anchored] = {}
    for stamp in side.times.stamps:
        if stamp.operator and stamp.seal >= seal.seal.number:
            voice, moment = operator_key(stamp.operator), _moment(stamp, policy)
            known = earliest.setdefault(voice, moment)
            if moment.time < known.time:
                earliest[voice] = moment
    ordered = sorted(earliest.values(), key=lambda item: item.time)
    quorum = policy.time.quorum
    return ordered[quorum - 1] if len(ordered) >= quorum else None


def _moment(stamp: Stamp, policy: Policy) -> Anchored:
    stated = stamp.timestamp.accuracy
    slack = timedelta(seconds=policy.time.accuracy) if stated is None else stated
    return Anchored(time=stamp.timestamp.gen_time, slack=slack)


def first_head(side: Side) -> SealedHead | None:
    """The head that covers genesis."""
    return min(
        (item for item in side.heads.heads if item.matches), key=lambda item: item.seal.number, default=None
    )


def operators(side: Side) -> dict[str, str]:
    """Names of the external operators that stamped it, by what makes two names one operator."""
    stamps = () if side.times is None else side.times.stamps
    return {operator_key(stamp.operator): stamp.operator for stamp in stamps if stamp.operator}


def side_form(side: Side, *, policy: Policy) -> SideForm:
    """As the report has it."""
    genesis = side.genesis
    root, dataset = side.model_root, None if genesis is None else genesis.dataset
    return {
        "name": side.name,
        "what": "run" if side.facts is None else "claim",
        "run": None if genesis is None else genesis.run.hex(),
        "key": None if genesis is None else genesis.key.hex(),
        "bound": None if genesis is None else genesis.bound,
        "kind": None if genesis is None else genesis.kind,
        "head": _head(side.heads.newest),
        "model_root": None if root is None else root.hex(),
        "task": None if genesis is None else genesis.task.hex(),
        "dataset": None if dataset is None or isinstance(dataset, UnsetType) else dataset.root.hex(),
        "origin": _origin(side),
        "coverage": _coverage(side),
        "time": _time(side, policy),
        "verdict": None if side.report is None else _verdict(side.report),
        "missing": list(side.missing),
    }


def _origin(side: Side) -> OriginForm:
    if side.report is not None and side.report.origin:
        return side.report.origin
    return OriginForm() if side.genesis is None else describe_origin(side.genesis)


def _head(sealed: SealedHead | None) -> HeadForm | None:
    if sealed is None:
        return None
    head = sealed.head
    return {
        "seal": sealed.seal.number,
        "size": head.size,
        "root": head.root.hex(),
        "digest": head.digest().hex(),
    }


def _coverage(side: Side) -> CoverageForm:
    lineage = side.lineage
    return {
        "records": side.heads.sealed,
        "seals": sum(item.matches is True for item in side.heads.heads),
        "steps": _steps(side),
        "intervals": len(lineage.intervals) if lineage else 0,
        "stored": sum(checkpoint.stored for checkpoint in side.checkpoints),
        "resumes": len(lineage.resumes) if lineage else 0,
        "abandoned": lineage.abandoned if lineage else 0,
        "complete": lineage is not None and lineage.complete and side.heads.whole,
        "gaps": [*side.gaps, *(item.detail for item in (lineage.findings if lineage else ()))][:GAPS],
    }


def _steps(side: Side) -> int:
    if side.lineage is None:
        return 0 if side.final is None else side.final.steps
    return sum(len(interval.steps) for interval in side.lineage.intervals)


def _time(side: Side, policy: Policy) -> SideTimeForm:
    first = first_head(side)
    genesis = anchored(side, first, policy=policy)
    end = anchored(side, side.heads.newest, policy=policy)
    summary = None if side.times is None else side.times.summary
    external = summary is not None and summary.assurance == "external"
    pace = summary.pace if summary is not None and external else None
    covered = side.heads.records[: first.head.size] if first is not None else ()
    return {
        "assurance": "unverified" if summary is None else summary.assurance,
        "genesis": None if genesis is None else genesis.form(),
        "end": None if end is None else end.form(),
        "operators": sorted(operators(side).values()),
        "genesis_first": _genesis_first(first, covered),
        "steps_per_second": None if pace is None else pace["steps_per_second"],
    }


def _genesis_first(first: SealedHead | None, covered: Sequence[AnyRecord]) -> bool | None:
    """Whether the first head covers no step; None where its records are not shown."""
    if first is None or len(covered) < first.head.size:
        return None
    return not any(isinstance(item, Step) for item in covered)


def _verdict(report: Report) -> SideVerdictForm:
    return {
        "verdict": report.verdict,
        "sentence": sentence(report),
        "replayed": len(report.intervals),
        "intervals": report.sample.total if report.sample else 0,
        "comparison": report.comparison,
    }
