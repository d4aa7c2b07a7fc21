"""A comparison for people: the two side by side, then what lies between them, then what none of it shows."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from polledger.core.compareform import BindingForm, RivalsForm
from polledger.core.text import one_line
from polledger.publish.compared import between, short, side_facts

if TYPE_CHECKING:
    from rich.console import Console

TENSORS = 12
"""Rows of the table of tensors; --json has more."""


def comparison_text(found: RivalsForm, console: "Console") -> str:
    """``found`` laid out for ``console``. What evidence says is on it as text."""
    with console.capture() as captured:
        _print_sides(found, console)
        _print_between(found, console)
        if found["binding"]["tensors"] and found["binding"]["relation"] != "exact":
            _print_tensors(found["binding"], console)
        console.print("What this does not show:", style="bold")
        _print_list(found["not_shown"], console)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _print_sides(found: RivalsForm, console: "Console") -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("A", overflow="fold", ratio=1)
    table.add_column("B", overflow="fold", ratio=1)
    for (name, one), (_, other) in zip(side_facts(found["a"]), side_facts(found["b"]), strict=True):
        table.add_row(Text(name, style="dim"), Text(one_line(one)), Text(one_line(other)))
    console.print(table)
    console.print()


def _print_between(found: RivalsForm, console: "Console") -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in between(found):
        grid.add_row(Text(name, style="dim"), Text(one_line(text)))
    console.print("Between them:", style="bold")
    console.print(grid)
    console.print()


def _print_tensors(binding: BindingForm, console: "Console") -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tensor", overflow="fold")
    for heading in ("dtype A, B", "distance", "of A's norm", "cosine", "equal"):
        table.add_column(heading, justify="right")
    for one in binding["tensors"][:TENSORS]:
        share = one["equal"] / one["numbers"] if one["numbers"] else 0.0
        table.add_row(
            Text(one_line(one["name"])),
            one["dtypes"][0] if len(set(one["dtypes"])) == 1 else ", ".join(one["dtypes"]),
            short(one["l2"]),
            short(one["relative"]),
            short(one["cosine"]),
            f"{share:.1%}",
        )
    console.print(table)
    left = len(binding["tensors"]) - TENSORS + binding["left_out"]
    if left > 0:
        console.print(f"… and {left} more (--json lists {len(binding['tensors'])})", style="dim")
    console.print()


def _print_list(texts: list[str], console: "Console") -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    for text in texts:
        grid.add_row("-", text)
    console.print(grid)
