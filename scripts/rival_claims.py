#!/usr/bin/env python3
"""Plays the thief's session of docs/rival-claims.md with real commands, and writes that document.

    scripts/rival_claims.py [--work DIR] [--write]

An owner trains and claims a model under one home, a thief acts under another, an authority of a third answers over
loopback; each has its own keys. Commands are run as they are shown, in one directory; what the thief's tools cannot do
(signing a copied run, saying what is untrue) is done with polledger's own red team. Without --write the document goes
to standard output.
"""

import argparse
import base64
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch
from evidence import ROOT, machine, table

sys.path.insert(0, str(ROOT))
from polledger.core.records import Checkpoint, Final
from polledger.core.start import model_tensors
from polledger.files import file_digest
from polledger.keys import load_or_create_key
from polledger.redteam.rewrite import read_records, rewrite_run
from polledger.redteam.seals import stamp_again
from polledger.redteam.spoof import Attempt
from polledger.redteam.stolen_start import forge_stolen
from polledger.redteam.target import target_of
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.stamper import Embedded
from polledger.verify.states import load_state
from tests.timestamp.serving import Served, serving

DOCUMENT = ROOT / "docs" / "rival-claims.md"
TASK = "polledger.examples.digits"
STEPS = 60
YEARS = 3
WIDTH = 118
CLAIM, RIVAL = "claim/claim.dsse.json", "rival/claim.dsse.json"
SAMPLE = ("--sample", 4)

SCENES = (
    "The owner",
    "The claim under another name",
    "The whole run, signed anew",
    "Fine-tuning first",
    "Fine-tuning first, and saying nothing of it",
    "Pruning",
    "A rival with backdated time",
    "Somebody who trained for himself",
)
"""Headings of the document, in order."""


@dataclass(slots=True)
class Session:
    """Runs commands for both parties and keeps what they print."""

    work: Path
    lines: list[str] = field(default_factory=list)

    def home(self, who: str) -> Path:
        """Where a party's keys and authority lie."""
        return self.work / f"{who}-home"

    def environment(self, who: str) -> dict[str, str]:
        """What a party's commands find set."""
        return {"POLLEDGER_HOME": str(self.home(who)), "COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT)}

    def say(self, text: str) -> None:
        """A paragraph of the document."""
        self.lines += [text.strip(), ""]

    def run(
        self, who: str, *words: object, expect: int, only: tuple[str, ...] = (), sentence: bool = True
    ) -> None:
        """``polledger`` with these words, as they are shown; its output goes into the document.

        ``only``: the rows that begin with one of these. ``sentence``: with the last line on standard error. Raises
        AssertionError for another exit code: the document may not say what did not happen.
        """
        done = subprocess.run(
            [sys.executable, "-m", "polledger.cli.app", *map(str, words)],
            cwd=self.work,
            env={**os.environ, **self.environment(who)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
        shown = _only(done.stdout.rstrip().splitlines(), only)
        last = [line for line in done.stderr.strip().splitlines()[-1:] if sentence]
        gap = [""] if shown and last else []
        command = shlex.join(["polledger", *map(str, words)])
        self.lines += ["```", f"$ {command}", *shown, *gap, *last, "```", ""]

    @contextlib.contextmanager
    def acting(self, who: str) -> Iterator[None]:
        """This process under a party's home, for what no command does."""
        before = os.environ.get("POLLEDGER_HOME")
        os.environ["POLLEDGER_HOME"] = str(self.home(who))
        try:
            yield
        finally:
            os.environ.pop("POLLEDGER_HOME")
            if before is not None:
                os.environ["POLLEDGER_HOME"] = before


def _only(lines: list[str], wanted: tuple[str, ...]) -> list[str]:
    """The rows of a printed table that have one of these names, with the lines that continue each."""
    if not wanted:
        return lines
    kept, keeping = [], False
    for line in lines:
        name = line.strip()
        if any(name.startswith(f"{item} ") for item in wanted):
            keeping = True
        elif not line.startswith("    ") or (keeping and line[:12].strip()):
            keeping = False
        if keeping:
            kept.append(line)
    return kept


def trusting(session: Session, served: Served) -> None:
    """The trust file of everybody here: the one authority, its root beside the file."""
    shutil.copy(served.root_path, session.work / "root.pem")
    text = "\n".join(
        [
            "[[authority]]",
            'name = "example"',
            'operator = "Example Ltd"',
            f'url = "{served.url}"',
            'roots = ["root.pem"]',
            f'policies = ["{served.entry["policies"][0]}"]',
            "",
        ]
    )
    (session.work / "trust.toml").write_text(text)
    for who in ("owner", "thief", "other"):
        home = session.home(who)
        home.mkdir()
        shutil.copy(served.root_path, home / "root.pem")
        (home / "trust.toml").write_text(text)


def final_model(run: Path) -> dict[str, torch.Tensor]:
    """The published model of a finished run as torch has it."""
    directory = RunDirectory.open(run)
    records = read_records(directory)
    final = next(item for item in records if isinstance(item, Final))
    last = records[final.checkpoint]
    assert isinstance(last, Checkpoint)
    flat = load_state(directory.objects, last.root).flat
    kinds = {"float32": "<f4", "int64": "<i8"}
    return {
        name: torch.from_numpy(np.frombuffer(item.data, kinds[item.dtype]).reshape(item.shape).copy())
        for name, item in model_tensors(flat, final.object).items()
    }


def pruned(model: dict[str, torch.Tensor], share: float = 0.5) -> dict[str, torch.Tensor]:
    """The model with the smallest ``share`` of every weight matrix set to 0."""
    found = {}
    for name, tensor in model.items():
        if tensor.ndim > 1:
            limit = tensor.abs().flatten().kthvalue(int(share * tensor.numel())).values
            tensor = torch.where(tensor.abs() <= limit, torch.zeros_like(tensor), tensor)
        found[name] = tensor
    return found


VERIFY = ("time", "8 origin", "9 replay")
BETWEEN = (
    "models",
    "first",
    "A from B",
    "B from A",
    "shared",
    "along",
    "keys",
    "authorities",
    "equivocation",
)
TIMES = ("time", "genesis by", "end by", "vouching")
TRUST = ("--trust", "trust.toml")
SHORT = ("--steps", 30, "--set", "lr=0.01", "--tsa", "example")


def owner(session: Session) -> None:
    session.say("""
The owner trains, claims the model, and publishes the claim and the weights. An authority that everybody here trusts
stamps the heads.""")
    session.run("owner", "seal", TASK, "--run", "owner", "--steps", STEPS, "--tsa", "example", expect=0)
    torch.save(final_model(session.work / "owner"), session.work / "model.pt")
    shutil.copy(session.home("owner") / "key.pem", session.work / "owner-key.pem")
    words = ("--model", "model.pt", "--name", "The owner", "--tsa", "example")
    session.run("owner", "claim", "owner", "--key", "owner-key.pem", "-o", CLAIM, *words, expect=0)
    session.run("judge", "verify", "owner", *SAMPLE, *TRUST, "--model", "model.pt", expect=0, only=VERIFY)
    session.run("judge", "verify", CLAIM, *TRUST, expect=3, only=("time", "10 binding"))


def another_name(session: Session) -> None:
    session.say("""
The thief copies the claim and puts another name into it. The name is inside what was signed, and the thief does not
have the key that sealed the run, so that it cannot sign anew either.""")
    shutil.copytree(session.work / "claim", session.work / "thiefs-claim")
    path = session.work / "thiefs-claim" / "claim.dsse.json"
    envelope = json.loads(path.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b"The owner", b"The thief")
    envelope["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(envelope, separators=(",", ":"), sort_keys=True))
    session.run("judge", "verify", "thiefs-claim/claim.dsse.json", *TRUST, expect=3, only=("10 binding",))


def signed_anew(session: Session) -> None:
    session.say("""
More than a thief would have: the owner's whole directory, private files and all. Every record is signed again, under
the thief's key. But the training seed hangs on the key that signs: under this one the first state and the order of
the data are others.""")
    with session.acting("thief"):
        rewrite_run(session.work / "owner", session.work / "copy", key=load_or_create_key(None), edit=list)
    session.run("judge", "compare", "owner", "copy", *SAMPLE, *TRUST, expect=0)


def tuned(session: Session) -> None:
    session.say("""
The thief trains on from the published weights and says so: `--external` commits the file's SHA-256. That is honest,
and VERIFIED once the file is at hand. The verdict names the file; it is the one in the owner's claim.""")
    session.run("thief", "seal", TASK, "--run", "tuned", "--external", "model.pt", *SHORT, expect=0)
    session.run("judge", "verify", "tuned", *SAMPLE, *TRUST, expect=3, only=("8 origin",))
    words = (*SAMPLE, *TRUST, "--external", "model.pt")
    session.run("judge", "verify", "tuned", *words, expect=0, only=VERIFY)
    session.say(f"`sha256sum model.pt` gives `{file_digest(session.work / 'model.pt').hex()}`.")
    session.run(
        "judge", "compare", "owner", "tuned", *TRUST, "--no-replay", expect=0, only=(*TIMES, *BETWEEN)
    )


def silent(session: Session) -> None:
    session.say("""
The same, declared as from scratch (spoof 13 of `polledger redteam`). Every interval is training and replays; only the
beginning is a lie, and the seed tells. `compare` sees where it began, whatever genesis says.""")
    place = session.work / "attempt"
    place.mkdir()
    with session.acting("thief"):
        forge_stolen(target_of(session.work / "owner", task=TASK), Attempt(directory=place, seed=1))
    (place / "run").rename(session.work / "silent")
    session.run("judge", "verify", "silent", *SAMPLE, *TRUST, expect=1, only=VERIFY)
    session.run("judge", "compare", "owner", "silent", *TRUST, "--no-replay", expect=0, only=BETWEEN)


def cut(session: Session) -> None:
    session.say("""
The smaller half of every weight matrix is set to 0. The file is not the claimed model. Trained on from it, the run
shows where it began: within half of the owner's way from the owner's end.""")
    torch.save(pruned(final_model(session.work / "owner")), session.work / "pruned.pt")
    words: tuple[object, ...] = (*TRUST, "--model", "pruned.pt")
    session.run("judge", "verify", CLAIM, *words, expect=3, only=("10 binding",), sentence=False)
    session.run("thief", "seal", TASK, "--run", "pruned", "--external", "pruned.pt", *SHORT, expect=0)
    words = (*SAMPLE, *TRUST, "--external", "pruned.pt")
    session.run("judge", "verify", "pruned", *words, expect=0, only=VERIFY)
    session.run("judge", "compare", "owner", "pruned", *TRUST, "--no-replay", expect=0, only=BETWEEN)


def backdated(session: Session) -> None:
    session.say(f"""
The signed copy again, stamped by the thief's own embedded authority with its clock set back {YEARS} years, and a claim
about it under the thief's key. Self-asserted time orders nothing, whatever it says: neither with a trust file nor
without. The claim is well-formed, but the run under it does not replay.""")
    run = RunDirectory.open(Path(shutil.copytree(session.work / "copy", session.work / "backdated")))
    with session.acting("thief"):
        embedded = Embedded(authority=EmbeddedAuthority.open(session.home("thief") / "tsa"))
        stamp_again(run, embedded, now=datetime.now(UTC) - timedelta(days=365 * YEARS))
    session.run("judge", "inspect", "backdated", expect=0, only=("seals",), sentence=False)
    shutil.copy(session.home("thief") / "key.pem", session.work / "thief-key.pem")
    words: tuple[object, ...] = ("--key", "thief-key.pem", "-o", RIVAL, "--name", "The thief")
    session.run("thief", "claim", "backdated", *words, expect=0)
    session.run("judge", "verify", "backdated", *SAMPLE, *TRUST, expect=1, only=("time",))
    words = (CLAIM, RIVAL, "--no-replay")
    session.run("judge", "compare", *words, *TRUST, expect=0, only=(*TIMES, "models", "first", "keys"))
    session.run("judge", "compare", *words, expect=0, only=("time", "first"))


def for_himself(session: Session) -> None:
    session.say("""
The control: somebody else trains the same task on the same data, under another key. Both are VERIFIED, nothing is
shared but the code, and the models are further apart than either went.""")
    session.run("other", "seal", TASK, "--run", "other", "--steps", STEPS, "--tsa", "example", expect=0)
    words = (*SAMPLE, *TRUST)
    session.run("judge", "compare", "owner", "other", *words, expect=0, only=("verdict", *BETWEEN))


PLAYED = (owner, another_name, signed_anew, tuned, silent, cut, backdated, for_himself)

INTRODUCTION = """# Rival claims: a thief's session

Written by `scripts/rival_claims.py` from what the commands printed ({cpu}, {cores} cores, torch {torch}), shortened to
the lines that are spoken of. Owner and thief have homes and keys of their own and share only what is published: the
weights and the claim. Where the thief is given more than that, it is said.

`compare` puts facts side by side and gives no score ([decision 0040](decisions/0040-what-compare-says.md)). Its exit
code is 0 where everything could be compared, whatever came out, 3 where something could not (it says what), and 2 for
wrong usage.

How to read its lines. *Exact*: one model root. *Derived*: one run begins at the other's end, or within half of the
other's way from it. *Near*: the ends are closer than half of the longer way. *Apart*: they are not. A way is the l2
distance from a run's first model to its last.
"""

OUTCOMES = (
    ("the claim under another name", "UNVERIFIABLE: no valid signature", "no run of the thief's to compare"),
    ("the run signed anew", "REFUTED", "exact; every state and batch stands in both ledgers"),
    ("fine-tuning, declared", "VERIFIED, naming the file", "begins at the owner's end; the owner was first"),
    ("fine-tuning, not declared", "REFUTED at step 8", "begins at the owner's end, and does not say so"),
    ("pruning, then training on", "VERIFIED, naming the file", "derived: begins close to the owner's end"),
    ("a rival claim, backdated", "REFUTED (its run)", "exact; nothing orders the two in time"),
    ("an honest stranger", "VERIFIED", "apart; nothing shared but the code"),
)

CONCLUSION = """
What remains open to a thief: to train on stolen weights and say where they came from, to distil them, or to keep
silent. Whoever reads the verdict sees the first; no tool sees the other two. And whoever stamps first is first:
earlier proves possession, not authorship.
"""


def play(session: Session) -> str:
    """The whole document."""
    here = machine()
    session.say(INTRODUCTION.format(cpu=here["cpu"], cores=here["cores"], torch=here["torch"]))
    with serving(session.work / "authority" / "tsa", "--name", "Example Ltd") as served:
        trusting(session, served)
        for heading, scene in zip(SCENES, PLAYED, strict=True):
            print(heading, file=sys.stderr)
            session.lines += [f"## {heading}", ""]
            scene(session)
    session.lines += ["## What came of it", ""]
    session.say(table(("attempt", "`verify`", "`compare`"), OUTCOMES))
    session.say(CONCLUSION)
    return "\n".join(session.lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="directory for the runs, kept; default: a temporary one")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="polledger-rivals-") as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        text = play(Session(work=work.resolve()))
    if given.write:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
