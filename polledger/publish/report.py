"""The report of a verification as one HTML file that an auditor can read, print and sign. PROTOCOL section 14.

A function of the JSON object of ``verify --json``: whatever the page says is in there, and the same object gives the
same bytes. Verdict first, then what it means and what not, then the evidence. Nothing is fetched, nothing runs, and
texts of the run are shown as they are, characters that would act spelled out.
"""

from functools import cache
from importlib.resources import files

from polledger.core.reportform import VerificationForm
from polledger.publish.figures import FIGURE_STYLE
from polledger.publish.markup import Content, element, exact
from polledger.publish.reportfacts import (
    code_section,
    environment_section,
    findings_section,
    record_section,
    timing_section,
)
from polledger.publish.reportmap import MAP_STYLE
from polledger.publish.reportsample import odds_section, sample_section
from polledger.publish.reportshown import errors_section, timeline_section, trajectory_section
from polledger.publish.reportverdict import facts_list, meaning, steps_strip, verdict_box
from polledger.publish.style import document

_SECTIONS = {
    "errors": "Reproduction",
    "time": "Time",
    "way": "Trajectory",
    "sample": "Sample",
    "odds": "Odds",
    "environment": "Environment",
    "findings": "Findings",
    "code": "Code",
    "timing": "Duration",
    "record": "Record",
}


def report_page(value: VerificationForm, *, digest: str) -> str:
    """The page over ``value``; ``digest`` is the SHA-256 (hex) of the file that holds it."""
    run = value["run"] or "unknown"
    return document(
        f"{value['verdict']}: training run {run}",
        element("p", "Verification report", class_="over"),
        element("h1", "Training run ", element("code", run)),
        verdict_box(value),
        steps_strip(value),
        facts_list(value),
        _contents(),
        meaning(value),
        errors_section(value),
        timeline_section(value),
        trajectory_section(value),
        sample_section(value),
        odds_section(value),
        environment_section(value),
        findings_section(value),
        code_section(value),
        timing_section(value),
        record_section(value, digest=digest),
        style=_style(),
    )


@cache
def _style() -> str:
    return files(__package__).joinpath("report.css").read_text("utf-8") + FIGURE_STYLE + MAP_STYLE


def _contents() -> Content:
    links = (element("a", exact(words), href=f"#{name}") for name, words in _SECTIONS.items())
    return element("nav", *links, aria_label="Sections")
