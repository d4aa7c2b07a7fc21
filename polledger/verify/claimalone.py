"""A claim without the run: what its public proof shows, or what the claim alone shows. Never VERIFIED."""

from dataclasses import replace

from polledger import __version__
from polledger.core.claim import Claim
from polledger.core.moment import utc_text
from polledger.core.publicproof import parse_public_proof
from polledger.core.report import Finding, Report, missing_checks
from polledger.errors import MalformedError, Unavailable
from polledger.store.claimfiles import PROOF, ClaimFiles
from polledger.verify.binding import bind_file
from polledger.verify.claim import (
    ClaimRequest,
    accusing_nobody,
    claim_reader,
    read_claim,
    step_claim,
    step_claim_time,
    step_files,
)
from polledger.verify.claimfields import ASK, KnownRun, listed_tensors
from polledger.verify.publicproof import NOTHING, PublicRun, check_public_proof
from polledger.verify.request import Request
from polledger.verify.time import step_time
from polledger.verify.verifier import head_form, no_torch_files
from polledger.verify.witness import step_witnesses

NOT_SHOWN = "a claim and its public proof do not show the training itself"

REMEDY = "ask the claimant to open a sample of the run on a challenge of yours (polledger challenge)"


def read_claim_files(files: ClaimFiles) -> ClaimRequest:
    """The claim, and the tokens over it that the proof beside it names.

    Raises UsageError if there is no claim, Unavailable if it cannot be read, MalformedError if it is none.
    """
    read = read_claim(files.read())
    try:
        data = files.read_proof()
        stamps = () if data is None else tuple(parse_public_proof(data).claim)
    except (MalformedError, Unavailable):
        # What is wrong with the proof is said where the proof is looked at.
        stamps = ()
    return ClaimRequest(read=read, stamps=stamps, folder=files.tokens)


def damaged_claim(error: MalformedError, request: Request) -> Report:
    """The report over a file that is no claim: it shows nothing, and nothing against anybody."""
    detail = f"this is not a claim as polledger writes it: it was damaged or changed ({error})"
    finding = Finding(step=1, name="parse", outcome="unverifiable", detail=detail, remedy=ASK)
    return _report((finding,), request, NOTHING, None)


def verify_alone(files: ClaimFiles, asked: ClaimRequest, request: Request) -> Report:
    """Check a claim by what lies beside it. Never VERIFIED: the steps that need the run are not done."""
    shown, missing = _public_run(files)
    findings = list(shown.findings)
    report = _report((), request, shown, asked.read.claim)
    if shown.heads.newest is not None:
        times = step_time(
            shown.heads, files.tokens, trust=request.trust, policy=request.policy, now=request.now
        )
        witnessed = step_witnesses(shown.heads, trust=request.trust, policy=request.policy, now=request.now)
        findings += [*times.findings, *witnessed.findings]
        report = replace(report, time=replace(times.summary, witnesses=witnessed.summaries))
    if asked.read.signature is None or shown.genesis is None or not asked.read.names(shown.genesis):
        findings = [accusing_nobody(finding, "proof") for finding in findings]
    known = None
    if shown.facts is not None:
        known = KnownRun(facts=shown.facts, heads=shown.heads.heads, objects=files.tokens, entries=None)
    findings += step_claim(asked.read, known, missing)
    findings += _binding(asked, known, request)
    findings += step_files(asked.read, request.model)
    reader = claim_reader(asked, trust=request.trust, policy=request.policy, now=request.now)
    findings.append(step_claim_time(asked, reader))
    return replace(report, findings=_with_missing(findings, model=request.model is not None))


def _public_run(files: ClaimFiles) -> tuple[PublicRun, str]:
    """What the proof beside the claim establishes, and why the claim cannot be held against it if it cannot."""
    try:
        data = files.read_proof()
        if data is None:
            return (
                NOTHING,
                f"there is no {PROOF} beside the claim, so that nothing it says of the run was checked",
            )
        shown = check_public_proof(parse_public_proof(data))
    except (MalformedError, Unavailable) as error:
        detail = f"{PROOF} cannot be read: {error}"
        finding = Finding(
            step=1,
            name="parse",
            outcome="unverifiable",
            detail=detail,
            remedy="ask the claimant for it again",
        )
        return replace(NOTHING, findings=(finding,)), "the proof beside the claim is damaged"
    problem = next((finding.detail for finding in shown.findings if finding.blocks), None)
    if problem is not None:
        return shown, f"the proof beside the claim does not hold: {problem}"
    return (
        shown,
        "the proof beside the claim does not show the last record of a finished run, which names the model",
    )


def _binding(asked: ClaimRequest, known: KnownRun | None, request: Request) -> list[Finding]:
    """Step 10 for a model file: against the sealed model root, or, without a proof, against the claim's word."""
    if request.model is None:
        return []
    claim = asked.read.claim
    return bind_file(
        request.model,
        request.read_model or no_torch_files,
        root=bytes.fromhex(claim.model.root) if known is None else known.facts.final.model_root,
        record=None if known is None else known.facts.final.index,
        original=lambda: None,
        listed=listed_tensors(claim),
    )


def _with_missing(findings: list[Finding], *, model: bool) -> tuple[Finding, ...]:
    spoken = {(finding.step, finding.name) for finding in findings}
    for step, name in missing_checks(findings, model=model, claim=True):
        if (step, name) not in spoken:
            findings.append(
                Finding(step=step, name=name, outcome="unverifiable", detail=NOT_SHOWN, remedy=REMEDY)
            )
    return tuple(sorted(findings, key=_weight))


def _weight(finding: Finding) -> tuple[bool, bool, int]:
    """What is wrong with the claim itself comes first, what a claim cannot show last."""
    return finding.detail == NOT_SHOWN, not (finding.name == "claim" and finding.blocks), finding.step


def _report(findings: tuple[Finding, ...], request: Request, shown: PublicRun, claim: Claim | None) -> Report:
    return Report(
        run=None if claim is None else claim.training.run,
        head=head_form(shown.heads),
        findings=findings,
        rules=request.policy.comparison.rules,
        policy=request.policy.digest().hex(),
        model=request.model is not None,
        claim=True,
        at=utc_text(request.now.replace(microsecond=0)),
        version=__version__,
    )
