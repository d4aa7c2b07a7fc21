"""Write the session in docs/two-parties.md: two directories that share nothing but the files exchanged, real output.

Everything is run anew in a temporary directory; digests and sizes differ from run to run, what is said does not.
``--check`` runs nothing and exits 1 if the document does not hold these commands in this order.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "two-parties.md"
BEGIN, END = "<!-- session: written by scripts/two_parties.py -->", "<!-- end of session -->"
WIDTH = "96"


@dataclass(frozen=True, kw_only=True)
class Act:
    """One command of one party, and what is handed over afterwards; ``said`` stands above it in the document."""

    who: str
    command: str
    said: str = ""
    sends: tuple[str, str] | None = None
    code: int = 0


SESSION = (
    Act(
        who="prover",
        said="The prover trains, seals the run, and hands over its newest head.",
        command="polledger seal polledger.examples.mlp --run run --steps 240 --every 4 --warm 2 --withhold-metrics",
        sends=("run/seals/*", "head"),
    ),
    Act(
        who="verifier",
        said="The verifier asks for sketches of every stored checkpoint, under a seed of its own.",
        command="polledger challenge head --sketch --deadline 7d -o c1",
        sends=("c1", "c1"),
    ),
    Act(who="prover", command="polledger open run c1 --compact -o s1", sends=("s1", "s1")),
    Act(
        who="verifier",
        said="The sketches are here, so the sample can be drawn. What they flag is asked for besides.",
        command="polledger challenge s1 --challenge c1 --sample 3 --deadline 7d -o c2",
        sends=("c2", "c2"),
    ),
    Act(who="prover", command="polledger open run c2 --compact -o p", sends=("p", "p")),
    Act(
        who="verifier",
        said="The verdict, from the file and the challenge that was kept. The data are not needed, and not there.",
        command="polledger verify p --challenge c2",
    ),
    Act(who="verifier", said="What the verifier has in the end:", command="ls"),
    Act(who="verifier", command="polledger inspect p"),
    Act(
        who="verifier",
        said="The same file without the challenge shows nothing: who presents it may have drawn until it suits.",
        command="polledger --quiet verify p",
        code=3,
    ),
    Act(
        who="verifier",
        said="A damaged file is refused, and accuses nobody.",
        command="cp p q && printf 'x' | dd of=q bs=1 seek=5000 conv=notrunc status=none && "
        "polledger --quiet verify q --challenge c2",
        code=3,
    ),
    Act(
        who="prover",
        said="A prover may also refuse. That is on record, and shows nothing for or against it.",
        command="polledger open run c2 --refuse 'not before the paper is out' -o r",
        sends=("r", "r"),
    ),
    Act(who="verifier", command="polledger --quiet verify r --challenge c2", code=3),
)


def perform(place: Path) -> str:
    """Act the session out below ``place``; the text between the markers."""
    homes = {who: place / who for who in ("prover", "verifier")}
    for home in homes.values():
        home.mkdir()
    parts = []
    for act in SESSION:
        home = homes[act.who]
        done = subprocess.run(
            ["bash", "-c", act.command],
            cwd=home,
            env={**os.environ, "POLLEDGER_HOME": str(place / f"{act.who}-home"), "COLUMNS": WIDTH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        if done.returncode != act.code:
            raise SystemExit(f"{act.command} gave {done.returncode}, not {act.code}:\n{done.stdout}")
        other = homes["verifier" if act.who == "prover" else "prover"]
        if act.sends is not None:
            shutil.copy(sorted(home.glob(act.sends[0]))[-1], other / act.sends[1])
        # Where the directory lies is of no interest.
        parts.append(shown(act, done.stdout.replace(f"{home}/", "")))
    return "\n".join(parts)


def shown(act: Act, output: str) -> str:
    """One command and what it printed, as the document has it."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines() if "steps/s" not in line]
    said = [act.said, ""] if act.said else []
    sent = [f"*{act.who} sends `{act.sends[1]}`*", ""] if act.sends is not None else []
    return "\n".join([*said, "```console", f"{act.who}$ {act.command}", *lines, "```", "", *sent])


def commands_in(text: str) -> list[str]:
    """The commands that a document holds, in order."""
    return re.findall(r"^(?:prover|verifier)\$ .*$", text, flags=re.MULTILINE)


def is_current(text: str) -> bool:
    """Whether the document holds the commands of the session, in order."""
    return commands_in(text) == [f"{act.who}$ {act.command}" for act in SESSION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = DOCUMENT.read_text("utf-8")
    if parser.parse_args().check:
        if not is_current(text):
            raise SystemExit(f"{DOCUMENT.name} differs: run {shlex.quote(sys.argv[0])}")
        return
    with tempfile.TemporaryDirectory() as directory:
        session = perform(Path(directory))
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{session}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
