"""Step 7: a policy that knows the data."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.records import Dataset, Environment, Genesis
from polledger.core.replay import OpenedBatch, Replayer
from polledger.core.seeds import known_entry
from polledger.errors import UsageError
from polledger.verify.lineage import build_lineage
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.request import Code
from tests.verify.build import ENVIRONMENT, Built, NumpyReplayer, Spec, example, make_run
from tests.verify.check import check, named
from tests.verify.test_data import checks


def digest(spec: Spec) -> str:
    entries = [known_entry([example(spec, index)]) for index in range(spec.examples)]
    return tree_root([leaf_hash(entry) for entry in entries]).hex()


def knowing(*digests: str) -> Policy:
    listed = ", ".join(f'"{item}"' for item in digests)
    return parse_policy(f"[data]\nknown = [{listed}]")


def test_a_run_on_known_data_verifies(honest: Built) -> None:
    report = check(honest, policy=knowing("ab" * 32, digest(honest.spec)))
    assert report.verdict == "VERIFIED", report.first_bad
    (finding,) = named(report, "data.known")
    assert finding.outcome == "pass"
    assert digest(honest.spec) in finding.detail


def test_without_a_list_nothing_is_said_of_it(honest: Built) -> None:
    assert named(check(honest), "data.known") == []


def test_a_run_on_other_data_is_unverifiable_and_its_digest_is_said(honest: Built) -> None:
    report = check(honest, policy=knowing(digest(replace(honest.spec, labels=1))))
    assert report.verdict == "UNVERIFIABLE"
    (finding,) = named(report, "data.known")
    assert digest(honest.spec) in finding.detail
    assert "data.known" in (finding.remedy or "")


def test_a_run_that_commits_to_no_data_set_is_unverifiable(custom: Built) -> None:
    report = check(custom, policy=knowing("ab" * 32))
    assert report.verdict == "UNVERIFIABLE"
    assert [finding.outcome for finding in named(report, "data.known")] == ["unverifiable"]


class TwoFaced(NumpyReplayer):
    """Gives known data in its first ``calls`` conversations, and after that the ones that were trained on."""

    calls = 1

    def open_batches(self, steps: Sequence[tuple[int, Sequence[int] | None]]) -> Iterator[OpenedBatch]:
        self.data = replace(self.spec, labels=0) if self.calls > 0 else self.spec
        self.calls -= 1
        return super().open_batches(steps)


def test_data_that_show_another_face_when_read_as_a_whole_are_unverifiable(tmp_path: Path) -> None:
    steered = make_run(tmp_path / "run", Spec(labels=1, domains=None))
    policy = knowing(digest(Spec(domains=None)))

    def engine(environment: Environment) -> AbstractContextManager[Replayer]:
        return nullcontext(TwoFaced(spec=steered.spec, environment=environment))

    code = Code(summary={}, engines=engine, inputs_declared=True)
    report = check(steered, policy=policy, code=lambda genesis: code)
    assert report.verdict == "UNVERIFIABLE"
    assert [finding.outcome for finding in named(report, "data.known")] == ["pass", "unverifiable"]


def test_a_size_that_only_genesis_claims_has_nothing_read(honest: Built) -> None:
    genesis = honest.records[0]
    assert isinstance(genesis, Genesis)
    assert isinstance(genesis.dataset, Dataset)
    claimed = msgspec.structs.replace(genesis.dataset, size=1 << 32)
    asked: list[int] = []

    class Endless(NumpyReplayer):
        """Has an example for whatever index it is asked."""

        def open_batches(self, steps: Sequence[tuple[int, Sequence[int] | None]]) -> Iterator[OpenedBatch]:
            asked.extend(step for step, _ in steps)
            return super().open_batches(steps)

    data = checks(honest, genesis=msgspec.structs.replace(genesis, dataset=claimed), known=("ab" * 32,))
    found = build_lineage(genesis, honest.records).intervals[2]
    with contextlib.suppress(ValueError):
        # What lies at indices that nobody has is the replayer's affair.
        assert not data.open(found, Endless(spec=honest.spec, environment=ENVIRONMENT)).authentic
    assert asked == [step.step for step in found.steps]


@pytest.mark.parametrize("wrong", ["ab", "AB" * 32, "zz" * 32])
def test_a_policy_lists_digests_in_hexadecimal(wrong: str) -> None:
    with pytest.raises(UsageError, match="data"):
        knowing(wrong)
