"""Times as text, one way everywhere: ISO 8601 in UTC, with Z."""

from datetime import UTC, datetime


def utc_text(moment: datetime) -> str:
    """``moment``, which knows its zone, as exactly as it is known."""
    return _text(moment, "auto")


def utc_milliseconds(moment: datetime) -> str:
    """``moment``, which knows its zone, to the millisecond: what a machine's clock says."""
    return _text(moment, "milliseconds")


def _text(moment: datetime, timespec: str) -> str:
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
