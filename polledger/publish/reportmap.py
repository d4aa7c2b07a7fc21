"""Every interval of a run as a cell: drawn, added, flagged, failed. Plain SVG, which needs no library."""

from collections.abc import Sequence

from polledger.publish.markup import Markup, element, joined
from polledger.publish.reportdata import Cell, Fate

COLUMNS = 50

_FEW = 500
"""Up to here cells are shown larger."""

_STEP, _SIZE = 14, 11
_MARGIN = 56
"""Pixels to the left, where the number of a row's first interval stands."""

WORDS: dict[Fate, str] = {
    "drawn": "drawn, passed",
    "added": "opened besides, passed",
    "unchecked": "asked for, not decided",
    "failed": "failed",
    "closed": "not opened",
}

MAP_STYLE = """
.map { display: block; max-width: 100%; height: auto; }
.map text { font-size: 10px; fill: var(--faint); text-anchor: end; font-variant-numeric: tabular-nums; }
.c-closed { fill: var(--shade); stroke: var(--line); }
.c-drawn { fill: var(--mark); stroke: var(--mark); }
.c-added { fill: var(--mark-shade); stroke: var(--mark); }
.c-unchecked { fill: var(--open-shade); stroke: var(--open); }
.c-failed { fill: var(--bad); stroke: var(--bad); }
.c-sign { fill: none; stroke-width: 1.6; } .c-sign-failed { stroke: var(--paper); }
.c-sign-unchecked { stroke: var(--open); } .c-flag { fill: var(--open); stroke: var(--paper); stroke-width: .5; }
.key { display: inline-block; margin: 0 1.25rem .25rem 0; font-size: .875rem; white-space: nowrap; }
.key svg { vertical-align: -1px; margin-right: .4rem; }
@media print { .c-drawn, .c-failed, .c-added, .map, .key { print-color-adjust: exact; } }
"""


def interval_map(cells: Sequence[Cell], label: str) -> Markup:
    """``cells`` in rows of COLUMNS; ``label`` says in words what is to be seen."""
    rows = -(-len(cells) // COLUMNS)
    width = _MARGIN + min(COLUMNS, max(len(cells), 1)) * _STEP
    scale = 1.25 if len(cells) <= _FEW else 1
    numbers = (
        element("text", str(cells[row * COLUMNS].first), x=_MARGIN - 8, y=row * _STEP + _SIZE - 1)
        for row in range(rows)
    )
    return element(
        "svg",
        *numbers,
        *_shapes(cells, _MARGIN),
        class_="map",
        role="img",
        aria_label=label,
        viewBox=f"0 -1 {width} {rows * _STEP + 1}",
        width=round(width * scale),
        height=round((rows * _STEP + 1) * scale),
    )


def interval_key() -> Markup:
    """What the cells of a map mean."""
    shown = [(Cell(first=0, size=1, fate=fate, flagged=False), words) for fate, words in WORDS.items()]
    shown.append((Cell(first=0, size=1, fate="closed", flagged=True), "flagged by screening"))
    return element("p", *(_key(cell, words) for cell, words in shown))


def _key(cell: Cell, words: str) -> Markup:
    drawing = element(
        "svg", *_shapes([cell], 0), viewBox="-1 -1 13 13", width=13, height=13, aria_hidden="true"
    )
    return element("span", drawing, words, class_="key")


def _shapes(cells: Sequence[Cell], left: int) -> list[Markup]:
    """One path for all cells of one kind: two thousand elements would be slow, and large."""
    places = [(left + at % COLUMNS * _STEP, at // COLUMNS * _STEP, cell) for at, cell in enumerate(cells)]
    found = []
    for fate in WORDS:
        corners = [(x, y) for x, y, cell in places if cell.fate == fate]
        square = f"h{_SIZE}v{_SIZE}h-{_SIZE}z"
        found.append(_path(corners, square, f"c-{fate}"))
    failed = [(x + 3, y + 3) for x, y, cell in places if cell.fate == "failed"]
    found.append(_path(failed, "l5 5m-5 0l5-5", "c-sign c-sign-failed"))
    unchecked = [(x + 3, y + 5.5) for x, y, cell in places if cell.fate == "unchecked"]
    found.append(_path(unchecked, "h5", "c-sign c-sign-unchecked"))
    flagged = [(x + 5, y - 1) for x, y, cell in places if cell.flagged]
    found.append(_path(flagged, "h7v7z", "c-flag"))
    return [path for path in found if path]


def _path(corners: Sequence[tuple[float, float]], shape: str, kind: str) -> Markup:
    if not corners:
        return joined([])
    return element("path", d="".join(f"M{x:g} {y:g}{shape}" for x, y in corners), class_=kind)
