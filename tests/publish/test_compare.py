"""Two rivals side by side: what is said about their models, times, lineage and heads."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.compareform import RivalsForm
from polledger.core.records import Checkpoint, Final, Genesis
from polledger.core.report import Finding
from polledger.core.state import TensorData
from polledger.core.text import json_text
from polledger.publish import compare as compare_module
from polledger.publish import side as side_module
from polledger.publish.apart import models_apart
from polledger.publish.compare import POSSESSION, Question, compare_sides
from polledger.publish.side import Side, claimed_side, read_side
from polledger.store.run import RunDirectory
from polledger.timestamp.trust import Trust
from polledger.verify.evidence import read_evidence
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.request import Code
from tests.verify.build import NOW, START, Built, Spec, authority, make_run, reseal, store_state, write_seals
from tests.verify.check import check, copy_of, request
from tests.verify.claiming import write_claim
from tests.verify.test_ancestry import child_of, end_of, finding, taking
from tests.verify.test_time import entry, reference, tsa, with_tokens

OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "schemas" / "compare-report.schema.json").read_text("utf-8")
)


def side_of(run: RunDirectory, *, trust: Trust | None = None, policy: Policy | None = None) -> Side:
    return read_side(str(run.path), read_evidence(run), trust=trust, policy=policy or Policy(), now=NOW)


def compared(
    a: Side, b: Side, *, trusted: bool = False, policy: Policy | None = None, replayed: bool = False
) -> RivalsForm:
    found = compare_sides(
        a,
        b,
        Question(policy=policy or Policy(), nonce=b"n" * 32, trusted=trusted, now=NOW, replayed=replayed),
    )
    jsonschema.validate(json.loads(json_text({**found})), SCHEMA)
    return found


def compare(a: Built, b: Built) -> RivalsForm:
    return compared(side_of(a.run), side_of(b.run))


def resigned(built: Built, path: Path) -> Built:
    """Everything of ``built`` under another key: what a thief of a directory makes."""
    first = built.records[0]
    assert isinstance(first, Genesis)
    mine = msgspec.structs.replace(first, key=OTHER.public_key().public_bytes_raw())
    return reseal(built, path, [mine, *built.records[1:]], key=OTHER)


def test_a_copied_run_is_exact_and_shares_every_state_and_batch(honest: Built, tmp_path: Path) -> None:
    found = compare(honest, resigned(honest, tmp_path / "copy"))
    assert found["binding"]["relation"] == "exact"
    assert found["lineage"]["shared"] == {
        "run": True,
        "states": len([item for item in honest.records if isinstance(item, Checkpoint)]),
        "batches": 12,
        "dataset": True,
        "task": True,
    }
    assert found["path"] is not None
    assert set(found["path"]["distance"]) == {0.0}
    assert found["same_key"] is False
    assert found["equivocation"] is None
    assert found["sentence"].startswith(
        "compared: the final models are the same, bit for bit; A not replayed"
    )
    assert found["sentence"].endswith(POSSESSION)
    assert found["exit_code"] == 0


def test_a_run_that_starts_at_the_others_end_is_derived_whether_it_says_so_or_not(
    honest: Built, tmp_path: Path
) -> None:
    said = compare(honest, child_of(honest, tmp_path / "said"))
    silent = compare(honest, make_run(tmp_path / "silent", Spec(seed=8), hooks=taking(end_of(honest))))
    for found, declared in ((said, True), (silent, False)):
        assert found["binding"]["relation"] == "derived"
        assert found["lineage"]["b_from_a"] == {
            "declared": declared,
            "exact": True,
            "distance": 0.0,
            "share": 0.0,
        }
        assert found["lineage"]["a_from_b"]["declared"] is False
        assert found["lineage"]["a_from_b"]["exact"] is False


def test_a_start_close_to_the_others_end_is_derived_and_not_exact(honest: Built, tmp_path: Path) -> None:
    stolen = end_of(honest)
    # Pruned: the smallest third of the weights is 0.
    stolen.w[np.abs(stolen.w) < np.quantile(np.abs(stolen.w), 0.33)] = 0
    found = compare(honest, make_run(tmp_path / "run", Spec(seed=8), hooks=taking(stolen)))
    start = found["lineage"]["b_from_a"]
    assert found["binding"]["relation"] == "derived"
    assert start["exact"] is False
    assert isinstance(start["share"], float)
    assert 0 < start["share"] < 0.5


def test_a_way_that_is_not_finite_makes_nothing_of_it_derived(honest: Built, tmp_path: Path) -> None:
    # A rival of the thief's own making says that it began at infinity: beside that way every run begins at its end.
    begun = end_of(honest)
    begun.w[0, 0] = np.inf
    endless = make_run(tmp_path / "run", Spec(seed=9))
    records = list(endless.records)
    at = next(i for i, record in enumerate(records) if isinstance(record, Checkpoint))
    records[at] = msgspec.structs.replace(records[at], root=store_state(endless.run, begun)[0])
    found = compare(reseal(endless, tmp_path / "endless", records), honest)
    assert found["binding"]["ways"][0] == "inf"
    assert found["lineage"]["b_from_a"]["share"] is None
    assert found["binding"]["relation"] == "apart"


def test_a_model_root_that_is_only_stated_makes_two_models_none_the_same(
    honest: Built, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", Spec(seed=9))
    mine, yours = other.records[-1], honest.records[-1]
    assert isinstance(mine, Final)
    assert isinstance(yours, Final)
    lie = msgspec.structs.replace(mine, model_root=yours.model_root)
    liar = reseal(other, tmp_path / "liar", [*other.records[:-1], lie])
    found = compare(honest, liar)
    assert found["a"]["model_root"] == found["b"]["model_root"]
    assert found["binding"]["relation"] == "apart"
    # Without its last state nobody can tell, and the sentence says no more than the records.
    last = [item for item in liar.records if isinstance(item, Checkpoint)][-1]
    liar.run.objects.path(last.root).unlink()
    assert compare(honest, liar)["sentence"].startswith("compared: both name the same final model; ")


def test_models_nearer_than_half_a_way_are_near_and_others_apart(honest: Built, tmp_path: Path) -> None:
    close = make_run(tmp_path / "close", Spec(config={**Spec().config, "lr": 0.11}))
    assert compare(honest, close)["binding"]["relation"] == "near"
    apart = compare(honest, make_run(tmp_path / "apart", Spec(seed=9)))
    assert apart["binding"]["relation"] == "apart"
    total, ways = apart["binding"]["total"], apart["binding"]["ways"]
    assert total is not None
    assert isinstance(total["l2"], float)
    assert total["l2"] > max(way for way in ways if isinstance(way, float)) / 2


def tensor(name: str, values: Sequence[float], dtype: str = "<f4") -> TensorData:
    data = np.array(values, dtype=dtype)
    kind = {"<f4": "float32", "<f2": "float16", "<i8": "int64"}[dtype]
    return TensorData(path=name, dtype=kind, shape=(len(values),), data=memoryview(data.tobytes()))


def test_tensors_are_compared_by_name_in_any_dtype_and_the_furthest_comes_first() -> None:
    a = {
        "w": tensor("w", [1, 2, 0, 4]),
        "b": tensor("b", [3, 0]),
        "n": tensor("n", [7], "<i8"),
        "x": tensor("x", [1]),
    }
    b = {"w": tensor("w", [1, 0, 0, 4], "<f2"), "b": tensor("b", [3, 4]), "n": tensor("n", [8], "<i8")}
    found = models_apart(a, {**b, "y": tensor("y", [1, 2]), "x": tensor("x", [1, 2])})
    assert [(item["name"], item["l2"], item["dtypes"]) for item in found.tensors] == [
        ("b", 4.0, ["float32", "float32"]),
        ("w", 2.0, ["float32", "float16"]),
    ]
    assert found.unmatched == ["x", "y"]
    form = found.total.form()
    assert (form["l2"], form["numbers"], form["equal"], form["zeros"]) == (20**0.5, 6, 4, [2, 2])
    assert form["cosine"] == pytest.approx((1 + 16 + 9) / (30**0.5 * 42**0.5))
    assert form["relative"] == pytest.approx((20 / 30) ** 0.5)


def test_as_many_tensors_are_listed_as_the_limit_says_and_the_rest_counted(
    honest: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "SHOWN", 1)
    # Beside w, b and mean, which both have.
    alone = {f"{number}": tensor(f"{number}", [1]) for number in range(3)}
    sides = [side_of(honest.run), side_of(honest.run)]
    ends = [side.last_model() for side in sides]
    assert ends[0] is not None
    sides[0]._models[sides[0].checkpoints[-1].root] = {**ends[0], **alone}
    binding = compared(sides[0], sides[1])["binding"]
    assert (len(binding["tensors"]), binding["left_out"]) == (1, 2)
    assert (binding["unmatched"], binding["unmatched_left_out"]) == (["0"], 2)


def test_models_without_a_common_tensor_have_no_distance() -> None:
    found = models_apart({"a": tensor("a", [1])}, {"b": tensor("b", [1])})
    assert not found.comparable
    assert found.unmatched == ["a", "b"]


def test_what_is_not_finite_has_a_name() -> None:
    found = models_apart({"a": tensor("a", [1, np.inf])}, {"a": tensor("a", [1, 2])})
    assert found.tensors[0]["l2"] == "inf"
    assert models_apart({"a": tensor("a", [np.nan])}, {"a": tensor("a", [np.nan])}).total.l2 == 0


def stamped(built: Built, path: Path, asked: Any, minutes: float) -> RunDirectory:
    """A copy with one token over the last seal, so long after START, and one a second before over the first."""
    when = START + timedelta(minutes=minutes)
    last = built.run.seals()[-1]
    return with_tokens(
        built,
        path,
        {
            0: lambda run: [reference(run, 0, asked, when - timedelta(seconds=1))],
            last: lambda run: [reference(run, last, asked, when)],
        },
    )


@pytest.mark.parametrize(
    ("seconds", "end"), [(2.1, "A"), (-2.1, "B"), (2.0, "tie"), (-2.0, "tie"), (0, "tie")]
)
def test_external_time_orders_and_overlapping_accuracies_are_a_tie(
    honest: Built, tmp_path: Path, seconds: float, end: str
) -> None:
    asked = tsa(tmp_path)
    trust = Trust(entries=(entry(asked),))
    # Each token states an accuracy of a second.
    runs = [stamped(honest, tmp_path / name, asked, at) for name, at in (("a", 60), ("b", 60 + seconds / 60))]
    sides = [side_of(run, trust=trust) for run in runs]
    found = compared(sides[0], sides[1], trusted=True)
    assert (found["order"]["genesis"], found["order"]["end"]) == (end, end)
    assert "by the clock of one operator" in found["order"]["why"]
    assert found["authorities"] == {"common": ["Example Ltd"], "only_a": [], "only_b": []}
    anchors = found["a"]["time"]
    assert anchors["end"] == {"time": "2026-03-01T13:00:00Z", "accuracy": 1.0}
    assert anchors["genesis"] == {"time": "2026-03-01T12:59:59Z", "accuracy": 1.0}
    assert anchors["steps_per_second"] == 12.0
    assert {"A": "A was there first", "B": "B was there first", "tie": "overlap"}[end] in found["sentence"]


def test_two_operators_are_two_clocks(honest: Built, tmp_path: Path) -> None:
    one, other = tsa(tmp_path), tsa(tmp_path, "second")
    trust = Trust(entries=(entry(one), entry(other, "Other Ltd")))
    a = side_of(stamped(honest, tmp_path / "a", one, 60), trust=trust)
    b = side_of(stamped(honest, tmp_path / "b", other, 90), trust=trust)
    found = compared(a, b, trusted=True)
    assert found["order"]["end"] == "A"
    assert "by clocks of different operators" in found["order"]["why"]
    assert found["authorities"] == {"common": [], "only_a": ["Example Ltd"], "only_b": ["Other Ltd"]}


def test_an_anchor_needs_as_many_operators_as_the_quorum(honest: Built, tmp_path: Path) -> None:
    one, other = tsa(tmp_path), tsa(tmp_path, "second")
    trust, policy = Trust(entries=(entry(one), entry(other, "Other Ltd"))), parse_policy("time.quorum = 2")
    alone = stamped(honest, tmp_path / "alone", one, 60)
    both = stamped(honest, tmp_path / "both", one, 60)
    last = both.seals()[-1]
    seal = both.read_seal(last)
    late = reference(both, last, other, START + timedelta(minutes=90))
    both.write_seal(msgspec.structs.replace(seal, tokens=[*seal.tokens, late]))
    sides = [side_of(run, trust=trust, policy=policy) for run in (alone, both)]
    found = compared(sides[0], sides[1], trusted=True, policy=policy)
    assert found["a"]["time"]["end"] is None
    assert found["b"]["time"]["end"] == {"time": "2026-03-01T13:30:00Z", "accuracy": 1.0}
    assert found["order"]["end"] is None


def test_lists_of_pairs_and_gaps_end(honest: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "POINTS", 3)
    monkeypatch.setattr(side_module, "GAPS", 1)
    begun = reseal(honest, tmp_path / "begun", [*honest.records[:-1], *honest.records[-2:-1] * 2])
    found = compare(honest, begun)
    assert found["path"] is not None
    assert (len(found["path"]["steps"]), found["path"]["steps"][0], found["path"]["steps"][-1]) == (3, 0, 12)
    assert len(found["b"]["coverage"]["gaps"]) == 1


def test_self_asserted_time_orders_nothing_however_early(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    embedded = authority(honest.run.path.parent / "tsa")
    trust = Trust(entries=(entry(asked), entry(embedded, "Thief Ltd")))  # type: ignore[arg-type]
    late = side_of(stamped(honest, tmp_path / "a", asked, 60 * 10), trust=trust)
    # The rival's own authority says START, ten hours before; the trust file even lists its root.
    backdated = side_of(honest.run, trust=trust)
    found = compared(late, backdated, trusted=True)
    assert found["b"]["time"]["assurance"] == "self-asserted"
    assert (found["order"]["genesis"], found["order"]["end"]) == (None, None)
    assert "vouches for B" in found["order"]["why"]
    assert "no external time orders them" in found["sentence"]
    without = compare(honest, honest)
    assert "without a trust file" in without["order"]["why"]


def test_an_early_token_of_ones_own_does_not_move_an_external_anchor(honest: Built, tmp_path: Path) -> None:
    asked = tsa(tmp_path)
    trust = Trust(entries=(entry(asked),))
    both = stamped(honest, tmp_path / "both", asked, 90)
    last = both.seals()[-1]
    seal = both.read_seal(last)
    own = honest.run.read_seal(last).tokens
    both.write_seal(msgspec.structs.replace(seal, tokens=[*seal.tokens, *own]))
    alone = side_of(stamped(honest, tmp_path / "alone", asked, 60), trust=trust)
    found = compared(side_of(both, trust=trust), alone, trusted=True)
    end = found["a"]["time"]["end"]
    assert end is not None
    assert end["time"] == "2026-03-01T13:30:00Z"
    assert found["order"]["end"] == "B"


def test_two_histories_under_one_key_are_equivocation(honest: Built, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", Spec(seed=9))
    found = compare(honest, other)["equivocation"]
    assert found is not None
    assert len(found["heads"]) == 2
    assert "differ within the first 2 records" in found["detail"]
    assert "one key signed two histories" in compare(other, honest)["sentence"]


def test_two_claims_of_two_histories_are_equivocation_too(honest: Built, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", Spec(seed=9))
    sides = [claim_of(one, tmp_path / name) for one, name in ((honest, "a"), (other, "b"))]
    found = compared(sides[0], sides[1])["equivocation"]
    assert found is not None
    assert "one key signed both" in found["detail"]


def test_tokens_that_are_damaged_are_gaps(honest: Built, tmp_path: Path) -> None:
    copy = copy_of(honest, tmp_path / "copy")
    number = copy.run.seals()[-1]
    token = copy.run.read_seal(number).tokens[0]
    copy.run.objects.path(token.response).unlink()
    gaps = compare(honest, copy)["b"]["coverage"]["gaps"]
    assert any("token" in gap for gap in gaps), gaps
    assert compare(honest, copy)["a"]["coverage"]["gaps"] == []


def test_a_beginning_of_the_same_history_is_no_equivocation(honest: Built, tmp_path: Path) -> None:
    begun = reseal(honest, tmp_path / "begun", honest.records[:12])
    for pair in ((honest, begun), (begun, honest)):
        assert compare(*pair)["equivocation"] is None


def test_another_key_or_run_is_another_history(honest: Built, tmp_path: Path) -> None:
    assert compare(honest, resigned(honest, tmp_path / "copy"))["equivocation"] is None


def test_an_unfinished_rival_has_no_model_and_that_is_said(honest: Built, tmp_path: Path) -> None:
    begun = reseal(honest, tmp_path / "begun", honest.records[:12])
    found = compare(honest, begun)
    assert found["binding"]["relation"] == "unknown"
    assert found["missing"] == ["B: the run is not finished: it has no final model"]
    assert found["exit_code"] == 3
    assert not found["b"]["coverage"]["complete"]


def test_a_final_state_that_is_lost_is_named(honest: Built, tmp_path: Path) -> None:
    copy = copy_of(honest, tmp_path / "copy")
    last = [item for item in honest.records if isinstance(item, Checkpoint)][-1]
    copy.run.objects.path(last.root).unlink()
    found = compare(copy, make_run(tmp_path / "other", Spec(seed=9)))
    assert found["binding"]["relation"] == "unknown"
    assert found["exit_code"] == 3
    assert found["missing"][0].startswith("A: the model after step 12: object ")


def test_a_ledger_that_is_lost_leaves_facts_unknown(honest: Built, tmp_path: Path) -> None:
    copy = copy_of(honest, tmp_path / "copy")
    copy.run.ledger_path.write_bytes(b"")
    found = compare(honest, copy)
    assert (found["b"]["run"], found["b"]["model_root"], found["same_key"]) == (None, None, None)
    assert found["missing"] == ["B: no record of it is authentic"]
    assert found["b"]["coverage"]["gaps"]


def test_training_before_the_first_seal_is_said(honest: Built, tmp_path: Path) -> None:
    late = resigned(honest, tmp_path / "late")
    for number in late.run.seals():
        late.run.seal_path(number).unlink()
    encoded = [item for item in read_evidence(late.run).records if item is not None]
    write_seals(late.run, encoded, sizes=[8, len(encoded)], key=OTHER)
    found = compare(honest, late)
    assert (found["a"]["time"]["genesis_first"], found["b"]["time"]["genesis_first"]) == (True, False)


def test_verdicts_stand_beside_the_facts(honest: Built, tmp_path: Path) -> None:
    a, b = side_of(honest.run), side_of(child_of(honest, tmp_path / "child").run)
    child = child_of(honest, tmp_path / "again")
    a.report, b.report = check(honest), check(child, find=finding(honest))
    found = compared(a, b, replayed=True)
    for side in (found["a"], found["b"]):
        verdict = side["verdict"]
        assert verdict is not None
        assert (verdict["verdict"], verdict["replayed"], verdict["intervals"]) == ("VERIFIED", 5, 5)
    assert "A VERIFIED, B VERIFIED" in found["sentence"]
    assert found["b"]["origin"]["verdict"] == "VERIFIED"
    assert found["exit_code"] == 0


def test_code_that_is_not_at_hand_is_missing(honest: Built) -> None:
    refusal = Finding(
        step=7, name="code", outcome="unverifiable", detail="replay would run your code", remedy="read it"
    )
    a, b = side_of(honest.run), side_of(honest.run)
    a.report = check(honest)
    b.report = check(honest, code=lambda genesis: Code(summary={}, engines=None, finding=refusal))
    found = compared(a, b, replayed=True)
    assert found["missing"] == ["B: nothing was replayed: replay would run your code; read it"]
    assert found["exit_code"] == 3


def claim_of(built: Built, path: Path, **changes: Any) -> Side:
    files = write_claim(built, path, **changes)
    return claimed_side(str(files.path), files, request(), verdict=True)


def test_a_claim_is_held_against_its_run_and_against_another(honest: Built, tmp_path: Path) -> None:
    claim = claim_of(honest, tmp_path / "claim")
    same = compared(claim, side_of(honest.run))
    assert (same["a"]["what"], same["b"]["what"]) == ("claim", "run")
    assert same["binding"]["relation"] == "exact"
    assert same["a"]["model_root"] == same["b"]["model_root"]
    assert same["a"]["time"]["genesis_first"] is None
    assert same["equivocation"] is None
    # Only the ends of a run are in a claim: the models of two cannot be held against each other but by digest.
    other = compared(claim, side_of(make_run(tmp_path / "other", Spec(seed=9)).run))
    assert other["binding"]["relation"] == "unknown"
    assert other["binding"]["equal_digests"] == [1, 4]
    assert other["missing"] == ["A: its final model is not at hand"]
    # The run that a claim is about and another one of the same id and key are two histories.
    assert other["equivocation"] is not None


def test_a_claim_shows_no_training(honest: Built, tmp_path: Path) -> None:
    found = compared(claim_of(honest, tmp_path / "claim"), side_of(honest.run), replayed=True)
    verdict = found["a"]["verdict"]
    assert verdict is not None
    assert (verdict["verdict"], verdict["replayed"]) == ("UNVERIFIABLE", 0)
    assert found["missing"] == [
        "A: nothing was replayed: a claim shows no training; compare the run, or a proof of it"
    ]


def test_a_run_that_starts_from_a_claimed_one_is_seen_by_the_head_that_it_names(
    honest: Built, tmp_path: Path
) -> None:
    claim, child = claim_of(honest, tmp_path / "claim"), side_of(child_of(honest, tmp_path / "child").run)
    assert compared(claim, child)["lineage"]["b_from_a"]["declared"] is True
    assert compared(child, claim)["lineage"]["a_from_b"]["declared"] is True


def test_digests_that_are_not_of_the_sealed_model_count_for_nothing(honest: Built, tmp_path: Path) -> None:
    def lie(statement: dict[str, Any]) -> None:
        statement["predicate"]["model"]["tensors"][0]["root"] = "00" * 32

    found = compared(claim_of(honest, tmp_path / "claim", change=lie), side_of(honest.run))
    assert found["binding"]["equal_digests"] is None
    # What the sealed records say of the model stays.
    assert found["binding"]["relation"] == "exact"


def test_a_claim_without_its_proof_says_nothing_of_a_run(honest: Built, tmp_path: Path) -> None:
    files = write_claim(honest, tmp_path / "claim")
    files.proof_path.unlink()
    found = compared(claimed_side("claim", files, request(), verdict=False), side_of(honest.run))
    assert found["a"]["model_root"] is None
    assert found["missing"] == ["A: there is no public proof beside the claim"]
