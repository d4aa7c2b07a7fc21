"""Options that several commands have, with one meaning and one wording."""

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

NewFileOption = Annotated[
    Path, typer.Option("-o", "--output", help="File to write; one that exists is never overwritten.")
]

PolicyOption = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="TOML file with your bounds.")
]

InputOption = Annotated[
    list[str] | None, typer.Option("--input", metavar="NAME=PATH", help="Where your data lies.")
]

TsaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tsa",
        metavar="NAME|URL",
        help="Time-stamping authority by name or URL; repeatable, all are asked. Default: embedded.",
    ),
]
