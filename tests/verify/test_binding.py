"""Step 10: model files and the final record."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.records import Genesis
from polledger.core.replay import ReplayFailed
from polledger.core.report import Finding
from polledger.core.state import FlatState, SkeletonEntry, TensorData
from polledger.errors import MalformedError, UsageError
from polledger.verify.binding import ReadModel, step_binding, step_final
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.modelfile import parse_safetensors
from polledger.verify.states import encode_file, hash_state
from tests.verify.build import Built, unflatten

_NAMES = {"float32": "F32", "int64": "I64"}


def lineage(built: Built, **final: Any) -> Lineage:
    records = [*built.records[:-1], msgspec.structs.replace(built.records[-1], **final)]
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    return build_lineage(genesis, records)


def tensors(built: Built) -> dict[str, np.ndarray]:
    """The final state_dict of the model."""
    state = unflatten(hash_state(built.states[12]).flat)
    return {"w": state.w, "b": state.b, "count": state.count, "mean": state.mean}


def safetensors(values: dict[str, np.ndarray], **metadata: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    body = b""
    for name, value in values.items():
        data = value.tobytes()
        header[name] = {
            "dtype": _NAMES[str(value.dtype)],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def never(path: Path) -> bytes:
    raise AssertionError("a safetensors file needs no other reader")


def bound(built: Built, file: Path, read: ReadModel) -> list[Finding]:
    return step_binding(lineage(built), file, read, built.run.objects)


def bind(built: Built, path: Path, data: bytes) -> Finding:
    file = path / "model.safetensors"
    file.write_bytes(data)
    return bound(built, file, never)[0]


def test_the_final_model_is_bound_whatever_the_order_and_metadata(honest: Built, tmp_path: Path) -> None:
    values = tensors(honest)
    assert bind(honest, tmp_path, safetensors(values)).outcome == "pass"
    backwards = dict(reversed(values.items()))
    assert bind(honest, tmp_path, safetensors(backwards, format="pt")).outcome == "pass"


def test_prefixes_of_wrappers_do_not_matter(honest: Built, tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in tensors(honest).items()}
    assert bind(honest, tmp_path, safetensors(wrapped)).outcome == "pass"


@pytest.mark.parametrize("change", ["value", "name", "missing", "extra", "shape"])
def test_any_other_model_is_unverifiable_and_never_refuted(
    honest: Built, tmp_path: Path, change: str
) -> None:
    values = tensors(honest)
    if change == "value":
        values["w"] = np.nextafter(values["w"], np.float32(9))
    elif change == "name":
        values["weight"] = values.pop("w")
    elif change == "missing":
        del values["b"]
    elif change == "extra":
        values["c"] = values["b"]
    else:
        values["w"] = values["w"].reshape(3, 5)
    finding = bind(honest, tmp_path, safetensors(values))
    assert finding.outcome == "unverifiable"
    assert "is not the model" in finding.detail
    assert finding.expected != finding.found


def test_another_file_type_is_read_by_the_reader_that_was_handed_in(honest: Built, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"PK")
    flat = hash_state(honest.states[12]).flat
    inside = FlatState(
        skeletons=[entry for entry in flat.skeletons if entry.path == "model"],
        tensors=[tensor for tensor in flat.tensors if tensor.path.startswith("model/")],
    )
    assert bound(honest, file, lambda path: encode_file(inside)[0])[0].outcome == "pass"
    assert bound(honest, file, lambda path: b"junk")[0].outcome == "unverifiable"
    assert bound(honest, file, lambda path: encode_file(flat)[0])[0].outcome == "pass"


def test_a_torch_file_without_a_state_dict_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"PK")
    bare = FlatState(skeletons=[SkeletonEntry(v=1, path="model", structure=["int", "5"])], tensors=[])
    assert bound(honest, file, lambda path: encode_file(bare)[0])[0].outcome == "unverifiable"

    def failing(path: Path) -> bytes:
        raise ReplayFailed("weights_only refuses it")

    finding = bound(honest, file, failing)[0]
    assert (finding.outcome, "weights_only" in finding.detail) == ("unverifiable", True)


def test_a_model_file_that_does_not_exist_is_a_usage_error(honest: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        bound(honest, tmp_path / "no.pt", never)


def test_without_final_there_is_nothing_to_bind_to(honest: Built, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(tensors(honest)))
    genesis = honest.records[0]
    assert isinstance(genesis, Genesis)
    unfinished = build_lineage(genesis, honest.records[:-1])
    assert step_binding(unfinished, file, never, honest.run.objects)[0].outcome == "unverifiable"
    assert step_final(unfinished, honest.run.objects) == []


def test_final_is_checked_against_the_last_state(honest: Built) -> None:
    def outcome(**changes: Any) -> list[str]:
        return [item.outcome for item in step_final(lineage(honest, **changes), honest.run.objects)]

    assert outcome() == ["pass"]
    assert outcome(model_root=bytes(32)) == ["fail"]
    assert outcome(object="optimizer") == ["fail"]
    assert outcome(object="nothing") == ["fail"]


# The safetensors reader

GOOD = {"a": np.ones(3, np.float32), "b": np.zeros((), np.int64)}


def test_tensors_are_read_with_escaped_names() -> None:
    found = parse_safetensors(memoryview(safetensors({"x/y": GOOD["a"], "#1": GOOD["b"]})))
    assert [(item.path, item.dtype, item.shape) for item in found] == [
        ("x~1y", "float32", (3,)),
        ("~21", "int64", ()),
    ]
    assert isinstance(found[0], TensorData)
    assert bytes(found[0].data) == GOOD["a"].tobytes()


def raw(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01" * 7,
        raw(b"[]"),
        raw(b"{"),
        raw(b"\xff"),
        (1 << 40).to_bytes(8, "little"),
        raw({"a": ENTRY}),
        raw({"a": ENTRY}, b"abc"),
        raw({"a": {**ENTRY, "dtype": "F7"}}, b"ab"),
        raw({"a": {**ENTRY, "dtype": 7}}, b"ab"),
        raw({"a": {**ENTRY, "shape": [3]}}, b"ab"),
        raw({"a": {**ENTRY, "shape": [-2]}}, b"ab"),
        raw({"a": {**ENTRY, "shape": 2}}, b"ab"),
        raw({"a": {**ENTRY, "data_offsets": [0]}}, b"ab"),
        raw({"a": {**ENTRY, "data_offsets": [2, 0]}}, b"ab"),
        raw({"a": {**ENTRY, "more": 1}}, b"ab"),
        raw({"a": ENTRY, "b": ENTRY}, b"ab"),
        raw({"a": ENTRY, "b": {**ENTRY, "data_offsets": [3, 5]}}, b"abcde"),
        raw({"a": 5}, b""),
        raw(b'{"a": {}, "a": {}}'),
        raw(b"[" * 100_000),
        raw(b'{"\\ud800": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}', b"ab"),
        raw({"a": {"dtype": "U8", "shape": [0, 1 << 53], "data_offsets": [0, 0]}}),
        raw({"a": {"dtype": "U8", "shape": [0, 10**400], "data_offsets": [0, 0]}}),
        raw(json.dumps({"a": ENTRY}).encode("utf-16"), b"ab"),
    ],
)
def test_malformed_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_safetensors(memoryview(data))


def test_a_name_without_end_is_not_repeated_without_end() -> None:
    with pytest.raises(MalformedError) as refused:
        parse_safetensors(memoryview(raw({"a" * 100_000: 5})))
    assert len(str(refused.value)) < 1000
