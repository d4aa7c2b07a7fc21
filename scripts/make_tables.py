#!/usr/bin/env python3
"""Write the tables of the documents from what the scripts that measure left in docs/evidence/.

A table lies between ``<!-- NAME -->`` and ``<!-- /NAME -->``; everything else in a file is written by hand.
``--check`` writes nothing and exits 1 if a table is not what its evidence says.
"""

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

import bench  # noqa: E402
import bench_beside  # noqa: E402
import bench_checkpoints  # noqa: E402
import bench_copying  # noqa: E402
import bench_files  # noqa: E402
import bench_ledger  # noqa: E402
import bench_overhead  # noqa: E402
import bench_storage  # noqa: E402
import figure1  # noqa: E402
import gpu  # noqa: E402
import honest  # noqa: E402
import outage  # noqa: E402
import page_shots  # noqa: E402
import redteam  # noqa: E402
import replay_cost  # noqa: E402
import screen_cost  # noqa: E402
import screening  # noqa: E402
import tampering  # noqa: E402
import time_cost  # noqa: E402
import tsa_bench  # noqa: E402
from evidence import EVIDENCE, short, table  # noqa: E402

from polledger.redteam.table import lines_of  # noqa: E402

DOCUMENTS = SCRIPTS.parent / "docs"

Evidence = Mapping[str, Any]


def printed(show: Callable[[Any], None], value: Any) -> str:
    """What ``show`` prints of ``value``."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        show(value)
    return text.getvalue()


def figure(value: Evidence) -> str:
    stated = [msgspec.to_builtins(item) for item in figure1.statements(value["rows"])]
    return printed(figure1.print_tables, {**value, "statements": stated})


def optimised(value: Evidence) -> str:
    rows = [
        (
            row["spoof"],
            row["title"],
            short(row["cost"]),
            ", ".join(f"{name} {short(found)}" for name, found in row["reached"].items()),
            row["verdict"],
            {True: "yes", False: "no"}.get(row["reference"], ""),
        )
        for row in value["rows"]
    ]
    return table(("spoof", "what it does", "cost", "reached", "verdict", "passes the published kind"), rows)


def spoofs(value: Evidence) -> str:
    parts = [f"CPU: {value['machine']['cpu']}, {value['machine']['cores']} cores."]
    for name, kind in value["kinds"].items():
        own = [item for item in value["attempts"] if item["kind"] == name]
        what = f"{kind['task']} {' '.join(kind['settings'])}, k = {kind['every']}"
        tried = f"{len({item['seed'] for item in own})} of {kind['thieves']} thieves so far."
        parts += [f"### {name}: {what}", tried, redteam.table_of(lines_of(redteam.rows_of(own)))]
        skipped = sorted({(item["spoof"], item["skipped"]) for item in own if "skipped" in item})
        parts += [f"- not tried here: {spoof}: {reason}" for spoof, reason in skipped]
    return "\n\n".join(parts)


def where(value: Evidence) -> str:
    found = value["machine"]
    return f"CPU: {found['cpu']}, {found['cores']} cores, torch {found['torch']}."


TABLES: dict[str, dict[str, tuple[str, Callable[[Any], str]]]] = {
    "soundness.md": {
        "redteam": ("redteam", spoofs),
        "optimised": ("optimised", optimised),
        "screening": ("screening", lambda value: "\n".join(screening.table(value))),
        "screen_cost": (
            "screen_cost",
            lambda value: f"{where(value)}\n\n{printed(screen_cost.print_table, value['rows'])}",
        ),
        "replay_cost": ("replay_cost", lambda value: f"{where(value)}\n\n{replay_cost.table_of(value)}"),
        "honest": ("honest", lambda value: printed(honest.print_tables, value)),
        "figure1": ("figure1", figure),
    },
    "tampering.md": {"tampering": ("tampering", tampering.render)},
    "page.md": {"page": ("page", page_shots.page_table)},
    "time.md": {"outage": ("outage", lambda value: outage.render(value["rows"]))},
    "benchmarks.md": {
        "gpu_hashing": ("gpu_hashing", gpu.hashing_text),
        "bench": ("bench", lambda value: f"{where(value)}\n\n{bench.render(value)}"),
        "checkpoints": ("checkpoints", bench_checkpoints.render),
        "copying": ("copying", bench_copying.render),
        "beside": ("beside", lambda value: f"{where(value)}\n\n{bench_beside.render(value)}"),
        "replay_cost_one_thread": ("replay_cost_one_thread", replay_cost.table_of),
        "overhead": ("overhead", bench_overhead.render),
        "storage": ("storage", bench_storage.render),
        "files": ("files", bench_files.render),
        "ledger": ("ledger", lambda value: f"{where(value)}\n\n{bench_ledger.render(value)}"),
        "time_cost_tokens": ("time_cost", time_cost.token_table),
        "time_cost_runs": ("time_cost", time_cost.run_table),
        "tsa_bench": ("tsa_bench", tsa_bench.render_load),
        "tsa_bench_parts": ("tsa_bench", tsa_bench.render_parts),
    },
}
"""By document and name of the table: the evidence that it comes from, and what makes it."""


def written(document: str, text: str) -> str:
    """``text``, the content of ``document``, with every table made anew."""
    for name, (source, make) in TABLES[document].items():
        path = EVIDENCE / f"{source}.json"
        made = "*Not measured yet.*"
        if path.exists():
            made = make(json.loads(path.read_text(encoding="utf-8"))).strip()
        block = f"<!-- {name} -->\n\n{made}\n\n<!-- /{name} -->"
        places = re.split(rf"<!-- {name} -->.*?<!-- /{name} -->", text, flags=re.DOTALL)
        if len(places) != 2:
            raise SystemExit(f"{document} has {len(places) - 1} places for the table {name!r}")
        text = block.join(places)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the tables of the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a table differs")
    wanted = parser.parse_args()
    stale = []
    for document in TABLES:
        path = DOCUMENTS / document
        before = path.read_text(encoding="utf-8")
        after = written(document, before)
        if after != before:
            stale.append(document)
            if not wanted.check:
                path.write_text(after, encoding="utf-8")
    if stale and wanted.check:
        print(f"{', '.join(stale)}: not what docs/evidence says: run scripts/make_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
