"""Write tests/vectors/timestamp/own and runs: a response per defect, and small runs of several tokens; some are right.

Each response has exactly the defect that its name says; everything else, signatures included, is right. Keys and
signatures are deterministic (tests/timestamp/forge.py); the cases are made in tests/timestamp/defects. ``cases.json``
says for each what is expected, by which clause, and, where it is invalid, a part of the reason. A run is one file
with everything in it: the run directory, trust file, policy, and what step 3 makes of them. ``--check`` writes
nothing and exits 1 if a file differs, is missing or is left over.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.timestamp import forge as f  # noqa: E402
from tests.timestamp.defects import all_cases  # noqa: E402
from tests.timestamp.defects.clauses import clause_of  # noqa: E402
from tests.timestamp.defects.runs import run_cases  # noqa: E402

TARGET = ROOT / "tests" / "vectors" / "timestamp"


def run_files() -> dict[str, bytes]:
    """Every file of the runs by name."""
    return {
        f"{case.name}.json": (json.dumps(case.to_json(), indent=1) + "\n").encode() for case in run_cases()
    }


def files() -> dict[str, bytes]:
    """Every file of the responses by name."""
    made: dict[str, bytes] = {}
    entries = []
    for case in all_cases():
        entry: dict[str, Any] = {
            "name": case.name,
            "expect": "valid" if case.error is None else "invalid",
            "digest": f.DIGEST.hex(),
            "hash": "sha256",
            "nonce": f.NONCE,
            "policy": f.POLICY,
            "verify_at": "2026-11-22T06:13:21Z",
            "response": f"{case.name}.tsr",
            "roots": certificate_file(made, case.roots),
            "clause": clause_of(case.name),
            **case.asked,
        }
        if case.intermediates:
            entry["intermediates"] = certificate_file(made, case.intermediates)
        if case.error is not None:
            entry["error"] = case.error
        made[f"{case.name}.tsr"] = case.response
        entries.append(entry)
    made["cases.json"] = (json.dumps(entries, indent=1) + "\n").encode()
    return made


def certificate_file(made: dict[str, bytes], parties: Sequence[f.Party]) -> str:
    """Name of the PEM file with these certificates, made if it is new."""
    content = b"".join(party.pem() for party in parties)
    name = f"{hashlib.sha256(content).hexdigest()[:12]}.pem"
    made[name] = content
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    made = {f"own/{name}": data for name, data in files().items()}
    made |= {f"runs/{name}": data for name, data in run_files().items()}
    there = {
        f"{folder}/{path.name}": path.read_bytes()
        for folder in ("own", "runs")
        for path in (TARGET / folder).glob("*")
    }
    stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    if check:
        for name in stale:
            print(f"{name} differs from what this script makes", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        if name in made:
            (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
            (TARGET / name).write_bytes(made[name])
        else:
            (TARGET / name).unlink()
    print(f"{len(made)} files, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
