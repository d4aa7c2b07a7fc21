"""Everything that is published of a claim, or handed over of a run, and every way in which it is tampered with here."""

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence import command, write_key
from msgspec.structs import replace as changed
from page_shots import published_model

from polledger.core.dsse import IN_TOTO, Envelope, encode_envelope, parse_envelope, sign_envelope
from polledger.core.encoding import encode
from polledger.core.head import parse_note, sign_head
from polledger.core.publicproof import PublicProof, parse_public_proof
from polledger.keys import load_key, model_signer, signer_of
from polledger.publish.page import carried_parts, render_page

STRANGER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""Somebody else's key."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is published of one claim."""

    envelope: Envelope
    proof: PublicProof
    tokens: Mapping[str, bytes]
    raw: tuple[bytes, bytes] | None = None
    """Bytes of claim and proof in place of what these encode."""

    @property
    def files(self) -> tuple[bytes, bytes]:
        """The bytes of ``claim.dsse.json`` and ``proof.msgpack``."""
        return self.raw or (encode_envelope(self.envelope), encode(self.proof))

    def page(self) -> bytes:
        envelope, proof = self.files
        tokens = [data for name, data in sorted(self.tokens.items()) if name in self.named()]
        return render_page(envelope=envelope, proof=proof, tokens=tokens)

    def named(self) -> set[str]:
        """The names of the responses among the tokens."""
        seals = [one.response.hex() for seal in self.proof.seals for one in seal.tokens]
        return {*seals, *(one.response.hex() for one in self.proof.claim)}

    def write(self, place: Path) -> Path:
        """Write everything to ``place``; the path of the claim."""
        (place / "tokens").mkdir(parents=True)
        claim = place / "claim.dsse.json"
        for path, data in zip((claim, place / "proof.msgpack"), self.files, strict=True):
            path.write_bytes(data)
        for name, data in self.tokens.items():
            (place / "tokens" / name).write_bytes(data)
        return claim


@dataclass(frozen=True, kw_only=True)
class Honest:
    """Everything that is tampered with, of one owner, and the same of a stranger's run of the same task."""

    home: Path
    key: Ed25519PrivateKey
    parts: Parts
    other: Parts
    model: bytes
    other_model: bytes
    page: bytes
    answer: bytes
    challenge: Path
    other_answer: bytes
    other_challenge: Path


def prepare(place: Path, steps: int) -> Honest:
    """Both runs, what is published of them, and answers to challenges."""
    mine, theirs = (_party(place / name, name, steps) for name in ("owner", "stranger"))
    return Honest(
        home=place / "home",
        key=load_key(mine / "key.pem"),
        parts=read_parts(mine / "claim"),
        other=read_parts(theirs / "claim"),
        model=(mine / "model.safetensors").read_bytes(),
        other_model=(theirs / "model.safetensors").read_bytes(),
        page=(mine / "site" / "index.html").read_bytes(),
        answer=(mine / "answer").read_bytes(),
        challenge=mine / "challenge",
        other_answer=(theirs / "answer").read_bytes(),
        other_challenge=theirs / "challenge",
    )


def _party(place: Path, label: str, steps: int) -> Path:
    place.mkdir(parents=True)
    key, run, claim = write_key(place / "key.pem", label), place / "run", place / "claim" / "claim.dsse.json"
    model = place / "model.safetensors"

    def polledger(*words: object) -> None:
        command([str(word) for word in words], home=place.parent / "home", variables={})

    sealing = ["--steps", steps, "--every", 5, "--warm", 2, "--seal-every", 4]
    polledger("seal", "polledger.examples.digits", "--run", run, "--key", key, *sealing)
    model.write_bytes(published_model(run))
    polledger("claim", run, "--key", key, "-o", claim, "--model", model, "--name", "Ada Example")
    polledger("publish", claim, place / "site")
    head = max((run / "seals").iterdir())
    polledger("challenge", head, "--sample", 2, "-o", place / "challenge")
    polledger("open", run, place / "challenge", "-o", place / "answer")
    return place


def read_parts(place: Path) -> Parts:
    """What was claimed in ``place``."""
    return Parts(
        envelope=parse_envelope((place / "claim.dsse.json").read_bytes()),
        proof=parse_public_proof((place / "proof.msgpack").read_bytes()),
        tokens={path.name: path.read_bytes() for path in (place / "tokens").iterdir()},
    )


# The claim


def edited(old: str, new: str) -> Callable[[Honest], Parts]:
    """The claim with ``new`` in place of ``old``, which was signed."""
    return lambda it: replace(it.parts, envelope=replace(it.parts.envelope, payload=_edited(it, old, new)))


def signed(old: str, new: str, *, by_owner: bool) -> Callable[[Honest], Parts]:
    """The same, signed again."""

    def change(it: Honest) -> Parts:
        return _signed(it, _edited(it, old, new), it.key if by_owner else STRANGER)

    return change


def another_model(it: Honest) -> Parts:
    """The owner claims the root of another model, wherever the claim says it."""
    payload = it.parts.envelope.payload
    root = json.loads(payload)["predicate"]["model"]["root"].encode()
    return _signed(it, payload.replace(root, b"ab" * 32), it.key)


def _signed(it: Honest, payload: bytes, key: Ed25519PrivateKey) -> Parts:
    return replace(it.parts, envelope=sign_envelope(IN_TOTO, payload, (signer_of(key), model_signer(key)[0])))


def _edited(it: Honest, old: str, new: str) -> bytes:
    payload, count = re.subn(old.encode(), new.encode(), it.parts.envelope.payload, count=1)
    if count != 1:
        raise ValueError(f"the claim has no {old}")
    return payload


def cut(which: int) -> Callable[[Honest], Parts]:
    """The first half of one of the two files."""

    def change(it: Honest) -> Parts:
        files = list(it.parts.files)
        files[which] = files[which][: len(files[which]) // 2]
        return replace(it.parts, raw=(files[0], files[1]))

    return change


def unsigned(it: Honest) -> Parts:
    envelope = json.loads(encode_envelope(it.parts.envelope)) | {"signatures": []}
    return replace(it.parts, raw=(json.dumps(envelope).encode(), it.parts.files[1]))


CLAIMS: Final[Mapping[str, Callable[[Honest], Parts]]] = {
    "another number of steps, after it was signed": edited('"steps":[0-9]+', '"steps":60000'),
    "another name of the claimant, after it was signed": edited("Ada Example", "Eve Example"),
    "signed by somebody else": signed("Ada Example", "Eve Example", by_owner=False),
    "signed by the owner, with more steps than were sealed": signed(
        '"steps":[0-9]+', '"steps":60000', by_owner=True
    ),
    "signed by the owner, with another model": another_model,
    "without a signature": unsigned,
    "cut off in the middle": cut(0),
    "of one run, beside the proof of another": lambda it: replace(it.parts, envelope=it.other.envelope),
}


# The public proof


def proven(change: Callable[[PublicProof], dict[str, Any]]) -> Callable[[Honest], Parts]:
    return lambda it: replace(it.parts, proof=changed(it.parts.proof, **change(it.parts.proof)))


def another_record(proof: PublicProof) -> dict[str, Any]:
    """One bit of the first record's last byte but some is another."""
    first = proof.records[0]
    data = bytearray(first.record)
    data[data.index(b"config") + 20] ^= 1
    return {"records": [changed(first, record=bytes(data)), *proof.records[1:]]}


def another_signature(proof: PublicProof) -> dict[str, Any]:
    """The second head, signed by a stranger under the same name."""
    seal = proof.seals[1]
    note = sign_head(parse_note(seal.note).head, STRANGER)
    return {"seals": [proof.seals[0], changed(seal, note=note), *proof.seals[2:]]}


def forked(it: Honest) -> Parts:
    """The owner has signed another history of the same length."""
    seal = it.parts.proof.seals[1]
    note = sign_head(replace(parse_note(seal.note).head, root=bytes(32)), it.key)
    seals = [it.parts.proof.seals[0], changed(seal, note=note), *it.parts.proof.seals[2:]]
    return replace(it.parts, proof=changed(it.parts.proof, seals=seals))


def without_head(proof: PublicProof) -> dict[str, Any]:
    return {"seals": [proof.seals[0], *proof.seals[2:]], "consistency": proof.consistency[1:]}


def swapped_tokens(it: Honest) -> Parts:
    """The token of one head stands where that of the next belongs."""
    one, other = it.parts.proof.seals[0], it.parts.proof.seals[1]
    seals = [changed(one, tokens=other.tokens), changed(other, tokens=one.tokens), *it.parts.proof.seals[2:]]
    return replace(it.parts, proof=changed(it.parts.proof, seals=seals))


def changed_token(it: Honest) -> Parts:
    name = it.parts.proof.seals[0].tokens[0].response.hex()
    data = bytearray(it.parts.tokens[name])
    data[len(data) // 2] ^= 1
    return replace(it.parts, tokens={**it.parts.tokens, name: bytes(data)})


PROOFS: Final[Mapping[str, Callable[[Honest], Parts]]] = {
    "one bit of the first record": proven(another_record),
    "without its last record": proven(lambda proof: {"records": proof.records[:-1]}),
    "a tree head signed by somebody else": proven(another_signature),
    "a tree head over another history, signed by the owner": forked,
    "without one of the tree heads": proven(without_head),
    "time-stamps exchanged between two tree heads": swapped_tokens,
    "one bit of a time-stamp": changed_token,
    "cut off in the middle": cut(1),
    "of another run": lambda it: replace(it.parts, proof=it.other.proof, tokens=it.other.tokens),
}


# The page


def carried_claim(parts: Parts) -> bytes:
    """The claim as a page has it in it."""
    return carried_parts(envelope=parts.files[0], proof=parts.files[1])[0]


def carried_proof(parts: Parts) -> bytes:
    """The public proof as a page has it in it."""
    return carried_parts(envelope=parts.files[0], proof=parts.files[1])[1]


PAGES: Final[Mapping[str, Callable[[Honest], bytes]]] = {
    "a word in one of its scripts": lambda it: it.page.replace(
        b"What this page can check holds", b"All is well, trust this page..", 1
    ),
    "the claim inside, for that of another run": lambda it: it.page.replace(
        carried_claim(it.parts), carried_claim(it.other)
    ),
    "the public proof inside, for that of another run": lambda it: it.page.replace(
        carried_proof(it.parts), carried_proof(it.other)
    ),
    "the claim inside taken out": lambda it: it.page.replace(carried_claim(it.parts), b""),
    "cut off in the middle": lambda it: it.page[: len(it.page) // 2],
}


# The answer to a challenge


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The bytes of an answer, and the challenge that it is held against, if any."""

    data: bytes
    challenge: Path | None


def flipped(share: float) -> Callable[[Honest], Answer]:
    """One bit at about that share of the file."""

    def change(it: Honest) -> Answer:
        data = bytearray(it.answer)
        data[int(share * len(data))] ^= 1
        return Answer(data=bytes(data), challenge=it.challenge)

    return change


ANSWERS: Final[Mapping[str, Callable[[Honest], Answer]]] = {
    "one bit in its first tenth": flipped(0.1),
    "one bit in its middle": flipped(0.5),
    "one bit in its last tenth": flipped(0.9),
    "cut off in the middle": lambda it: Answer(data=it.answer[: len(it.answer) // 2], challenge=it.challenge),
    "something appended": lambda it: Answer(data=it.answer + b"x", challenge=it.challenge),
    "to another challenge": lambda it: Answer(data=it.answer, challenge=it.other_challenge),
    "of another run": lambda it: Answer(data=it.other_answer, challenge=it.challenge),
    "without the verifier's challenge": lambda it: Answer(data=it.answer, challenge=None),
    "empty": lambda it: Answer(data=b"", challenge=it.challenge),
}


# The model file

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Weights: TypeAlias = dict[str, Array]


def weights(change: Callable[[Weights], Weights]) -> Callable[[Honest], tuple[str, bytes]]:
    """The model file with its tensors changed."""

    def write(it: Honest) -> tuple[str, bytes]:
        from safetensors.numpy import load, save

        return "model.safetensors", save(change(load(it.model)))

    return write


def floating(
    change: Callable[[Array], Array],
) -> Callable[[Weights], Weights]:
    return lambda tensors: {
        name: change(value) if value.dtype == np.float32 else value for name, value in tensors.items()
    }


def first_bit(tensors: Weights) -> Weights:
    name = min(tensors)
    flat = tensors[name].copy()
    flat.view(np.uint8).reshape(-1)[0] ^= 1
    return {**tensors, name: flat}


def halved(value: Array) -> Array:
    return value.astype(np.float16)


def trained_on(value: Array) -> Array:
    noise = np.asarray(np.random.default_rng(1).standard_normal(value.shape), dtype=np.float32)
    return np.asarray(value + 0.02 * np.sqrt(np.mean(np.square(value))) * noise, dtype=np.float32)


def pruned(value: Array) -> Array:
    return value * (np.abs(value) >= np.median(np.abs(value))) if value.ndim > 1 else value


def bytes_changed(
    change: Callable[[bytes], bytes], name: str = "model.safetensors"
) -> Callable[[Honest], tuple[str, bytes]]:
    return lambda it: (name, change(it.model))


def long_header(data: bytes) -> bytes:
    return struct.pack("<Q", 1 << 40) + data[8:]


MODELS: Final[Mapping[str, Callable[[Honest], tuple[str, bytes]]]] = {
    "one bit of one tensor": weights(first_bit),
    "without one of its tensors": weights(
        lambda tensors: {name: tensors[name] for name in sorted(tensors)[1:]}
    ),
    "with one tensor more": weights(lambda tensors: {**tensors, "extra": np.zeros(3, np.float32)}),
    "one tensor under another name": weights(
        lambda tensors: {
            f"{name}x" if name == min(tensors) else name: value for name, value in tensors.items()
        }
    ),
    "rounded to half precision": weights(floating(halved)),
    "every number moved by 2 %, as by training on": weights(floating(trained_on)),
    "the smaller half of every matrix set to 0": weights(floating(pruned)),
    "cut off in the middle": bytes_changed(lambda data: data[: len(data) // 2]),
    "a header that claims 2^40 bytes": bytes_changed(long_header),
    "a pickle under the name of a torch file": bytes_changed(
        lambda data: b"cos\nsystem\n(S'true'\ntR.", "model.pt"
    ),
    "of another run": lambda it: ("model.safetensors", it.other_model),
}
