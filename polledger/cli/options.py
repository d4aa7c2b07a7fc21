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

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="path/to/file.py[:Class] or package.module[:Class].", show_default=False
    ),
]

StepsOption = Annotated[int | None, typer.Option("--steps", metavar="N", help="The same as --set steps=N.")]

SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the task's config."),
]

SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Seed of the training. Default: 0.")
]

DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="D", help="cpu (the default), cuda, cuda:1, …")
]

WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", metavar="W", help="Processes that make batches ahead; 0 makes them in this one."
    ),
]
