"""The sections of a report that are lists: findings, environment, code, duration, and what others need to repeat it."""

from collections.abc import Iterator, Sequence

from polledger.core.report import counted
from polledger.core.reportform import FindingForm, VerificationForm
from polledger.core.reportwords import seconds
from polledger.publish.markup import Content, Markup, element, joined
from polledger.publish.reportdata import StepState, blocks, flattened, step_states
from polledger.publish.reportshown import left_out, outcome, section
from polledger.publish.style import facts, table

FINDINGS = 25
"""Findings of one step that are listed; those that block come first."""

SOURCES = 60
"""Files of the task's source that are listed."""

VALUES = 200
"""Values of an environment that are listed."""

_CODE = {
    "recipe": (
        "A recipe: polledger itself runs forward, backward and step. What has to be read is model, data "
        "set, loss and collation."
    ),
    "custom": (
        "A custom task: its own code decides what a step does. All of it has to be read to know what was trained."
    ),
}

_TIMING = {
    "scan_seconds": "Reading and measuring stored checkpoints",
    "opened_seconds": "Opening the sample, all in all",
    "replay_seconds": "Replays, added up",
    "noise_seconds": "Noise floor",
}


def findings_section(value: VerificationForm) -> Markup:
    """What every step found, and what helps."""
    headings = ("Step", "Outcome", "What was found")
    rows = [row for item in step_states(value) for row in _step_rows(item)]
    return section(
        "findings", "Findings", table("Findings by step", headings, rows, quiet=True, kind="findings")
    )


def _step_rows(item: StepState) -> Iterator[Sequence[Content]]:
    ordered = sorted(item.findings, key=lambda finding: not blocks(finding))
    for at, finding in enumerate(ordered[:FINDINGS]):
        name = f"{item.step} {item.name}" if at == 0 else ""
        yield [name, _outcome(finding), _described(finding)]
    if len(ordered) > FINDINGS:
        yield ["", "", left_out(len(ordered) - FINDINGS, "finding")]
    if not ordered:
        yield [f"{item.step} {item.name}", element("span", "not asked for", class_="faint"), ""]


def _outcome(finding: FindingForm) -> Markup:
    if finding["outcome"] == "unverifiable" and not blocks(finding):
        return element("span", "noted", class_="faint")
    return outcome(finding["outcome"])


def _described(finding: FindingForm) -> Markup:
    place = [f"{name} {finding[name]}" for name in ("record", "interval") if name in finding]
    if finding["outcome"] == "pass":
        place = []
    remedy = finding.get("remedy") if finding["outcome"] != "pass" else None
    return joined(
        [
            f"{', '.join(place)}: " if place else None,
            finding["detail"],
            _compared(finding),
            element("small", element("b", "Remedy: "), remedy) if remedy else None,
        ]
    )


def _compared(finding: FindingForm) -> Content:
    if "expected" not in finding and "found" not in finding:
        return None
    expected, found = finding.get("expected", "-"), finding.get("found", "-")
    return element(
        "small", "expected ", element("code", expected), element("br"), "found ", element("code", found)
    )


def environment_section(value: VerificationForm) -> Markup:
    """Where the run was recorded and where it was replayed, differences first."""
    environment = value["environment"]
    recorded = flattened(environment.get("recorded", {}))
    replayed = flattened(environment.get("replayed", {}))
    differences = environment.get("differences")
    if not recorded:
        return section("environment", "Environment", element("p", "No environment is authentic."))
    names = sorted(recorded.keys() | replayed.keys())
    other = [name for name in names if replayed and recorded.get(name) != replayed.get(name)]
    rows = [_environment_row(name, recorded, replayed, differences or []) for name in other]
    rows += [
        [name, "", "", "in the class"]
        for name in differences or []
        if name not in recorded.keys() | replayed.keys()
    ]
    everything = (_environment_row(name, recorded, replayed, differences or []) for name in names[:VALUES])
    headings = ("Value", "Recorded", "Replayed here", "Differs")
    return section(
        "environment",
        "Environment",
        element("p", _class_words(differences)),
        table("What differs", headings, rows[:VALUES]) if rows else None,
        element(
            "details", element("summary", "All values"), table("All values", headings, everything, quiet=True)
        ),
        facts([("Isolation", _isolation(value))]),
    )


def _environment_row(
    name: str, recorded: dict[str, str], replayed: dict[str, str], differences: Sequence[str]
) -> list[Content]:
    one, two = recorded.get(name, "-"), replayed.get(name, "-") if replayed else ""
    differs = (
        "in the class" if name in differences else "outside the class" if replayed and one != two else ""
    )
    return [name, one, two, differs]


def _class_words(differences: Sequence[str] | None) -> str:
    if differences is None:
        return "Nothing was replayed here."
    if not differences:
        return "The replay ran in the recorded environment class: equal bits are owed."
    return (
        f"The replay ran in another environment class ({counted(len(differences), 'difference')}): bits may differ, "
        "and what differs is judged by the tolerance."
    )


def _isolation(value: VerificationForm) -> str | None:
    taken = value["environment"].get("isolation")
    if not taken:
        return None
    words = (
        f"{name} {'closed' if closed else 'open'} to the replay" for name, closed in sorted(taken.items())
    )
    return ", ".join(words)


def code_section(value: VerificationForm) -> Markup:
    """What code was trained with, and what of it has to be read."""
    code = value["code"]
    if not code:
        return section("code", "Code", element("p", "No genesis record names the code."))
    sources = code.get("sources", [])
    kind = code.get("kind", "")
    lines = f"{code['lines']} lines in {code.get('files', 0)} files" if "lines" in code else None
    return section(
        "code",
        "Code",
        element("p", _CODE.get(kind, "")),
        facts(
            [
                ("Kind", kind),
                ("Class", code.get("class")),
                ("Entry", code.get("entry")),
                ("To be read", lines),
                ("Vouched for by", code.get("vouched") or "nobody"),
                ("Task digest", element("code", code.get("digest", "-"))),
            ]
        ),
        table(
            "Committed files",
            ("Path", "Bytes", "SHA-256"),
            (
                [item["path"], str(item["size"]), element("code", item["sha256"])]
                for item in sources[:SOURCES]
            ),
            numbers=(1,),
        )
        if sources
        else None,
        left_out(code.get("files", 0) - min(len(sources), SOURCES), "file") if sources else None,
    )


def timing_section(value: VerificationForm) -> Markup:
    """How long this verification took."""
    timing = value["timing"]
    known = [(words, seconds(timing[name])) for name, words in _TIMING.items() if name in timing]
    if not known:
        return section("timing", "Duration", element("p", "Nothing that takes long was done."))
    replays = int(timing.get("noise_replays", 0))
    return section("timing", "Duration", facts([*known, ("Replays for the noise floor", str(replays))]))


def record_section(value: VerificationForm, *, digest: str) -> Markup:
    """What somebody else needs to repeat this, and where to sign."""
    head, sample = value["head"], value["sample"]
    return section(
        "record",
        "For the record",
        element(
            "p",
            "Whoever has the run can repeat this with the same nonce and policy, and gets the same sample. "
            "This page is made from report.json alone and says nothing that is not in it.",
        ),
        facts(
            [
                ("Run", _code(value["run"])),
                ("Head digest", _code(head["digest"] if head else None)),
                ("Root", _code(head["root"] if head else None)),
                ("Nonce", _code(sample["nonce"] if sample else None)),
                ("Policy digest", _code(value["policy"])),
                ("SHA-256 of report.json", _code(digest)),
            ]
        ),
        element(
            "div",
            *(
                element("div", words)
                for words in ("Name, organisation", "Place, date", "Signature", "Remarks")
            ),
            class_="sign keep",
        ),
    )


def _code(text: str | None) -> Content:
    return element("code", text) if text else None
