"""What ``polledger verify --report`` writes: a page, the object behind it, and that one signed. PROTOCOL section 14."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polledger.core.report import Report
    from polledger.keys import KeySigner
    from polledger.publish.directory import ReportDirectory

PAGE, OBJECT, SIGNED = "report.html", "report.json", "report.dsse.json"
"""Files of ``--report``."""

REPORT_TYPE = "application/vnd.polledger.verify+json"
"""Payload type of a signed report: the bytes of OBJECT."""


def report_directory(directory: Path) -> "ReportDirectory":
    """``directory``, ready to take a report. Raises UsageError for one that holds anything else, Unavailable."""
    from polledger.core.report import SCHEMA
    from polledger.publish.directory import ReportDirectory

    place = ReportDirectory(path=directory, page=PAGE, twin=OBJECT, schema=SCHEMA)
    place.prepare()
    return place


def report_signer(key: Path | None, report: Path | None) -> "KeySigner | None":
    """Who signs the report. Raises UsageError where there is none to sign, and for a file that is no key."""
    from polledger.errors import UsageError
    from polledger.keys import load_signer

    if key is None:
        return None
    if report is None:
        raise UsageError("--key signs the report: say where that goes with --report DIR")
    return load_signer(key.expanduser())


def write_report(report: "Report", place: "ReportDirectory", signer: "KeySigner | None") -> None:
    """Page and object, and over the object's bytes a signature if there is a ``signer``. Raises Unavailable."""
    from hashlib import sha256

    from polledger.core.dsse import encode_envelope, sign_envelope
    from polledger.files import reported, write_atomic
    from polledger.publish.report import report_page

    value = report.to_json()
    data = place.twin_bytes(value)
    place.write(value, report_page(value, digest=sha256(data).hexdigest()))
    signed = place.path / SIGNED
    if signer is not None:
        write_atomic(signed, [encode_envelope(sign_envelope(REPORT_TYPE, data, (signer,)))])
        return
    # A signature over an earlier report would stand beside this one.
    with reported(signed, "remove"):
        signed.unlink(missing_ok=True)
