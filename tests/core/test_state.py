"""State files: one root, one reader, and nothing in the bytes that the root does not commit to."""

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.encoding import STATE_LIMITS, encode, parse
from polledger.core.published import file_root, model_root
from polledger.core.records import StateObject
from polledger.core.state import (
    CHUNK,
    PIECE,
    EncodedState,
    FlatState,
    Groups,
    SkeletonEntry,
    StateManifest,
    TensorData,
    TensorEntry,
    encode_state,
    group_of,
    header_size,
    parse_state,
    scalars_group,
    state_root,
    tensor_entries,
    tensor_root,
)
from polledger.errors import MalformedError, UsageError


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def oracle_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as written."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + oracle_root(leaves[:k]) + oracle_root(leaves[k:])).digest()


def tensor(
    path: str, data: bytes, *, dtype: str = "uint8", shape: tuple[int, ...] | None = None
) -> TensorData:
    return TensorData(
        path=path, dtype=dtype, shape=(len(data),) if shape is None else shape, data=memoryview(data)
    )


def skeleton(path: str, structure: list[Any]) -> SkeletonEntry:
    return SkeletonEntry(v=1, path=path, structure=structure)


def reference(path: str) -> list[Any]:
    return ["tensor", path]


def sample() -> FlatState:
    """Two objects, a shared tensor root, an empty tensor, a scalar and other values."""
    return FlatState(
        skeletons=[
            skeleton("optimizer", ["map", [["lr", ["float", struct.pack(">d", 0.5)]], ["n", ["int", "3"]]]]),
            skeleton(
                "model",
                [
                    "map",
                    [
                        ["a", reference("model/a")],
                        ["b", reference("model/b")],
                        ["c", ["list", [reference("model/c/0"), reference("model/c/1")]]],
                    ],
                ],
            ),
        ],
        tensors=[
            tensor("model/b", b"12345678", dtype="float32", shape=(2,)),
            tensor("model/a", b"12345678", dtype="int64", shape=()),
            tensor("model/c/1", b"", shape=(0, 3)),
            tensor("model/c/0", bytes(range(200)) * 700),
        ],
    )


def file_of(encoded: EncodedState) -> bytes:
    return b"".join(bytes(part) for part in encoded.chunks())


def as_dict(flat: FlatState) -> dict[str, Any]:
    tensors = {t.path: (t.dtype, t.shape, bytes(t.data)) for t in flat.tensors}
    return {**{s.path: s.structure for s in flat.skeletons}, "tensors": tensors}


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7])
def test_tensor_root_is_the_tree_over_64_kib_chunks(size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    chunks = [data[start : start + 65536] for start in range(0, size, 65536)]
    assert tensor_root(memoryview(data)) == oracle_root(chunks)


def large_sample() -> FlatState:
    """Tensors that are equal, begin alike, or differ in length only: some may be written before they are hashed."""
    zeros, ones = bytes(PIECE + 9), b"1" * (2 * PIECE)
    contents = {
        "a": zeros,
        "b": ones,
        "c": zeros,
        "d": zeros[:-1] + b"1",
        "e": zeros[:-1],
        "f": b"",
        "g": b"short",
        "h": b"short",
        "i": ones,
    }
    structure = ["map", [[name, reference(f"m/{name}")] for name in contents]]
    tensors = [tensor(f"m/{name}", data) for name, data in contents.items()]
    return FlatState(skeletons=[skeleton("m", structure)], tensors=tensors)


def test_the_payload_is_handed_on_in_pieces_from_front_to_back() -> None:
    flat = large_sample()
    handed: list[memoryview] = []
    encoded = encode_state(flat, write=handed.append)
    assert b"".join(handed) == b"".join(encoded.payload)
    assert len(encoded.payload) == 6
    assert max(len(piece) for piece in handed[:2]) == PIECE
    assert encoded == encode_state(flat)
    assert as_dict(parse_state(file_of(encoded), root=encoded.root)) == as_dict(flat)


def test_a_piece_is_handed_on_before_what_follows_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = [0]
    before = []

    def counting(data: Any) -> bytes:
        hashed[0] += len(data)
        return leaf(data)

    monkeypatch.setattr("polledger.core.state.leaf_hash", counting)
    one = tensor("m/a", bytes(5 * PIECE))
    flat = FlatState(skeletons=[skeleton("m", ["map", [["a", reference("m/a")]]])], tensors=[one])
    encode_state(flat, write=lambda piece: before.append(hashed[0]))
    assert before == [PIECE * count for count in range(1, 6)]


def test_hashing_may_be_done_elsewhere_in_any_order() -> None:
    flat = large_sample()

    def backwards(function: Any, items: Any) -> list[Any]:
        return [function(item) for item in reversed(list(items))][::-1]

    handed: list[memoryview] = []
    assert encode_state(flat, write=handed.append, run=backwards) == encode_state(flat)
    assert b"".join(handed) == b"".join(encode_state(flat).payload)


@pytest.mark.parametrize("flat", [sample(), large_sample()])
def test_the_size_of_the_header_is_known_before_anything_is_hashed(flat: FlatState) -> None:
    assert header_size(flat) == len(encode_state(flat).header)


def test_state_root_is_the_tree_over_encoded_entries_in_order() -> None:
    encoded = encode_state(sample())
    paths = [(entry.__struct_config__.tag, entry.path) for entry in encoded.entries]
    assert paths == [
        ("skeleton", "model"),
        ("skeleton", "optimizer"),
        ("tensor", "model/a"),
        ("tensor", "model/b"),
        ("tensor", "model/c/0"),
        ("tensor", "model/c/1"),
    ]
    assert encoded.root == oracle_root([encode(entry) for entry in encoded.entries])
    assert encoded.root == state_root(reversed(encoded.entries))


def test_manifest_is_what_the_gate_would_encode() -> None:
    encoded = encode_state(sample())
    length = int.from_bytes(encoded.header[:8], "big")
    assert encoded.header[8:] == encode(StateManifest(v=1, entries=list(encoded.entries)))
    assert length == len(encoded.header) - 8


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65535, 65536])
def test_manifest_of_any_number_of_entries_is_canonical(count: int) -> None:
    keys = [f"{i:05d}" for i in range(count)]
    flat = FlatState(
        skeletons=[skeleton("m", ["map", [[key, reference(f"m/{key}")] for key in keys]])],
        tensors=[tensor(f"m/{key}", b"x") for key in keys],
    )
    encoded = encode_state(flat)
    manifest = parse(encoded.header[8:], StateManifest, limits=STATE_LIMITS)
    assert len(manifest.entries) == count + 1


def test_state_file_comes_back_in_order() -> None:
    encoded = encode_state(sample())
    flat = parse_state(file_of(encoded), root=encoded.root)
    assert as_dict(flat) == as_dict(sample())
    assert [t.path for t in flat.tensors] == sorted(t.path for t in flat.tensors)
    assert encode_state(flat).root == encoded.root
    assert encoded.size == len(file_of(encoded))


def test_data_of_one_root_is_stored_once() -> None:
    encoded = encode_state(sample())
    assert [len(part) for part in encoded.payload] == [8, 140_000, 0]


def test_parsed_tensors_are_views_of_the_file() -> None:
    encoded = encode_state(sample())
    data = bytearray(file_of(encoded))
    flat = parse_state(data, root=encoded.root)
    found = {t.path: t.data for t in flat.tensors}
    assert found["model/a"].obj is data


def test_any_flipped_bit_of_a_state_file_is_rejected() -> None:
    flat = FlatState(
        skeletons=[skeleton("m", ["map", [["a", reference("m/a")], ["n", ["int", "3"]]]])],
        tensors=[tensor("m/a", b"0123456789")],
    )
    encoded = encode_state(flat)
    data = file_of(encoded)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedError):
            parse_state(changed, root=encoded.root)


def test_every_truncation_and_extension_is_rejected() -> None:
    encoded = encode_state(sample())
    data = file_of(encoded)
    for end in [*range(0, len(data), 997), len(data) - 1]:
        with pytest.raises(MalformedError):
            parse_state(data[:end], root=encoded.root)
    with pytest.raises(MalformedError, match="after the last tensor"):
        parse_state(data + b"\0", root=encoded.root)


def test_another_root_is_rejected() -> None:
    encoded = encode_state(sample())
    with pytest.raises(MalformedError, match="root"):
        parse_state(file_of(encoded), root=bytes(32))


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_parsing_noise_never_crashes(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_state(data, root=bytes(32))


def forged(entries: list[Any], payload: bytes, *, root: bytes | None = None) -> tuple[bytes, bytes]:
    """A state file of those entries in that order, with a root that fits them, and the root."""
    manifest = encode(StateManifest(v=1, entries=entries))
    true_root = oracle_root([encode(entry) for entry in entries])
    return len(manifest).to_bytes(8, "big") + manifest + payload, root or true_root


def entry(path: str, data: bytes, **changes: Any) -> TensorEntry:
    fields: dict[str, Any] = {
        "dtype": "uint8",
        "shape": [len(data)],
        "bytes": len(data),
        "root": tensor_root(data),
    }
    return TensorEntry(v=1, path=path, **{**fields, **changes})


MAP_A = ["map", [["a", reference("m/a")]]]

FORGERIES: dict[str, tuple[list[Any], bytes, str]] = {
    "skeletons-out-of-order": ([skeleton("n", ["none"]), skeleton("m", ["none"])], b"", "order"),
    "tensor-before-skeleton": ([entry("m/a", b"x"), skeleton("m", MAP_A)], b"x", "order"),
    "tensors-out-of-order": (
        [
            skeleton("m", ["map", [["a", reference("m/a")], ["b", reference("m/b")]]]),
            entry("m/b", b"x"),
            entry("m/a", b"x"),
        ],
        b"x",
        "order",
    ),
    "object-twice": ([skeleton("m", ["none"]), skeleton("m", ["none"])], b"", "unique"),
    "object-without-name": ([skeleton("", ["none"])], b"", "unique"),
    "object-name-with-slash": ([skeleton("m/n", ["none"])], b"", "unique"),
    "tensor-not-referred-to": ([skeleton("m", ["none"]), entry("m/a", b"x")], b"x", "refers"),
    "reference-to-nothing": ([skeleton("m", MAP_A)], b"", "refers"),
    "tensor-twice": ([skeleton("m", MAP_A), entry("m/a", b"x"), entry("m/a", b"x")], b"x", "refers"),
    "reference-to-another-place": (
        [
            skeleton("m", ["map", [["a", reference("m/b")], ["b", reference("m/a")]]]),
            entry("m/a", b"x"),
            entry("m/b", b"x"),
        ],
        b"x",
        "m/a",
    ),
    "tag-of-a-nest": ([skeleton("m", ["map", [["a", ["array", "m/a"]]]]), entry("m/a", b"x")], b"x", "m/a"),
    "broken-structure": ([skeleton("m", ["map", [["a", ["int", "01"]]]])], b"", "shortest"),
    "unsorted-map": ([skeleton("m", ["map", [["b", ["none"]], ["a", ["none"]]]])], b"", "ascending"),
    "unknown-dtype": ([skeleton("m", MAP_A), entry("m/a", b"x", dtype="float4")], b"x", "dtype"),
    "bytes-not-of-the-shape": ([skeleton("m", MAP_A), entry("m/a", b"x", shape=[2])], b"x", "shape"),
    "bytes-not-of-the-dtype": ([skeleton("m", MAP_A), entry("m/a", b"xx", dtype="float32")], b"xx", "shape"),
    "data-of-another-root": ([skeleton("m", MAP_A), entry("m/a", b"x")], b"y", "root"),
    "data-missing": ([skeleton("m", MAP_A), entry("m/a", b"x")], b"", "root"),
    "huge-shape": (
        [skeleton("m", MAP_A), entry("m/a", b"x", shape=[2**53 - 1], bytes=2**53 - 1)],
        b"x",
        "root",
    ),
    "two-lengths-under-one-root": (
        [
            skeleton("m", ["map", [["a", reference("m/a")], ["b", reference("m/b")]]]),
            entry("m/a", b"x"),
            entry("m/b", b"x", shape=[0], bytes=0),
        ],
        b"x",
        "under a root of",
    ),
    "data-twice": (
        [
            skeleton("m", ["map", [["a", reference("m/a")], ["b", reference("m/b")]]]),
            entry("m/a", b"x"),
            entry("m/b", b"x"),
        ],
        b"xx",
        "after the last",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_rejects_state_file_although_its_root_fits(name: str) -> None:
    entries, payload, message = FORGERIES[name]
    data, root = forged(entries, payload)
    with pytest.raises(MalformedError, match=message):
        parse_state(data, root=root)


def test_rejects_manifest_longer_than_the_limit() -> None:
    data = (STATE_LIMITS.size + 1).to_bytes(8, "big") + bytes(STATE_LIMITS.size + 1)
    with pytest.raises(MalformedError, match="too large"):
        parse_state(data, root=bytes(32))


def test_refuses_to_write_a_manifest_longer_than_the_limit() -> None:
    text = "x" * STATE_LIMITS.size
    with pytest.raises(UsageError, match="at most"):
        encode_state(FlatState(skeletons=[skeleton("m", ["str", text])], tensors=[]))


def test_tensors_that_share_a_view_have_one_root() -> None:
    view = memoryview(b"shared")
    first, second = (TensorData(path=path, dtype="uint8", shape=(6,), data=view) for path in ("m/a", "m/b"))
    one, other = tensor_entries([first, second])
    assert one.root == other.root == tensor_root(b"shared")


OBJECTS = [
    StateObject(name="model", kind="module", buffers=["model/#0/cos", "model/norm.mean"]),
    StateObject(name="opt", kind="optimizer"),
    StateObject(name="scaler", kind="other"),
    StateObject(name="odd/name", kind="other"),
]


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("model/fc.weight", "model/parameters"),
        ("model/norm.mean", "model/buffers"),
        ("model/#0/cos", "model/buffers"),
        ("opt/state/#0/exp_avg", "opt/exp_avg"),
        ("opt/state/#12/exp_avg_sq", "opt/exp_avg_sq"),
        ("opt/state/#0/nested/deep/0", "opt/nested"),
        ("opt/param_groups/0/lr", "opt"),
        ("opt/state/#0", "opt"),
        ("scaler/scale", "scaler"),
        ("odd~1name/x", "odd~1name"),
    ],
)
def test_path_belongs_to_its_group(path: str, group: str) -> None:
    assert group_of(path, OBJECTS) == group
    assert Groups(OBJECTS).of(path) == group


def test_path_of_no_object_has_no_group() -> None:
    with pytest.raises(UsageError, match="no object"):
        group_of("ema/x", OBJECTS)


def test_scalars_of_an_object_are_a_group() -> None:
    assert scalars_group("opt") == "opt/scalars"


def model_state(names: dict[str, bytes], *, name: str = "model", outside: bytes | None = None) -> FlatState:
    pairs = [[key, reference(f"{name}/{key}")] for key in sorted(names)]
    tensors = [tensor(f"{name}/{key}", data) for key, data in names.items()]
    if outside is not None:
        pairs.insert(0, ["#0", ["map", [["cos", reference(f"{name}/#0/cos")]]]])
        tensors.append(tensor(f"{name}/#0/cos", outside))
    others = [skeleton("other", ["none"])]
    return FlatState(skeletons=[skeleton(name, ["map", pairs]), *others], tensors=tensors)


WEIGHTS = {"a.weight": b"aa", "b.weight": b"bb"}


def test_model_root_is_that_of_a_file_with_the_same_tensors() -> None:
    root = file_root([tensor(key, data) for key, data in WEIGHTS.items()])
    entries = [
        skeleton("", ["map", [[key, reference(key)] for key in WEIGHTS]]),
        *(entry(key, data) for key, data in WEIGHTS.items()),
    ]
    assert root == oracle_root([encode(item) for item in entries])
    assert model_root(model_state(WEIGHTS), "model") == root
    assert model_root(model_state(WEIGHTS, name="odd~1name"), "odd/name") == root


def test_model_root_leaves_out_what_the_state_dict_leaves_out() -> None:
    assert model_root(model_state(WEIGHTS, outside=b"z"), "model") == model_root(
        model_state(WEIGHTS), "model"
    )


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_model_root_ignores_prefixes_of_wrappers(prefix: str) -> None:
    wrapped = {prefix + key: data for key, data in WEIGHTS.items()}
    assert model_root(model_state(wrapped), "model") == model_root(model_state(WEIGHTS), "model")


def test_prefixes_stay_where_names_would_collide() -> None:
    both = {"module.a": b"1", "a": b"2"}
    swapped = {"module.a": b"2", "a": b"1"}
    assert model_root(model_state(both), "model") != model_root(model_state(swapped), "model")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: tensor(t.path + "x", bytes(t.data)),
        lambda t: tensor(t.path, bytes(t.data)[::-1] + b"!"),
        lambda t: tensor(t.path, bytes(t.data), dtype="int8"),
        lambda t: tensor(t.path, bytes(t.data), shape=(1, len(t.data))),
    ],
    ids=["name", "bytes", "dtype", "shape"],
)
def test_model_root_depends_on_every_part_of_a_tensor(change: Callable[[TensorData], TensorData]) -> None:
    tensors = [tensor(key, data) for key, data in WEIGHTS.items()]
    assert file_root([change(tensors[0]), *tensors[1:]]) != file_root(tensors)


def test_model_root_of_nested_parts_renames_their_references() -> None:
    nested = skeleton("model", ["map", [["module.x", ["list", [reference("model/module.x/0")]]]]])
    plain = skeleton("model", ["map", [["x", ["list", [reference("model/x/0")]]]]])
    one = FlatState(skeletons=[nested], tensors=[tensor("model/module.x/0", b"q")])
    other = FlatState(skeletons=[plain], tensors=[tensor("model/x/0", b"q")])
    assert model_root(one, "model") == model_root(other, "model")


@pytest.mark.parametrize("name", ["missing", "other"])
def test_object_without_named_parts_has_no_model_root(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        model_root(model_state(WEIGHTS), name)
