"""Runs the verifier in tests, and looks at what it found."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from polledger.core.report import Finding, Report
from polledger.store.run import RunDirectory
from polledger.verify.ancestry import FindRun, nowhere
from polledger.verify.evidence import read_evidence
from polledger.verify.policy import Policy
from polledger.verify.request import Request
from polledger.verify.sampling import SampleRequest
from polledger.verify.verifier import verify
from tests.verify.build import NOW, Built

ALL = SampleRequest(count=1_000)

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "schemas" / "verify-report.schema.json").read_text("utf-8")
)


class Silent:
    """A watcher that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.intervals: list[int] = []
        self.read = (0, 0)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def scanned(self, done: int, total: int) -> None:
        self.read = (done, total)

    def opened(self, result: Any, done: int, total: int) -> None:
        self.intervals.append(result.interval)


def request(**values: Any) -> Request:
    return Request(**{"policy": Policy(), "nonce": b"n" * 32, "now": NOW, "sample": ALL, **values})


def check(
    built: Built,
    *,
    code: Any = None,
    clock: Callable[[], float] = time.monotonic,
    find: FindRun = nowhere,
    **values: Any,
) -> Report:
    """Verify ``built`` with every interval opened, unless told otherwise."""
    return verify(
        read_evidence(built.run),
        request(**values),
        load_code=code or built.code(),
        clock=clock,
        watcher=Silent(),
        find=find,
    )


def copy_of(built: Built, path: Path) -> Built:
    shutil.copytree(built.run.path, path)
    return replace(built, run=RunDirectory.open(path))


def failures(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.outcome == "fail"]


def blocking(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.blocks]


def named(report: Report, name: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.name == name]


def closed(schema: Any) -> Any:
    """``schema`` without room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return inner | {"additionalProperties": False} if "properties" in schema else inner


def validate(value: Any) -> None:
    """Hold an object of ``verify --json`` against its schema; nothing in it is undocumented."""
    Draft202012Validator(closed(SCHEMA)).validate(json.loads(json.dumps(value, allow_nan=False)))
