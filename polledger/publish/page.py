"""The page of a claim: one HTML file that checks the claim in the reader's own browser, offline. PROTOCOL section 13.

Nothing is checked here. The page carries the bytes of claim, proof and tokens as they are, in elements that no
browser runs, and the scripts of ``browser/``, which read and check them. Its content security policy allows these
scripts and this style by their digests and nothing else: no request leaves it.
"""

import base64
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from polledger.publish.style import base_style, source

SCRIPTS = (
    "bytes.js",
    "sha256.js",
    "merkle.js",
    "plmp.js",
    "json.js",
    "records.js",
    "ed25519.js",
    "note.js",
    "der.js",
    "model.js",
    "claim.js",
    "words.js",
    "report.js",
    "check.js",
    "checktokens.js",
    "checkmodel.js",
    "view.js",
)
"""In this order: what a script runs when it is read stands before it."""

_STYLE, _TEMPLATE = "page.css", "page.html"


def render_page(*, envelope: bytes, proof: bytes, tokens: Sequence[bytes]) -> bytes:
    """The page over a claim's envelope, its public proof and the time-stamp tokens over its heads.

    The same arguments give the same bytes. Nothing in them is interpreted: what is no claim makes a page that says so.
    """
    style = base_style() + _read(_STYLE)
    scripts = [_read(name) for name in SCRIPTS]
    data = [*_carried(envelope, proof), *(_data("token", token) for token in tokens)]
    parts = {
        "policy": _policy(style, scripts),
        "style": style,
        "data": "\n".join(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return _filled(_read(_TEMPLATE), parts).encode("utf-8")


def carried_parts(*, envelope: bytes, proof: bytes) -> list[bytes]:
    """What every page over this claim and this proof has in it, whichever version made it."""
    return [part.encode() for part in _carried(envelope, proof)]


def _carried(envelope: bytes, proof: bytes) -> list[str]:
    return [_data("envelope", envelope), _data("proof", proof)]


@cache
def _read(name: str) -> str:
    return files(__package__).joinpath("browser", name).read_text("utf-8")


def _policy(style: str, scripts: Sequence[str]) -> str:
    allowed = " ".join(map(source, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {source(style)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _data(kind: str, data: bytes) -> str:
    return f'<script type="application/octet-stream" data-{kind}>{_base64(data)}</script>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _filled(template: str, parts: dict[str, str]) -> str:
    """``template`` with each ``<!-- NAME -->`` replaced, in one pass: what is put in is not looked at again."""
    pieces = []
    for piece in template.split("<!-- "):
        name, mark, rest = piece.partition(" -->")
        pieces.append(parts[name] + rest if mark else piece)
    return "".join(pieces)
