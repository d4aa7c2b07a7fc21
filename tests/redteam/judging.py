"""Verifies forged runs as ``polledger verify`` does, sharing the replaying processes of runs that replay alike."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polledger.cli.code import CodeOptions, Engines, load_code
from polledger.cli.parents import Parents
from polledger.core.records import Environment
from polledger.core.replay import Replayer
from polledger.core.report import Finding, Report
from polledger.redteam.spoof import Forgery
from polledger.store.run import RunDirectory
from polledger.timestamp.trust import load_trust
from polledger.training.overrides import parse_inputs
from polledger.training.replay import read_model
from polledger.verify.evidence import read_evidence
from polledger.verify.policy import load_policy
from polledger.verify.request import Code, Request
from polledger.verify.sampling import SampleRequest
from polledger.verify.verifier import verify
from tests.verify.check import Silent

NONCE = b"\x5e" * 32
KEPT = 4
"""Replaying engines that wait for the next run: each has up to two processes of a quarter of a gigabyte."""


@dataclass(slots=True)
class Pool:
    """Engines by what they were started for, used again by the next verification that wants the same."""

    _free: list[tuple[Any, Any]] = field(default_factory=list)

    def starting(self, engines: Any) -> Any:
        """``engines`` that take from this pool what fits."""

        def start(environment: Environment) -> AbstractContextManager[Replayer]:
            return self._lent(engines, environment)

        return start

    @contextmanager
    def _lent(self, engines: Engines, environment: Environment) -> Iterator[Replayer]:
        wanted = (engines.program, engines.genesis.config, engines.genesis.seed, engines.genesis.bound,
                  engines.genesis.key, engines.genesis.kind, dict(engines.inputs), environment)  # fmt: skip
        engine = next((item for key, item in self._free if key == wanted), None)
        if engine is None:
            engine = engines(environment)
        else:
            self._free.remove((wanted, engine))
        yield engine
        self._free.append((wanted, engine))
        while len(self._free) > KEPT:
            self._free.pop(0)[1].close()

    def close(self) -> None:
        for _, engine in self._free:
            engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A verifier. ``pool`` None: every verification has processes of its own."""

    pool: Pool | None = None

    def __call__(self, forgery: Forgery, parents: Sequence[Path] = (), /, **changes: Any) -> Report:
        """The report on a forged run, at the sample and with the arguments that the forgery states.

        ``parents``: runs that the verifier has besides.
        """
        given = _arguments(forgery.arguments)
        policy = load_policy(given.policy)
        run = RunDirectory.open(forgery.run)
        options = CodeOptions(
            tasks=(given.task,) if given.task else (),
            trusted=(given.trust_code,) if given.trust_code else (),
            inputs=parse_inputs(given.input),
        )
        request = Request(
            policy=policy,
            nonce=bytes.fromhex(given.nonce) if given.nonce else NONCE,
            now=datetime.now(UTC),
            sample=SampleRequest(count=forgery.sample),
            trust=load_trust(given.trust) if given.trust else None,
            model=given.model,
            read_model=lambda path: read_model(path)[1],
        )

        def code_of(run: RunDirectory, options: CodeOptions) -> Callable[[Any], Code]:
            def code(genesis: Any) -> Code:
                found = load_code(run, genesis, options, policy)
                if self.pool is None or found.engines is None:
                    return found
                return replace(found, engines=self.pool.starting(found.engines))

            return code

        return verify(
            read_evidence(run),
            replace(request, **changes),
            load_code=code_of(run, options),
            clock=time.monotonic,
            watcher=Silent(),
            find=Parents.given(parents, options, code_of).of(run),
        )


def _arguments(words: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--policy", "--trust", "--model"):
        parser.add_argument(name, type=Path)
    for name in ("--trust-code", "--task", "--nonce"):
        parser.add_argument(name)
    parser.add_argument("--input", action="append", default=[])
    return parser.parse_args(words)


def caught(report: Report) -> dict[tuple[int, str], str]:
    """Outcome by step and name of every finding that keeps the run from VERIFIED."""
    found: dict[tuple[int, str], str] = {}
    for item in report.findings:
        if item.blocks and found.get((item.step, item.name)) != "fail":
            found[item.step, item.name] = item.outcome
    return found


def the(report: Report, step: int, name: str) -> Finding:
    """The first blocking finding of that step and name."""
    return next(item for item in report.findings if (item.step, item.name, item.blocks) == (step, name, True))
