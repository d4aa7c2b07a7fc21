"""``polledger keygen``: make a key for signing tree heads, or a second one for claims."""

from typing import Annotated

import typer

from polledger.cli.options import JsonOption, NewFileOption
from polledger.cli.output import output


def run(
    out: NewFileOption,
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help="Ask for a passphrase (POLLEDGER_KEY_PASSWORD is used where set)."),
    ] = False,
    ml_dsa_44: Annotated[
        bool,
        typer.Option("--ml-dsa-44", help="A post-quantum key that can sign claims besides the Ed25519 key."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an Ed25519 key (PKCS#8 PEM, mode 0600) and print its public key."""
    from polledger.keys import create_signer, new_passphrase

    path = out.expanduser()
    password = new_passphrase() if encrypt else None
    signer = create_signer(path, "ml-dsa-44" if ml_dsa_44 else "ed25519", password=password)
    public = signer.public.key.hex()
    output.result({"schema": "polledger.keygen/1", "exit_code": 0, "file": str(path), "public_key": public})
    output.text(f"public key {public}")
    output.sentence(f"{path} holds a new key; keep it: whoever has it signs as you")
