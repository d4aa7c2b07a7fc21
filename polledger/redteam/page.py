"""The red team's result as one HTML file: nothing is fetched, nothing runs, light and dark."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from polledger.redteam.table import (
    Line,
    cost_words,
    opened_words,
    ratio_words,
    reference_words,
    summary_words,
    verdict_words,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #59636e; --line: #d1d9e0;
  --good: #116329; --bad: #a40e26; --shade: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d;
  --good: #56d364; --bad: #ff7b72; --shade: #151b23; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } p { max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: 60rem; }
.faint { color: var(--faint); }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem; border-top: 1px solid var(--line); }
thead th { background: var(--shade); border-top: 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th[scope=row] { font-weight: 600; } th small, td small { display: block; color: var(--faint); font-weight: 400; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.known { font-weight: 600; }
details { margin-top: .25rem; } summary { cursor: pointer; color: var(--faint); }
dl { display: grid; grid-template-columns: max-content auto; gap: .25rem 1rem; } dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
"""

_HEADINGS = ("Spoof", "Verdict", "Found, of trials", "Opened", "Cost", "Published verifier", "Smallest error")


def redteam_page(value: Mapping[str, Any], lines: Iterable[Line]) -> str:
    """``value``, the object of ``redteam --json``, as a page; ``lines`` are its spoofs."""
    policy = f"default-src 'none'; style-src '{_hash(_STYLE)}'; base-uri 'none'; form-action 'none'"
    shown = list(lines)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>polledger redteam</title><style>{_STYLE}</style></head><body><main>",
        "<h1>What became of every spoof</h1>",
        f"<p>{_summary(shown)}</p>",
        _facts(value),
        '<p class="faint">Each spoof forged a whole run, sealed and timestamped as a prover would; the verdict is that '
        "of <code>polledger verify</code>. Costs are in gradient computations of the honest training of the stolen "
        "model. Errors are in displacements, of the closest interval that failed: by its worst group and, in brackets, "
        "by its parameters. The published verifier opens the largest updates and bounds their l2 distance "
        "absolutely.</p>",
        '<div class="wide" role="region" aria-label="Spoofs" tabindex="0"><table>',
        "<caption>Spoofs and what became of them</caption>",
        f"<thead><tr>{''.join(f'<th scope=col>{heading}</th>' for heading in _HEADINGS)}</tr></thead><tbody>",
        *map(_row, shown),
        "</tbody></table></div>",
        _skipped(value["skipped"]),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _hash(style: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _summary(lines: list[Line]) -> str:
    if not lines:
        return "No spoof could be tried."
    style = "bad" if any(line.succeeded for line in lines) else "good"
    words = summary_words(lines)
    return f'<span class="{style}">{escape(words[0].upper() + words[1:])}.</span>'


def _facts(value: Mapping[str, Any]) -> str:
    target = value["target"]
    settings = " ".join(target["settings"]) or "the task's own"
    facts = {
        "Stolen from": target["run"],
        "Task": target["task"],
        "Settings": settings,
        "Steps": f"{target['steps']}, a checkpoint every {target['every']}, after each of the first {target['warm']}",
    }
    return (
        f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(str(text))}</dd>' for name, text in facts.items())}</dl>"
    )


def _row(line: Line) -> str:
    style = "bad" if line.succeeded else "known" if line.verdicts.get("VERIFIED") else "good"
    rate = f"{line.detected} of {line.trials}<small>95 %: {line.low:.3f} to {line.high:.3f}</small>"
    cells = [
        f'<th scope="row">{escape(line.spoof)} {escape(line.title)}<small>{escape(line.source)}</small></th>',
        f'<td><span class="{style}">{escape(verdict_words(line))}</span>{_details(line)}</td>',
        f'<td class="number">{rate}</td>',
        f"<td>{escape(opened_words(line))}</td>",
        f'<td class="number">{line.cost:.3g}</td>',
        f"<td>{escape(reference_words(line).removeprefix('published verifier').removeprefix(':').strip())}</td>",
        f'<td class="number">{escape(ratio_words(line))}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _details(line: Line) -> str:
    reached = ", ".join(f"{name} {number:.4g}" for name, number in line.reached.items())
    items = {"found": line.detail, "how": line.note, "reached": reached, "cost": cost_words(line)}
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in items.items() if text)
    return f"<details><summary>details</summary><dl>{listed}</dl></details>"


def _skipped(items: list[Mapping[str, Any]]) -> str:
    if not items:
        return ""
    reasons = dict.fromkeys((item["spoof"], item["reason"]) for item in items)
    listed = "".join(f"<li>{escape(spoof)}: {escape(reason)}</li>" for spoof, reason in reasons)
    return f"<h2>Could not be tried</h2><ul>{listed}</ul>"
