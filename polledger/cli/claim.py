"""``polledger claim``: state what a finished run trained, signed by its key. PROTOCOL sections 13 and 14."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polledger.cli.options import JsonOption, TsaOption
from polledger.cli.output import output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from polledger.core.dsse import Envelope
    from polledger.core.records import TokenRef
    from polledger.keys import KeySigner
    from polledger.publish.claim import FinishedRun
    from polledger.store.claimfiles import ClaimFiles
    from polledger.store.run import RunDirectory
    from polledger.timestamp.stamper import Authority

EXAMPLES = (
    "Examples: `polledger claim R --key key.pem -o claim/claim.dsse.json --model model.safetensors`; "
    "then `polledger verify claim/claim.dsse.json`, `polledger publish claim/claim.dsse.json DEST`."
)


def run(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a finished run.", show_default=False)
    ],
    key: Annotated[
        Path,
        typer.Option(
            "--key", metavar="FILE", help="The Ed25519 key that sealed the run.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Claim to write; proof and tokens go beside it, so give it a directory of its own.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model", metavar="FILE", help="Model file (.safetensors or .pt) to claim; repeatable."
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="Name of the model. Default: the task's.")
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Your name.")] = "",
    contact: Annotated[str, typer.Option("--contact", metavar="TEXT", help="How to reach you.")] = "",
    second_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--second-key", metavar="FILE", help="Key that signs besides (Ed25519 or ML-DSA-44); repeatable."
        ),
    ] = None,
    supersedes: Annotated[
        Path | None,
        typer.Option("--supersedes", metavar="CLAIM", help="Earlier claim that this one takes the place of."),
    ] = None,
    tsa: TsaOption = None,
    as_json: JsonOption = False,
) -> int:
    """Claim the model that RUN ends with: a signed, timestamped in-toto statement, and a public proof beside it."""
    from polledger.cli.verify import read_torch_file
    from polledger.core.dsse import IN_TOTO, sign_envelope
    from polledger.keys import load_key, load_signer, model_signer, signer_of
    from polledger.publish.claim import Wishes, finished_run, make_claim
    from polledger.publish.extras import make_extras
    from polledger.store.claimfiles import ClaimFiles
    from polledger.store.run import RunDirectory
    from polledger.training.stamping import choose_authorities
    from polledger.verify.evidence import read_evidence

    directory = RunDirectory.open(path)
    files = ClaimFiles(path=out.expanduser())
    own = load_key(key.expanduser())
    for_tools, pem = model_signer(own)
    signers = [signer_of(own), *([for_tools] if model else [])]
    signers += [load_signer(one.expanduser()) for one in second_key or ()]
    authorities = choose_authorities(tsa or ())
    finished = finished_run(read_evidence(directory))
    wishes = Wishes(
        name=name,
        contact=contact,
        model=title or _title(directory),
        files=tuple(model or ()),
        supersedes=None if supersedes is None else _earlier(supersedes, signers[0]),
    )
    further = [signer.public for signer in signers[1:]]
    payload = make_claim(finished, wishes, key=signers[0].public.key, further=further, read=read_torch_file)
    files.prepare()
    envelope = sign_envelope(IN_TOTO, payload, tuple(signers))
    tokens = _stamp(envelope, authorities, files)
    extras = make_extras(envelope, for_tools, pem) if model else {}
    _write(files, finished, envelope, tokens, extras)
    return _report(files, finished, envelope, tokens)


def _title(directory: "RunDirectory") -> str:
    """What the task is called: the last part of its name, or ``model``."""
    hint = directory.read_hints().get("task")
    task = hint if isinstance(hint, str) else ""
    return Path(task.partition(":")[0]).name.removesuffix(".py").rpartition(".")[2] or "model"


def _earlier(path: Path, signer: "KeySigner") -> bytes:
    """SHA-256 of the payload of the claim at ``path``. UsageError unless the same key signed it."""
    from polledger.core.claim import claim_in
    from polledger.core.digest import sha256
    from polledger.core.dsse import parse_envelope
    from polledger.errors import MalformedError, UsageError
    from polledger.store.claimfiles import ClaimFiles

    try:
        envelope = parse_envelope(ClaimFiles(path=path).read())
        claim_in(envelope)
    except MalformedError as error:
        raise UsageError(f"--supersedes {path}: {error}") from None
    if envelope.signature_of(signer.public) is None:
        raise UsageError(f"--supersedes {path}: another key signed it, and only that key can take it back")
    return sha256(envelope.payload)


def _stamp(envelope: "Envelope", authorities: "Sequence[Authority]", files: "ClaimFiles") -> "list[TokenRef]":
    """Tokens over the first signature, one of each authority that answers; who does not is named."""
    import secrets
    from datetime import UTC, datetime

    from polledger.core.digest import sha256
    from polledger.errors import MalformedError, Unavailable
    from polledger.timestamp.client import make_request
    from polledger.timestamp.stamper import NONCE_BITS, obtain_token, store_token

    digest = sha256(envelope.signatures[0].sig)
    found = []
    for authority in authorities:
        request = make_request(digest, nonce=secrets.randbits(NONCE_BITS), policy=authority.policy)
        try:
            token = obtain_token(authority, request, now=datetime.now(UTC))
        except (MalformedError, Unavailable) as error:
            output.note(f"no token from {authority.name}: {error}")
            continue
        found.append(store_token(files.tokens, token))
    return found


def _write(
    files: "ClaimFiles",
    finished: "FinishedRun",
    envelope: "Envelope",
    tokens: "list[TokenRef]",
    extras: "Mapping[str, bytes]",
) -> None:
    from polledger.publish.claim import copy_tokens, make_proof

    proof = make_proof(finished, tokens)
    copy_tokens(proof, finished.evidence.objects, files.tokens)
    files.write(envelope, proof, extras)


def _report(
    files: "ClaimFiles", finished: "FinishedRun", envelope: "Envelope", tokens: "list[TokenRef]"
) -> int:
    from polledger.core.digest import sha256
    from polledger.errors import EXIT_OK

    final = finished.facts.final
    digest = sha256(envelope.payload).hex()
    facts = {
        "claim": digest,
        "file": str(files.path),
        "proof": str(files.proof_path),
        "run": final.run.hex(),
        "head": finished.facts.head.head.digest().hex(),
        "model_root": final.model_root.hex(),
        "signatures": [one.keyid for one in envelope.signatures],
        "authorities": [one.authority for one in tokens],
    }
    output.result({"schema": "polledger.claim/1", "exit_code": EXIT_OK, **facts})
    output.text(f"claim {digest}")
    output.text(f"model root {final.model_root.hex()}, run {final.run.hex()}, {final.steps} steps")
    stamped = (
        f"stamped by {', '.join(one.authority for one in tokens)}" if tokens else "not stamped: no token came"
    )
    output.sentence(f"{files.path} holds the claim, {stamped}; `polledger verify {files.path}` checks it")
    return EXIT_OK
