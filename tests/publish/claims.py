"""Claims for the page's tests, made with the library's own formats. Every part can be changed, signed again or not.

The records of the run are real, its training is not: the page replays nothing.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from polledger.core.claim import (
    NOT_CLAIMED,
    Anchor,
    Claim,
    Claimant,
    ClaimedHead,
    ClaimedParent,
    Data,
    Model,
    ModelFile,
    Tensor,
    Training,
    encode_statement,
)
from polledger.core.digest import ZERO, sha256
from polledger.core.dsse import IN_TOTO, PublicKey, encode_envelope, parse_envelope, sign_envelope
from polledger.core.encoding import encode, real
from polledger.core.head import Head, parse_note, sign_head
from polledger.core.merkle import Tree, chainpoint_node, consistency_proof, leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.moment import utc_text
from polledger.core.publicproof import ProvenRecord, PublicProof
from polledger.core.published import file_root
from polledger.core.records import (
    AnyRecord,
    Checkpoint,
    Dataset,
    Environment,
    Final,
    Genesis,
    Parent,
    Seal,
    StateObject,
    Step,
    TokenRef,
)
from polledger.core.state import TensorData, tensor_root
from polledger.publish.page import render_page
from polledger.timestamp.authority import LocalAuthority
from polledger.timestamp.client import make_request

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
RUN, OTHER_RUN = bytes(range(16)), bytes(range(16, 32))
START = datetime.now(UTC).replace(microsecond=250_000) + timedelta(minutes=1)
"""Certificates of the authority are made while the tests run, and it stamps nothing before."""
EVERY, STEPS = 10, 40

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64"}
WIDTHS = {"float32": 4, "float16": 2, "int64": 8}


@dataclass(frozen=True)
class Signer:
    """A private key as :func:`sign_envelope` wants it."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(algorithm="ed25519", key=self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


def tensor(path: str, dtype: str, shape: tuple[int, ...], fill: int = 1) -> TensorData:
    """A tensor with bytes that differ from place to place."""
    size = WIDTHS[dtype]
    for length in shape:
        size *= length
    return TensorData(
        path=path, dtype=dtype, shape=shape, data=memoryview(bytes((i * 7 + fill) % 251 for i in range(size)))
    )


MODEL = (
    # Two whole chunks and a part of one; several pieces of it begin inside another tensor's chunk.
    tensor("body.weight", "float32", (300, 128), 3),
    tensor("body.bias", "float32", (300,), 5),
    tensor("head.weight", "float16", (10, 300), 7),
    tensor("head.steps", "int64", (), 9),
)


def safetensors(tensors: Sequence[TensorData], *, metadata: bool = True) -> bytes:
    """The file of ``tensors``, in their order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if metadata else {}
    position = 0
    for one in tensors:
        end = position + len(one.data)
        header[one.path] = {
            "dtype": SAFETENSORS_DTYPES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(one.data for one in tensors)


ENVIRONMENT = Environment(
    device="cpu", cpu="a processor", capability="AVX2", torch="2.13.0", torch_git="abc", cuda="", cudnn="", driver="",
    python="3.11.7", numpy="2.3.0", platform="linux", polledger="0.1.0", threads=2, interop_threads=1,
    flags={"deterministic": True, "cudnn_benchmark": False, "sdp_flash": 0},
)  # fmt: skip


def records_of(run: bytes = RUN, key: Ed25519PrivateKey = KEY, **changes: Any) -> list[AnyRecord]:
    """Genesis, checkpoints and steps in order, final. ``changes`` are of genesis."""
    genesis = {
        "v": 1, "run": run, "index": 0, "task": sha256(b"task"), "kind": "recipe", "config": {"lr": real(0.1)},
        "seed": 7, "bound": True, "key": key.public_key().public_bytes_raw(), "every": EVERY, "warm": 2,
        "steps": STEPS, "dataset": Dataset(root=sha256(b"data"), size=1797), "environment": ENVIRONMENT,
        "objects": [StateObject(name="model", kind="module")], "origin": "scratch",
    }  # fmt: skip
    found: list[AnyRecord] = [Genesis(**{**genesis, **changes})]

    def checkpoint(step: int) -> None:
        root = sha256(b"state %d" % step)
        found.append(Checkpoint(v=1, run=run, index=len(found), step=step, root=root, stored=True))

    checkpoint(0)
    for step in range(STEPS):
        found.append(Step(v=1, run=run, index=len(found), step=step, batch=sha256(b"batch %d" % step)))
        if step + 1 <= 2 or (step + 1) % EVERY == 0:
            checkpoint(step + 1)
    found.append(
        Final(
            v=1,
            run=run,
            index=len(found),
            checkpoint=len(found) - 1,
            object="model",
            model_root=file_root(MODEL),
            steps=STEPS,
        )
    )
    return found


def sizes_of(records: Sequence[AnyRecord]) -> tuple[int, ...]:
    """Sizes of the heads: genesis and checkpoint 0, two on the way, the whole."""
    return (2, 17, 32, len(records))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a page carries."""

    claim: Claim
    envelope: bytes
    proof: PublicProof
    tokens: tuple[bytes, ...]

    def page(self) -> bytes:
        return render_page(envelope=self.envelope, proof=encode(self.proof), tokens=self.tokens)

    def signed_anew(self, key: Ed25519PrivateKey = KEY, **changes: Any) -> "Parts":
        """With fields of the claim changed and the envelope signed again, which takes the key.

        The tokens over the claim go: they are over the signature that there was.
        """
        claim = msgspec.structs.replace(self.claim, **changes)
        stamped = {ref.response for ref in self.proof.claim}
        return replace(
            self,
            claim=claim,
            envelope=envelope_of(claim, key),
            proof=msgspec.structs.replace(self.proof, claim=[]),
            tokens=tuple(token for token in self.tokens if sha256(token) not in stamped),
        )

    def training(self, **changes: Any) -> "Parts":
        """Signed again with fields of ``training`` changed."""
        return self.signed_anew(training=msgspec.structs.replace(self.claim.training, **changes))

    def model(self, **changes: Any) -> "Parts":
        """Signed again with fields of ``model`` changed."""
        return self.signed_anew(model=msgspec.structs.replace(self.claim.model, **changes))

    def proven(self, **changes: Any) -> "Parts":
        """With fields of the proof changed."""
        return replace(self, proof=msgspec.structs.replace(self.proof, **changes))

    def sealed(self, place: int, /, **changes: Any) -> "Parts":
        """With fields of one seal changed."""
        seals = list(self.proof.seals)
        seals[place] = msgspec.structs.replace(seals[place], **changes)
        return self.proven(seals=seals)

    def payload(self, old: str, new: str) -> "Parts":
        """With one replacement in the signed text, and the old signature."""
        envelope = json.loads(self.envelope)
        payload = b64decode(envelope["payload"]).decode()
        assert payload.count(old) >= 1
        envelope["payload"] = b64encode(payload.replace(old, new, 1).encode()).decode()
        return replace(self, envelope=json.dumps(envelope).encode())


def envelope_of(claim: Claim, key: Ed25519PrivateKey = KEY) -> bytes:
    return encode_envelope(sign_envelope(IN_TOTO, encode_statement(claim), (Signer(key),)))


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes the claim of a run step by step. ``stamp`` false leaves the tokens out."""

    authority: LocalAuthority
    run: bytes = RUN
    key: Ed25519PrivateKey = KEY
    genesis: dict[str, Any] = field(default_factory=dict)
    stamp: bool = True
    head_key: Ed25519PrivateKey | None = None
    change_head: Callable[[int, Head], Head] = lambda index, head: head
    change_records: Callable[[list[AnyRecord]], list[AnyRecord]] = lambda records: records

    def make(self) -> Parts:
        records = self.change_records(records_of(self.run, self.key, **self.genesis))
        data = [encode(record) for record in records]
        leaves = [leaf_hash(sha256(one)) for one in data]
        heads = self._heads(leaves, sizes_of(records))
        tokens, refs = self._stamped([head.digest() for head in heads])
        seals = [
            Seal(v=1, index=i, note=sign_head(head, self.head_key or self.key), tokens=ref)
            for i, (head, ref) in enumerate(zip(heads, refs, strict=True))
        ]
        tree = Tree(leaves)
        shown = [0, 1, 2, len(records) - 2, len(records) - 1]
        proof = PublicProof(
            v=1,
            run=self.run,
            seals=seals,
            consistency=[consistency_proof(leaves, one.size, two.size) for one, two in pairwise(heads)],
            records=[ProvenRecord(record=data[i], path=tree.inclusion_proof(i)) for i in shown],
            claim=[],
        )
        claim = self._claim(records, heads, refs, tokens)
        envelope = envelope_of(claim, self.key)
        (over_claim,), (ref,) = self._stamped([sha256(parse_envelope(envelope).signatures[0].sig)], late=4)
        proof = msgspec.structs.replace(proof, claim=ref)
        return Parts(claim=claim, envelope=envelope, proof=proof, tokens=(*_flat(tokens), *over_claim))

    def _heads(self, leaves: list[bytes], sizes: Sequence[int]) -> list[Head]:
        heads: list[Head] = []
        previous = ZERO
        for index, size in enumerate(sizes):
            head = Head(
                run=self.run,
                size=size,
                root=tree_root(leaves[:size]),
                chainpoint=tree_root(leaves[:size], chainpoint_node),
                previous=previous,
            )
            heads.append(self.change_head(index, head))
            previous = heads[-1].digest()
        return heads

    def _stamped(
        self, digests: Sequence[bytes], late: int = 0
    ) -> tuple[list[list[bytes]], list[list[TokenRef]]]:
        """The responses over each digest, and their names."""
        if not self.stamp:
            return [[] for _ in digests], [[] for _ in digests]
        responses, refs = [], []
        for i, digest in enumerate(digests):
            request = make_request(digest, nonce=i + 1)
            response = self.authority.respond(request, now=START + timedelta(minutes=7 * (i + late)))
            responses.append([response])
            refs.append(
                [TokenRef(authority="Example TSA", request=sha256(request), response=sha256(response))]
            )
        return responses, refs

    def _claim(
        self,
        records: list[AnyRecord],
        heads: list[Head],
        refs: list[list[TokenRef]],
        tokens: list[list[bytes]],
    ) -> Claim:
        genesis = records[0]
        assert isinstance(genesis, Genesis)
        (final,) = [record for record in records if isinstance(record, Final)]
        file = safetensors(MODEL)
        anchors = [
            Anchor(
                seal=i,
                size=heads[i].size,
                authority=ref.authority,
                time=utc_text(START + timedelta(minutes=7 * i)),
                token=ref.response.hex(),
            )
            for i, found in enumerate(refs)
            for ref in found
        ]
        return Claim(
            v=1,
            claimant=Claimant(
                key=self.key.public_key().public_bytes_raw().hex(),
                name="Ada Example",
                contact="ada@example.org",
            ),
            model=Model(
                name="Digits of the postal service",
                object=final.object,
                root=final.model_root.hex(),
                tensors=[
                    Tensor(
                        name=one.path,
                        dtype=one.dtype,
                        shape=list(one.shape),
                        root=tensor_root(one.data).hex(),
                    )
                    for one in MODEL
                ],
                files=[ModelFile(name="digits.safetensors", size=len(file), sha256=sha256(file).hex())],
            ),
            training=Training(
                run=self.run.hex(),
                genesis=sha256(encode(genesis)).hex(),
                head=ClaimedHead(
                    seal=len(heads) - 1,
                    size=heads[-1].size,
                    root=heads[-1].root.hex(),
                    digest=heads[-1].digest().hex(),
                ),
                kind=genesis.kind,
                steps=final.steps,
                intervals=5,
                resumes=0,
                every=genesis.every,
                warm=genesis.warm,
                seed=genesis.seed,
                bound=genesis.bound,
                origin=genesis.origin,
                external=UNSET if genesis.external is UNSET else genesis.external.hex(),
                anchors=anchors,
            ),
            data=Data(disclosure="batches")
            if genesis.dataset is UNSET
            else Data(disclosure="withheld", root=genesis.dataset.root.hex(), size=genesis.dataset.size),
            task=genesis.task.hex(),
            environment=genesis.environment,
            parents=[] if genesis.parent is UNSET else [_parent(genesis.parent)],
            not_claimed=list(NOT_CLAIMED),
        )


def _parent(parent: Parent) -> ClaimedParent:
    claim = UNSET if parent.claim is UNSET else parent.claim.hex()
    return ClaimedParent(head=parent.head.hex(), mode=parent.mode, claim=claim)


def _flat(parts: Sequence[Sequence[bytes]]) -> list[bytes]:
    return [one for part in parts for one in part]


def resigned_note(note: bytes, change: Callable[[Head], Head], key: Ed25519PrivateKey = KEY) -> bytes:
    """The note of a changed head, signed by ``key``."""
    return sign_head(change(parse_note(note).head), key)


def envelope_with(parts: Parts, **changes: Any) -> bytes:
    """The envelope with fields changed that no signature covers, or that it no longer fits."""
    return encode_envelope(replace(parse_envelope(parts.envelope), **changes))
