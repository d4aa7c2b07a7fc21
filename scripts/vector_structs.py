"""The records' own vectors: well-formed structs of every kind, and ones that break a bound or a relation."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

INT_MAX = 2**53 - 1


def real(value: float) -> bytes:
    """8 bytes, IEEE-754 big-endian."""
    return struct.pack(">d", value)


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    """A copy of ``value`` that lacks ``names``."""
    return {key: item for key, item in value.items() if key not in names}


RUN, D1, D2, D3 = bytes(range(16)), b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
HEADER = {"v": 1, "run": RUN}
TEXTS = (
    "device", "cpu", "capability", "torch", "torch_git", "cuda", "cudnn", "driver", "python", "numpy", "platform",
    "polledger",
)  # fmt: skip
ENVIRONMENT = dict.fromkeys(TEXTS, "") | {
    "device": "cpu",
    "torch": "2.13.0",
    "threads": 2,
    "interop_threads": 1,
    "flags": {"deterministic": True, "cudnn_benchmark": False, "env_onednn_max_cpu_isa": "AVX2", "level": -1},
}
STEP = HEADER | {"type": "step", "index": 2, "step": 0, "batch": D1}
STEP_FULL = STEP | {
    "groups": [
        {"optimizer": "optimizer", "index": 0, "values": {"lr": real(0.1), "nesterov": True, "foreach": 0}},
        {"optimizer": "Größe", "index": 1, "values": {}},
    ],
    "examples": [0, 127, 128, 65536, INT_MAX],
    "metrics": {"loss": real(2.5), "accuracy": real(float("nan"))},
}
CHECKPOINT = HEADER | {"type": "checkpoint", "index": 1, "step": 0, "root": D2, "stored": True}
RESUME = HEADER | {
    "type": "resume", "index": 9, "environment": ENVIRONMENT, "source": 4, "first": 5, "last": 8, "reason": "killed"
}  # fmt: skip
FINAL = HEADER | {
    "type": "final", "index": 99, "checkpoint": 98, "object": "model", "model_root": D3, "steps": 50
}  # fmt: skip
GENESIS = HEADER | {
    "type": "genesis", "index": 0, "task": D1, "kind": "recipe", "config": {}, "seed": 0, "bound": True, "key": D2,
    "every": 10, "warm": 10, "steps": 600, "objects": [], "environment": ENVIRONMENT, "origin": "scratch",
}  # fmt: skip
PARENT = {"head": D1, "mode": "model"}
OBJECTS = [
    {"name": "model", "kind": "module", "buffers": ["model/bn/running_mean"]},
    {"name": "ema", "kind": "other"},
]
GENESIS_FULL = GENESIS | {
    "config": {"lr": real(0.05), "steps": 600, "clip": True, "name": "é", "betas": [real(0.9), real(0.999)],
               "groups": {"decay": {"weight_decay": real(-0.0)}}},
    "dataset": {"root": D3, "size": 1797},
    "domains": [{"field": "label", "kind": "range", "low": real(0.0), "high": real(9.0)}],
    "objects": OBJECTS,
    "origin": "parent",
    "parent": PARENT | {"claim": D2},
    "terms": {"every": 10, "nonce": bytes(16), "policy": D1},
}  # fmt: skip
TOKEN = {"authority": "embedded", "request": D1, "response": D2}
SEAL = {"v": 1, "type": "seal", "index": 0, "note": b"polledger/run/00\n", "tokens": []}
COSIGNATURE = "— witness.example/w1 AAAA\n".encode()
SEAL_COSIGNED = SEAL | {"cosignatures": [COSIGNATURE, bytes(512)]}
SEAL_FULL = SEAL | {"index": 12, "tokens": [TOKEN | {"chain": [D3], "revocation": [D1, D2]}, TOKEN]}
PUBLIC_PROOF = {
    "v": 1, "type": "public_proof", "run": RUN, "seals": [SEAL], "consistency": [],
    "records": [{"record": b"r", "path": []}], "claim": [],
}  # fmt: skip
RENEWAL = {"v": 1, "type": "renewal", "index": 0, "statement": b"s", "tokens": [TOKEN]}
STATEMENT = {
    "v": 1,
    "type": "statement",
    "run": RUN,
    "index": 0,
    "previous": bytes(32),
    "size": 1,
    "root": D1,
}


def source_file(path: str, size: int = 10) -> dict[str, Any]:
    """An entry of a source tree."""
    return {"path": path, "executable": False, "size": size, "digest": D1}


def source_of(*paths: str, **changes: Any) -> dict[str, Any]:
    """A source description whose entry is the first of ``paths``."""
    files = [source_file(path) for path in paths]
    base = {"v": 1, "type": "source", "entry": paths[0], "class_name": "Digits", "lines": 40}
    return base | {"files": files, "distributions": []} | changes


SOURCE = source_of("train.py")
SOURCE_FULL = source_of(
    "pkg/__init__.py", "pkg/a.b/c.py", "pkg/nets.py", entry="pkg/nets.py", module="pkg.nets", class_name="A.B"
) | {"distributions": [{"name": "torch", "version": "2.13.0", "record": D2}, {"name": "n", "version": "1"}]}


NOTE = (
    f"polledger/run/{RUN.hex()}\n5\n{base64.b64encode(D1).decode()}\nchainpoint {base64.b64encode(D2).decode()}\n"
    f"previous {'0' * 64}\n\n\u2014 polledger/run/{RUN.hex()} {base64.b64encode(bytes(68)).decode()}\n"
).encode()
"""A note as a challenge carries it: its signature is for whoever knows the key to check."""
CHALLENGE = {
    "v": 1, "type": "challenge", "run": RUN, "note": NOTE, "nonce": D1, "policy": D2, "made": 0, "count": 1,
}  # fmt: skip
CHALLENGE_ODDS = without(CHALLENGE, "count") | {
    "odds": real(0.99), "bogus": real(0.1), "deadline": 253_402_300_799, "intervals": 60,
}  # fmt: skip
CHALLENGE_SKETCH = without(CHALLENGE, "count") | {"seed": D3}
CHALLENGE_SECOND = CHALLENGE | {"seed": D3, "answer": D1, "top": [0, 59], "flagged": []}
REFUSAL = {
    "v": 1, "type": "refusal", "run": RUN, "challenge": D1, "reason": "the deadline has passed", "made": 1,
}  # fmt: skip
PROOF = {"v": 1, "type": "proof", "run": RUN, "challenge": D1, "mode": "full", "size": 0}


# Kind and name of every valid struct.
ACCEPTED: dict[str, dict[str, Any]] = {
    "record": {
        "genesis": GENESIS,
        "genesis-full": GENESIS_FULL,
        "genesis-external": GENESIS | {"origin": "external", "external": D3},
        "genesis-fresh": GENESIS | {"origin": "external", "external": D3, "fresh": ["b", "w"]},
        "step": STEP,
        "step-full": STEP_FULL,
        "checkpoint": CHECKPOINT,
        "resume": without(RESUME, "first", "last"),
        "resume-abandoned": RESUME,
        "final": FINAL,
    },
    "renewal": {"renewal": RENEWAL},
    "statement": {
        "statement": STATEMENT,
        "statement-full": STATEMENT | {"index": 3, "previous": D2, "size": 1_000_000, "revocation": [D1, D2]},
    },
    "seal": {"seal": SEAL, "seal-full": SEAL_FULL, "seal-cosigned": SEAL_COSIGNED},
    "source": {"source": SOURCE, "source-full": SOURCE_FULL},
    "challenge": {
        "challenge": CHALLENGE,
        "challenge-odds": CHALLENGE_ODDS,
        "challenge-sketch": CHALLENGE_SKETCH,
        "challenge-second": CHALLENGE_SECOND,
    },
    "refusal": {"refusal": REFUSAL},
    "public_proof": {
        "public-proof": PUBLIC_PROOF,
        "public-proof-full": PUBLIC_PROOF
        | {"seals": [SEAL, SEAL_FULL], "consistency": [[D1, D2]], "claim": [TOKEN]},
    },
    "proof": {"proof": PROOF, "proof-compact": PROOF | {"mode": "compact", "size": 7, "sketches": D3}},
}


StructRejection = tuple[str, str, str, Any]
"""Name, kind, part of the message, value."""


def rejected_structs() -> Iterator[StructRejection]:
    """Every canonical byte string that is no valid struct of its kind."""
    yield from _rejected_shapes()
    yield from _rejected_fields()
    yield from _rejected_genesis()
    yield from _rejected_sources()
    yield from _rejected_challenges()


def _rejected_challenges() -> Iterator[StructRejection]:
    """Questions that ask for nothing or for two things at once."""
    kind = "challenge"
    yield "challenge-for-nothing", kind, "for sketches or for a sample", without(CHALLENGE, "count")
    yield "challenge-number-and-odds", kind, "not by both", CHALLENGE_ODDS | {"count": 3}
    yield "challenge-odds-against-nothing", kind, "both or neither", without(CHALLENGE_ODDS, "bogus")
    yield "challenge-odds-of-one", kind, "are shares", CHALLENGE_ODDS | {"odds": real(1.0)}
    yield "challenge-odds-nan", kind, "are shares", CHALLENGE_ODDS | {"odds": real(float("nan"))}
    yield "challenge-bogus-of-nothing", kind, "are shares", CHALLENGE_ODDS | {"bogus": real(0.0)}
    yield "challenge-sketch-with-sample", kind, "after the sketches", CHALLENGE_SKETCH | {"count": 1}
    yield "challenge-answer-without-seed", kind, "after the sketches", without(CHALLENGE_SECOND, "seed")
    yield "challenge-flagged-by-nothing", kind, "come from sketches", CHALLENGE | {"flagged": [1]}
    yield "challenge-nonce-15", kind, "length >= 16", CHALLENGE | {"nonce": bytes(15)}
    yield "challenge-count-0", kind, ">= 1", CHALLENGE | {"count": 0}
    yield "challenge-made-later", kind, "<= 253402300799", CHALLENGE | {"made": 253_402_300_800}
    yield "challenge-key-alone", kind, "go together", CHALLENGE | {"key": D1}
    yield "refusal-key-alone", "refusal", "go together", REFUSAL | {"key": D1}
    yield "proof-mode", "proof", "Invalid enum value", PROOF | {"mode": "short"}
    yield "proof-challenge-31", "proof", "length >= 32", PROOF | {"challenge": bytes(31)}


def _rejected_shapes() -> Iterator[StructRejection]:
    yield "record-array", "record", "Expected `object`, got `array`", [STEP]
    yield "record-text", "record", "Expected `object`, got `str`", "step"
    yield "record-empty", "record", "missing required field `type`", {}
    yield "record-unknown-type", "record", "Invalid value 'stepp'", STEP | {"type": "stepp"}
    yield "record-type-of-seal", "record", "Invalid value 'seal'", SEAL
    yield "record-unknown-field", "record", "unknown field `note`", STEP | {"note": ""}
    yield (
        "record-unknown-inner-field",
        "record",
        "unknown field `x`",
        GENESIS | {"environment": ENVIRONMENT | {"x": 1}},
    )
    yield "seal-type-of-record", "seal", "Invalid value 'step'", SEAL | {"type": "step"}
    for name in STEP:
        error = f"missing required field `{name}`"
        yield f"record-without-{name}", "record", error, without(STEP, name)


def _rejected_fields() -> Iterator[StructRejection]:
    def bad(name: str, error: str, record: dict[str, Any], **changes: Any) -> StructRejection:
        return f"record-{name}", "record", error, record | changes

    yield bad("version-text", "Expected `int`", STEP, v="1")
    yield bad("version-bool", "Expected `int`", STEP, v=True)
    yield bad("index-negative", ">= 0", STEP, index=-1)
    yield bad("index-bool", "Expected `int`, got `bool`", STEP, index=True)
    yield bad("index-text", "Expected `int`, got `str`", STEP, index="1")
    yield bad("stored-integer", "Expected `bool`, got `int`", CHECKPOINT, stored=1)
    for length in (0, 31, 33):
        yield bad(f"digest-{length}", "length", STEP, batch=bytes(length))
    yield bad("digest-text", "Expected `bytes`, got `str`", STEP, batch="1" * 32)
    for length in (15, 17):
        yield bad(f"run-{length}", "length", STEP, run=bytes(length))
    yield bad("metric-7", "length", STEP, metrics={"loss": bytes(7)})
    yield bad("metric-integer", "Expected `bytes`, got `int`", STEP, metrics={"loss": 1})
    yield bad("metric-long-key", "length <= 64", STEP, metrics={"k" * 65: real(0.0)})
    yield bad("metric-257", "length <= 256", STEP, metrics={f"m{i:03d}": real(0.0) for i in range(257)})
    yield bad("example-negative", ">= 0", STEP, examples=[-1])
    yield bad("examples-131073", "length <= 131072", STEP, examples=[0] * 131_073)
    group = {"optimizer": "", "index": 0, "values": {}}
    yield bad("name-empty", "length >= 1", STEP, groups=[group])
    yield bad("name-257", "length <= 256", STEP, groups=[group | {"optimizer": "n" * 257}])
    yield bad("name-bytes", "Expected `str`, got `bytes`", STEP, groups=[group | {"optimizer": b"n"}])
    yield bad("groups-10001", "length <= 10000", STEP, groups=[group | {"optimizer": "n"}] * 10_001)
    yield bad(
        "hyperparameter-text", "got `str`", STEP, groups=[group | {"optimizer": "n", "values": {"lr": "1"}}]
    )
    flags = {f"flag_{i:02d}": "f" * 1000 for i in range(17)}
    yield bad(
        "environment-17000", "more than 16384 characters", RESUME, environment=ENVIRONMENT | {"flags": flags}
    )
    yield bad("resume-half-range", "two ends", without(RESUME, "last"))
    yield bad("reason-1025", "length <= 1024", RESUME, reason="r" * 1025)
    yield "seal-note-text", "seal", "Expected `bytes`, got `str`", SEAL | {"note": "text"}
    yield "seal-note-65537", "seal", "length <= 65536", SEAL | {"note": bytes(65537)}
    yield "public-proof-without-seal", "public_proof", "length >= 1", PUBLIC_PROOF | {"seals": []}
    yield "public-proof-without-record", "public_proof", "length >= 1", PUBLIC_PROOF | {"records": []}
    yield (
        "public-proof-consistency-of-one",
        "public_proof",
        "one consistency",
        PUBLIC_PROOF | {"consistency": [[]]},
    )
    yield (
        "public-proof-path-65",
        "public_proof",
        "length <= 64",
        PUBLIC_PROOF | {"records": [{"record": b"r", "path": [D1] * 65}]},
    )
    yield (
        "public-proof-record-empty",
        "public_proof",
        "length >= 1",
        PUBLIC_PROOF | {"records": [{"record": b"", "path": []}]},
    )
    yield "renewal-without-token", "renewal", "length >= 1", RENEWAL | {"tokens": []}
    yield "renewal-statement-8193", "renewal", "length <= 8192", RENEWAL | {"statement": bytes(8193)}
    yield "statement-of-nothing", "statement", ">= 1", STATEMENT | {"size": 0}
    yield "statement-size-1000001", "statement", "<= 1000000", STATEMENT | {"size": 1_000_001}
    yield "statement-revocation-empty", "statement", "length >= 1", STATEMENT | {"revocation": []}
    yield "statement-revocation-twice", "statement", "not ascending", STATEMENT | {"revocation": [D1, D1]}
    yield (
        "statement-revocation-descending",
        "statement",
        "not ascending",
        STATEMENT | {"revocation": [D2, D1]},
    )
    yield "statement-type-of-seal", "statement", "Invalid value 'seal'", STATEMENT | {"type": "seal"}
    yield "seal-cosignatures-none", "seal", "length >= 1", SEAL | {"cosignatures": []}
    yield "seal-cosignatures-65", "seal", "length <= 64", SEAL | {"cosignatures": [COSIGNATURE] * 65}
    yield "seal-cosignature-empty", "seal", "length >= 1", SEAL | {"cosignatures": [b""]}
    yield "seal-cosignature-513", "seal", "length <= 512", SEAL | {"cosignatures": [bytes(513)]}
    yield "seal-cosignature-text", "seal", "Expected `bytes`, got `str`", SEAL | {"cosignatures": ["line"]}
    yield "seal-chain-33", "seal", "length <= 32", SEAL | {"tokens": [TOKEN | {"chain": [D1] * 33}]}


def _rejected_genesis() -> Iterator[StructRejection]:
    def bad(name: str, error: str, **changes: Any) -> StructRejection:
        return f"genesis-{name}", "record", error, GENESIS | changes

    yield bad("index-1", "genesis is record 0", index=1)
    yield bad("kind", "Invalid enum value 'recipes'", kind="recipes")
    yield bad("every-0", ">= 1", every=0)
    yield bad("steps-0", ">= 1", steps=0)
    yield bad("parent-missing", "go together", origin="parent")
    yield bad("parent-unwanted", "go together", parent=PARENT)
    yield bad("external-missing", "go together", origin="external")
    yield bad("external-unwanted", "go together", external=D1)
    file = {"origin": "external", "external": D1}
    yield bad("fresh-scratch", "fresh goes with", fresh=["w"])
    whole = {"origin": "parent", "parent": PARENT | {"mode": "continue"}}
    yield bad("fresh-continue", "fresh goes with", **whole, fresh=["w"])
    yield bad("fresh-order", "unique and ascending", **file, fresh=["w", "b"])
    yield bad("fresh-twice", "unique and ascending", **file, fresh=["w", "w"])
    yield bad("fresh-empty", "length >= 1", **file, fresh=[])
    yield bad("nonce-15", "length >= 16", terms={"nonce": bytes(15)})
    yield bad("dataset-empty", ">= 1", dataset={"root": D1, "size": 0})
    yield bad("objects-twice", "'ema' is listed twice", objects=[OBJECTS[1], OBJECTS[1]])
    domain = {"field": "x", "kind": "one_hot"}
    yield bad("domains-twice", "'x' is listed twice", domains=[domain, domain])
    yield bad("config-7-bytes", "a real has 8 bytes", config={"lr": bytes(7)})
    yield bad("config-nan", "NaN", config={"a": [real(float("nan"))]})
    yield bad("config-long-key", "length <= 64", config={"k" * 65: 1})
    yield bad("config-65537-bytes", "more than 65536 bytes", config={"a": "x" * (65537 - 6)})
    deep: Any = 0
    for _ in range(16):
        deep = [deep]
    yield bad("config-deep", "nested deeper than 16", config={"a": deep})


def _rejected_sources() -> Iterator[StructRejection]:
    paths = {
        "absolute": ("/etc/passwd", "is absolute"), "parent": ("../a.py", "'..' part"),
        "inside": ("a/../b.py", "'..' part"), "end": ("a/..", "'..' part"), "dot": ("./a.py", "'.'"),
        "empty-part": ("a//b.py", "empty"), "slash": ("a/", "empty"),
        "backslash": ("a\\b.py", "backslash"), "drive": ("C:a.py", "colon"), "nul": ("a\0.py", "control"),
        "newline": ("a\n.py", "control"), "escape": ("a\x1b[2J.py", "control"),
        "direction": ("a\u202e.py", "control"), "long-part": ("ä" * 128, "255 bytes"), "empty": ("", "length >= 1"),
    }  # fmt: skip
    for name, (path, error) in paths.items():
        yield f"source-path-{name}", "source", error, source_of(path)
    yield "source-twice", "source", "listed twice", source_of("a.py", "a.py")
    yield "source-unordered", "source", "not in ascending order", source_of("b.py", "a.py")
    yield "source-file-and-directory", "source", "a file and a directory", source_of("a", "a/b")
    yield (
        "source-file-and-directory-apart",
        "source",
        "a file and a directory",
        source_of("a", "a.py", "a/b/c"),
    )
    yield (
        "source-entry-of-another-module",
        "source",
        "not the file of the module",
        SOURCE_FULL | {"entry": "pkg/__init__.py"},
    )
    yield "source-without-entry", "source", "none of the files", SOURCE | {"entry": "other.py"}
    yield "source-without-files", "source", "length >= 1", SOURCE | {"files": []}
    yield "source-class", "source", "identifiers", SOURCE | {"class_name": "a b"}
    yield "source-module", "source", "identifiers", SOURCE | {"module": "a..b"}
    yield (
        "source-file-too-large",
        "source",
        "<= 1048576",
        SOURCE | {"files": [source_file("train.py", (1 << 20) + 1)]},
    )
    halves = [source_file("a.py", 1 << 19), source_file("train.py", (1 << 19) + 1)]
    yield "source-too-large", "source", "more than 1048576 bytes", SOURCE | {"files": halves}
