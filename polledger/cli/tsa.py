"""``polledger tsa serve``: an RFC 3161 authority for a team or a test bench."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from polledger.cli.defaults import Verb, require_verb
from polledger.cli.output import output
from polledger.errors import EXIT_INTERRUPTED, EXIT_OK, Unavailable, UsageError

if TYPE_CHECKING:
    from polledger.timestamp.figures import Figures
    from polledger.timestamp.server import Server
    from polledger.timestamp.standalone import StandaloneAuthority

app = typer.Typer(help="Run an RFC 3161 time-stamping authority.")

SCHEMA: Final = "polledger.tsa-serve/1"

REPORT_SECONDS: Final = 60.0
"""How often the figures are told while something is served."""

DIRECTORY: Final = "tsa-server"
"""Where the authority lies in the user's directory; the embedded one lies in ``tsa``."""

EXAMPLES: Final = (
    "The trust entry goes to standard output, the rest to standard error: "
    "polledger tsa serve > entry.toml. Ask it with: "
    "curl -H 'Content-Type: application/timestamp-query' --data-binary @query.tsq http://127.0.0.1:3161/"
)


@app.callback(invoke_without_command=True)
def _verbs(context: typer.Context) -> None:
    require_verb(context)


@app.command("serve", cls=Verb, epilog=EXAMPLES)
def serve(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:3161",
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help=f"Its key, root and state, made on first use. Default: {DIRECTORY} in $POLLEDGER_HOME.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Who runs it, on first use. Default: this machine's name."
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="OID", help="The policy its tokens state, dotted.")
    ] = None,
    rsa: Annotated[
        bool,
        typer.Option("--rsa", help="On first use make an RSA key, for clients that cannot verify P-256."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with the figures, at the end.")
    ] = False,
) -> None:
    """Answer RFC 3161 queries over HTTP until SIGTERM (exit code 0) or Ctrl-C (130).

    Its time is this machine's clock: keep that synchronised. Requests that have begun are answered before it ends.
    """
    from polledger.keys import home
    from polledger.timestamp.server import Server
    from polledger.timestamp.standalone import POLICY, StandaloneAuthority

    place = home() / DIRECTORY if directory is None else directory.expanduser()
    with _listening(listen) as listener:
        authority = StandaloneAuthority.open(
            place.absolute(),
            clock=lambda: datetime.now(UTC),
            policy=policy or POLICY,
            name=name,
            default_name=socket.gethostname()[:64] or "localhost",
            use_rsa=rsa,
        )
        server = Server(listener, authority.issue, warn=output.note)
        with _stopping(server) as received:
            _introduce(authority, _url(listener))
            figures = server.serve(every=REPORT_SECONDS, report=_report)
        authority.clock.keep()
    code = EXIT_INTERRUPTED if signal.SIGINT in received else EXIT_OK
    output.result({"schema": SCHEMA, "exit_code": code, **_fields(figures)})
    output.sentence(f"stopped: {figures.sentence()}")
    raise typer.Exit(code)


@contextmanager
def _listening(place: str) -> Iterator[socket.socket]:
    from polledger.timestamp.server import BACKLOG

    host, port = _address(place)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # The parts of a name that cannot be resolved carry no strerror of the system.
        raise Unavailable(f"cannot listen on {place}: {error.strerror or error}") from None
    with listener:
        yield listener


def _address(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) >= 1 << 16:
        raise UsageError(f"--listen takes HOST:PORT, like 127.0.0.1:3161 or [::1]:3161, not {place!r}")
    return host, int(port)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    # "Any address" is none that a client could connect to.
    if ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def _stopping(server: "Server") -> Iterator[list[int]]:
    """Let SIGTERM and SIGINT end the server, and a second one the process; the signals that came."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        server.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _introduce(authority: "StandaloneAuthority", url: str) -> None:
    """Say where it listens, what there is to trust, and how a verifier does."""
    from cryptography.hazmat.primitives.hashes import SHA256

    from polledger.timestamp.standalone import WARNING

    local = authority.local
    output.note(f"listening on {url}")
    output.note(f"root certificate {authority.root_path}, SHA-256 {local.root.fingerprint(SHA256()).hex()}")
    left = authority.remaining(datetime.now(UTC))
    end = f"valid until {local.leaf.not_valid_after_utc:%Y-%m-%d}"
    output.note(f"{end}: make a new authority in another --dir now" if left < WARNING else end)
    trouble = authority.clock.trouble()
    if trouble:
        output.note(trouble)
    output.text(_entry(authority, url))


def _entry(authority: "StandaloneAuthority", url: str) -> str:
    """The trust file of a verifier who believes this authority, and nobody else."""
    values = {
        "name": authority.name,
        "operator": authority.name,
        "url": url,
        "roots": [str(authority.root_path)],
        "policies": [authority.local.policy],
    }
    # JSON strings without escapes beyond those of JSON are TOML strings.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(
        ["# For the trust file of whoever believes this authority's clock:", "[[authority]]", *lines]
    )


def _report(figures: "Figures") -> None:
    if figures.answered or figures.refused:
        output.note(figures.sentence())


def _fields(figures: "Figures") -> dict[str, Any]:
    return {
        "seconds": figures.seconds,
        "granted": figures.granted,
        "rejected": figures.rejected,
        "refused": figures.refused,
        "rate": figures.rate,
        "busy": figures.busy,
        "slowest": figures.slowest,
    }
