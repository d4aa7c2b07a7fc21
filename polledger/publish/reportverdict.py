"""The first page of a report: the verdict, what it rests on, what it means and what it does not."""

from collections.abc import Iterator

from polledger.core.report import STEP_NAMES, counted, origin_text
from polledger.core.reportform import FindingForm, VerificationForm
from polledger.core.reportwords import (
    anchors_words,
    code_words,
    comparison_words,
    drawn_words,
)
from polledger.publish.markup import Content, Markup, element, joined
from polledger.publish.reportdata import StepState, blocks, step_states
from polledger.publish.style import facts

BLOCKING = 6
"""What stands in the way of a verdict, as listed on the first page; all of it is among the findings."""

STYLES = {"VERIFIED": "good", "REFUTED": "bad", "UNVERIFIABLE": "open"}

_SIGNS = {"VERIFIED": "✓", "REFUTED": "✗", "UNVERIFIABLE": "?"}

_STATES = {
    "pass": ("✓ passed", "good"),
    "fail": ("✗ failed", "bad"),
    "unverifiable": ("? not checked", "open"),
    "noted": ("noted", "faint"),
    "missing": ("not asked for", "faint"),
}


def verdict_box(value: VerificationForm) -> Markup:
    """The verdict in one word and one sentence."""
    verdict = value["verdict"]
    said = value["sentence"].removeprefix(f"{verdict}: ")
    return element(
        "div",
        element("p", f"{_SIGNS[verdict]} {verdict}", class_="word"),
        element("p", f"{said[:1].upper()}{said[1:]}.", class_="sentence"),
        class_=f"verdict {STYLES[verdict]}",
        role="status",
    )


def steps_strip(value: VerificationForm) -> Markup:
    """The ten numbered steps at a glance."""
    return element(
        "ol", *map(_step, step_states(value)), class_="steps", aria_label="Steps of the verification"
    )


def _step(item: StepState) -> Markup:
    words, style = _STATES[item.state]
    return element("li", element("b", f"{item.step} {item.name}"), element("span", words, class_=style))


def facts_list(value: VerificationForm) -> Markup:
    """What was verified, when and by what."""
    head, time = value["head"], value["time"]
    differences = value["environment"].get("differences") or []
    return facts(
        [
            ("Verified", _when(value)),
            ("Sealed", f"{head['size']} records under seal {head['seal']}" if head else "no authentic head"),
            ("Time", anchors_words(time["assurance"], time["first"], time["last"])),
            ("Sample", _sampled(value)),
            (
                "Starts from",
                origin_text(value["origin"]) if value["origin"].get("kind", "scratch") != "scratch" else None,
            ),
            ("Code", code_words(value["code"]) if value["code"] else None),
            (
                "Comparison",
                comparison_words(value["comparison"], differences, value["timing"])
                if value["comparison"] != "none"
                else "nothing was replayed",
            ),
        ]
    )


def _when(value: VerificationForm) -> str:
    return f"{value['verified_at'] or 'at an unknown time'}, by polledger {value['version'] or 'of unknown version'}"


def _sampled(value: VerificationForm) -> str | None:
    sample = value["sample"]
    if sample is None:
        return None
    return drawn_words(sample["drawn"], sample["total"], len(value["intervals"]))


def meaning(value: VerificationForm) -> Markup:
    """What the verdict means, and what it does not."""
    means = {"VERIFIED": _verified, "REFUTED": _refuted, "UNVERIFIABLE": _unverifiable}[value["verdict"]]
    return element(
        "section",
        element(
            "div",
            element("h2", "What this means"),
            element("ul", *(element("li", part) for part in means(value))),
        ),
        element(
            "div",
            element("h2", "What this does not say"),
            element("ul", *(element("li", limit) for limit in value["limits"])),
        ),
        class_="two",
    )


_SETTINGS = {
    True: "the committed ones",
    False: "within the bounds of the verifier's policy, for the task's own code chooses them",
}
"""What step 4 compared them with, by whether the task is a recipe."""


def _verified(value: VerificationForm) -> Iterator[Content]:
    exact = sum(result["exact"] for result in value["intervals"])
    yield (
        "The records are complete, in order, and under heads signed with the run's own key; the settings of every "
        f"step that is shown are {_SETTINGS[value['code'].get('kind') == 'recipe']}; the first state comes from "
        "what was committed."
    )
    yield (
        f"{counted(len(value['intervals']), 'interval')} "
        f"{'was' if len(value['intervals']) == 1 else 'were'} trained again from the committed code, "
        f"settings and examples: {exact} gave the recorded state bit for "
        f"bit{_within(len(value['intervals']) - exact)}."
    )
    yield "The draw follows from a number that the verifier chose after the last record was sealed."
    tenth = next((odds for odds in value["odds"] if odds["share"] == "10 %"), None)
    if tenth is not None:
        yield (
            f"Had {tenth['bogus']} intervals (10 %) not been training, this draw would have missed all of them with "
            f"probability {tenth['passes']:.2g}."
        )
    yield _dated(value)


def _within(count: int) -> str:
    return f", {count} lay within the tolerance that rounding explains" if count else ""


def _dated(value: VerificationForm) -> str:
    time = value["time"]
    if time["assurance"] == "external" and time["last"]:
        return (
            f"The trained model existed by {time['last']}; operators that the verifier trusts vouch for that."
        )
    return "Nobody but the prover vouches for the time."


def _refuted(value: VerificationForm) -> Iterator[Content]:
    yield (
        "Bytes under a head signed with the run's own key contradict each other, or what a replay of the "
        "committed code gives. Whoever has the same records can repeat the check."
    )
    bad = value["first_bad"]
    if bad is not None:
        yield joined(["What decided: ", finding_words(bad), _values(bad)])
    others = sum(finding["outcome"] == "fail" for finding in value["findings"]) - 1
    if others > 0:
        yield f"{others} more failed, see the findings below."
    yield "It does not say who made it so, or why."


def _unverifiable(value: VerificationForm) -> Iterator[Content]:
    yield (
        "Something that a verdict needs could not be checked here. That is no accusation, for loss, damage "
        "and refusal look the same; and it is no confirmation either."
    )
    stopped = [finding for finding in value["findings"] if blocks(finding)]
    for finding in stopped[:BLOCKING]:
        remedy = finding.get("remedy")
        yield joined(
            [finding_words(finding), joined([". ", element("b", "Remedy: "), remedy]) if remedy else None]
        )
    if len(stopped) > BLOCKING:
        yield f"{len(stopped) - BLOCKING} more, see the findings below."


def finding_words(finding: FindingForm) -> str:
    """A finding with the place it is about."""
    place = f"step {finding['step']} ({STEP_NAMES.get(finding['step'], 'unknown')}), "
    if "record" in finding:
        place += f"record {finding['record']}, "
    if "interval" in finding:
        place += f"interval {finding['interval']}, "
    return f"{place[0].upper()}{place[1:-2]}: {finding['detail']}"


def _values(finding: FindingForm) -> Content:
    if "expected" not in finding and "found" not in finding:
        return None
    return joined(
        [
            "; expected ",
            element("code", finding.get("expected", "-")),
            ", found ",
            element("code", finding.get("found", "-")),
        ]
    )
