"""Figures as SVG inside a page: drawn by matplotlib, coloured by the page, the same bytes each time.

matplotlib writes styles into attributes, which a page's policy forbids, and one set of colours. Here every style
becomes an attribute of its own, and the colours that :data:`COLOURS` names become classes, so that a figure follows
light, dark and paper. Where matplotlib is missing there is no figure: callers show their table instead.

No text of evidence goes into a figure: names are numbers or letters that the page explains.
"""

import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from polledger.publish.markup import Markup, exact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = {
    "ink": "#010203",
    "faint": "#020304",
    "line": "#030405",
    "mark": "#040506",
    "second": "#050607",
    "good": "#060708",
    "bad": "#070809",
    "open": "#08090a",
    "paper": "#090a0b",
    "mark-shade": "#0a0b0c",
    "open-shade": "#0b0c0d",
}
"""Colours of the page by name, as matplotlib is to write them: near black, and each of them nothing else."""

SERIES = ("mark", "second", "good", "open", "bad", "ink", "faint", "mark")
"""Colours of lines that are told apart; from the fifth on their dashes help."""

FIGURE_STYLE = "".join(
    f".f-{name} {{ fill: var(--{name}); }} .s-{name} {{ stroke: var(--{name}); }}\n" for name in COLOURS
)

WIDTH = 8.6
"""Inches; with texts of 8.5 points this is legible at the width of a page."""

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": COLOURS["faint"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.5,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": False,
}

_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"#([^)]+)")
_KEPT = frozenset({
    "clip-path", "cx", "cy", "d", "fill-opacity", "height", "href", "id", "opacity", "points", "r", "rx", "ry",
    "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width",
    "text-anchor", "transform", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2",
})  # fmt: skip
"""Attributes that say how something looks or where it is; everything else is left out."""


def draw(name: str, label: str, height: float, paint: Callable[["Figure"], None]) -> Markup | None:
    """The figure that ``paint`` draws, ``height`` inches high; None where matplotlib is not installed.

    ``name`` is unique on the page. ``label`` says in words what is to be seen.
    """
    written = _painted(height, paint)
    return None if written is None else _themed(written, name, label)


def _painted(height: float, paint: Callable[["Figure"], None]) -> str | None:
    # A home that cannot be written to is no news to anybody who reads a report.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from io import StringIO

    # Nothing of a user's own matplotlibrc: the same report gives the same bytes.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_SETTINGS, "svg.hashsalt": "polledger"})
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        written = StringIO()
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})
    return written.getvalue()


def _themed(written: str, name: str, label: str) -> Markup:
    """matplotlib's SVG as an element of a page."""
    # Its own output of a moment ago: no entity of anybody else's is in it.
    root = ET.fromstring(written)  # noqa: S314
    used = _used(root)
    names = {old: f"{name}-{at}" for at, old in enumerate(used)}
    return Markup("".join(_written(root, names, label)))


def _used(root: ET.Element) -> dict[str, None]:
    """Names that something refers to, in order."""
    found: dict[str, None] = {}
    for node in root.iter():
        for key, value in node.attrib.items():
            if key.endswith("href") or key == "clip-path":
                found.update(dict.fromkeys(_REFERENCE.findall(value)))
    return found


def _written(node: ET.Element, names: dict[str, str], label: str = "") -> Iterator[str]:
    tag = node.tag.removeprefix(_SVG)
    if tag in ("metadata", "style"):
        return
    attributes = _attributes(node, names)
    if tag == "svg":
        attributes = {"viewBox": attributes["viewBox"], "role": "img", "aria-label": label, "class": "figure"}
    opened = "".join(f' {key}="{exact(value)}"' for key, value in attributes.items())
    content: list[str] = [exact(node.text)] if tag == "text" and node.text else []
    for child in node:
        content += _written(child, names)
    if content or tag not in ("g", "defs"):
        yield f"<{tag}{opened}>{''.join(content)}</{tag}>"


def _attributes(node: ET.Element, names: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    classes: list[str] = []
    given = {key.split("}")[-1]: value for key, value in node.attrib.items()}
    for key, value in (given | _declared(given.pop("style", ""))).items():
        if key in ("fill", "stroke"):
            _colour(key, value, found, classes)
        elif key == "font-size" or (key in _KEPT and (key != "id" or value in names)):
            found[key] = _short(value, names)
    if classes:
        found["class"] = " ".join(classes)
    return found


def _declared(style: str) -> dict[str, str]:
    """What a style attribute declares; of a font only its size, for its family is the page's."""
    pairs = (part.split(":", 1) for part in style.split(";") if ":" in part)
    found = {key.strip(): value.strip() for key, value in pairs}
    size = re.search(r"([\d.]+)px", found.pop("font", ""))
    return found | ({"font-size": size[1]} if size else {})


def _colour(key: str, value: str, found: dict[str, str], classes: list[str]) -> None:
    named = next((name for name, colour in COLOURS.items() if colour == value), None)
    if named is None:
        found[key] = value
    else:
        classes.append(f"{key[0]}-{named}")


def _short(value: str, names: dict[str, str]) -> str:
    """``value`` with names of this page and no more digits than anybody sees."""
    if value in names:
        return names[value]
    value = _REFERENCE.sub(lambda match: f"#{names[match[1]]}", value)
    return _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
