"""``polledger inspect``: what a run says about itself, at once and without verifying anything."""

from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polledger.cli.options import JsonOption
from polledger.cli.output import output
from polledger.core.moment import utc_milliseconds, utc_text
from polledger.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from polledger.core.records import AnyRecord, Genesis, Seal, TokenRef
    from polledger.store.run import RunDirectory

_STEP = b"\xa4type\xa4step\xa1v\x01"
_CHECKPOINT = b"\xa4type\xaacheckpoint\xa1v\x01"
"""How these records end in PL-MP/1: most records are one or the other, and counting them needs no decoding."""


def run(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Directory of a run, or a challenge, refusal or proof.", show_default=False
        ),
    ],
    as_json: JsonOption = False,
) -> int:
    """Show what a run recorded, or what a file between two parties says. Nothing is verified."""
    from datetime import UTC, datetime

    from polledger.cli.described import describe_file
    from polledger.errors import EXIT_OK
    from polledger.store.run import RunDirectory

    is_file = path.is_file()
    facts = describe_file(path, datetime.now(UTC)) if is_file else describe(RunDirectory.open(path))
    output.result({"schema": "polledger.inspect/1", "exit_code": EXIT_OK, **facts})
    if not output.json:
        (_print_file if is_file else _print)(facts)
    output.note("nothing was verified: polledger verify does that")
    return EXIT_OK


def _print_file(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if value is not None:
            output.text(f"{name:>9}  {one_line(str(value))}")


def describe(directory: "RunDirectory") -> dict[str, Any]:
    """The fields of ``inspect --json``.

    Raises Unavailable when there is no record 0 to read, MalformedError when it is not a genesis record.
    """
    from polledger.timestamp.queue import RequestQueue
    from polledger.timestamp.sealtimes import SealTimes, waiting_in

    made = SealTimes(directory.seal_times_path).read()
    genesis, progress = _progress(directory.ledger_path)
    return {
        "run": genesis.run.hex(),
        **progress,
        "every": genesis.every,
        "warm": genesis.warm,
        "kind": genesis.kind,
        "seals": [_seal(directory, number, made.get(number)) for number in directory.seals()],
        "renewals": [_renewal(directory, number) for number in directory.renewals()],
        "waiting": [one.to_json() for one in waiting_in(RequestQueue(directory.queue_path), made)],
        **_genesis(genesis),
        "lineage": lineage(directory, genesis),
        "task": _task(directory),
    }


def _genesis(genesis: "Genesis") -> dict[str, Any]:
    from msgspec import UnsetType

    from polledger.core.config import decode_config

    dataset = genesis.dataset
    return {
        "total_steps": genesis.steps,
        "origin": genesis.origin,
        "seed": genesis.seed,
        "bound": genesis.bound,
        "key": genesis.key.hex(),
        "code": genesis.task.hex(),
        "config": decode_config(genesis.config),
        "examples": None if isinstance(dataset, UnsetType) else dataset.size,
        "device": genesis.environment.device,
    }


def lineage(directory: "RunDirectory", genesis: "Genesis") -> list[dict[str, Any]]:
    """This run and those it starts from, as far as hints lead to them; ``origin`` says what each starts from."""
    from polledger.cli.parents import hinted_parent_run
    from polledger.verify.ancestry import ANCESTORS, describe_origin

    chain: list[dict[str, Any]] = []
    while True:
        origin: dict[str, Any] = {**describe_origin(genesis)}
        if genesis.origin == "scratch":
            origin["seed"] = genesis.seed
        path, run = str(directory.path), genesis.run.hex()
        chain.append({"run": run, "path": path, "steps": genesis.steps, "origin": origin})
        parent = hinted_parent_run(directory, genesis)
        if parent is None or len(chain) > ANCESTORS:
            return chain
        directory, genesis = parent


def _task(directory: "RunDirectory") -> str | None:
    hint = directory.read_hints().get("task")
    return hint if isinstance(hint, str) else None


def _progress(path: Path) -> "tuple[Genesis, dict[str, Any]]":
    """Record 0; and what the ledger says: abandoned stretches do not count. Raises as :func:`describe`.

    One pass that keeps 16 bytes a checkpoint. Of a step nothing is decoded, of a checkpoint only its step.
    """
    from array import array

    from polledger.core.records import Final, Resume, parse_genesis
    from polledger.errors import Unavailable
    from polledger.store.ledger import iter_records, step_of

    items = iter_records(path)
    first = next(items, None)
    if not isinstance(first, bytes):
        raise Unavailable(f"{path}: there is no genesis record to read")
    genesis = parse_genesis(first)
    checkpoints, ends = array("Q"), array("Q")
    records, whole, steps, resumes = 1, 1, 0, 0
    damage, final = None, None
    for item in items:
        records += 1
        if not isinstance(item, bytes):
            damage = damage or item
            continue
        whole = records
        if item.endswith(_STEP):
            steps += 1
        elif item.endswith(_CHECKPOINT) and (end := step_of(item)) is not None:
            checkpoints.append(records - 1)
            ends.append(end)
            steps = 0
        elif isinstance(record := _record(item), Resume):
            resumes += 1
            steps = 0
            kept = bisect_right(checkpoints, record.source)
            del checkpoints[kept:], ends[kept:]
        elif isinstance(record, Final):
            final = {"step": record.steps, "model_root": record.model_root.hex(), "object": record.object}
    return genesis, {
        "records": whole,
        "steps": (ends[-1] if ends else 0) + steps,
        "intervals": max(0, len(checkpoints) - 1),
        "resumes": resumes,
        "final": final,
        "damage": None if damage is None else f"record {damage.index}: {damage.reason}",
    }


def _record(data: bytes) -> "AnyRecord | None":
    from polledger.core.records import parse_record
    from polledger.errors import MalformedError

    try:
        return parse_record(data)
    except MalformedError:
        return None


def _seal(directory: "RunDirectory", number: int, made: "datetime | None") -> dict[str, Any]:
    from polledger.core.head import parse_note
    from polledger.errors import MalformedError, Unavailable

    try:
        seal = directory.read_seal(number)
        head = parse_note(seal.note).head
    except (MalformedError, Unavailable) as error:
        return {"size": None, "root": None, "time": None, "problem": str(error)}
    tokens = _tokens(directory, seal.tokens, made)
    return {
        "size": head.size,
        "root": head.root.hex(),
        "time": min((token["time"] for token in tokens), default=None),
        "authorities": sorted({token.authority for token in seal.tokens}),
        "made": None if made is None else utc_milliseconds(made),
        "tokens": tokens,
        "witnesses": _witnesses(seal),
    }


def _witnesses(seal: "Seal") -> list[dict[str, str]]:
    """Name and time of each stored cosignature, as it says; nothing is checked, unreadable ones are left out."""
    from msgspec import UNSET

    from polledger.core.cosignature import parse_cosignature
    from polledger.errors import MalformedError

    found = []
    for line in [] if seal.cosignatures is UNSET else seal.cosignatures:
        try:
            cosignature = parse_cosignature(line)
        except MalformedError:
            continue
        found.append({"name": cosignature.name, "time": utc_text(cosignature.time)})
    return found


def _renewal(directory: "RunDirectory", number: int) -> dict[str, Any]:
    from polledger.core.renewal import parse_statement
    from polledger.errors import MalformedError, Unavailable

    try:
        renewal = directory.read_renewal(number)
        statement = parse_statement(renewal.statement)
    except (MalformedError, Unavailable) as error:
        return {"index": number, "entries": None, "time": None, "problem": str(error)}
    times = [token["time"] for token in _tokens(directory, renewal.tokens, None)]
    return {
        "index": number,
        "entries": statement.size,
        "time": min(times, default=None),
        "authorities": sorted({token.authority for token in renewal.tokens}),
    }


def _tokens(
    directory: "RunDirectory", tokens: "Sequence[TokenRef]", made: "datetime | None"
) -> list[dict[str, Any]]:
    """Authority, genTime as it says, and lag behind the seal in seconds of each token; unreadable ones are left out."""
    from polledger.errors import MalformedError, Unavailable
    from polledger.timestamp import cms
    from polledger.timestamp.messages import token_of
    from polledger.timestamp.token import TOKEN_BYTES
    from polledger.timestamp.tstinfo import parse_tst_info

    found = []
    for token in tokens:
        try:
            data = directory.objects.get(token.response, limit=TOKEN_BYTES)
            info = parse_tst_info(cms.parse_token(token_of(data)).content)
        except (MalformedError, Unavailable):
            continue
        lag = None if made is None else round((info.gen_time - made).total_seconds(), 3)
        time = utc_text(info.gen_time)
        found.append({"authority": token.authority, "time": time, "lag": lag})
    return found


def _print(facts: dict[str, Any]) -> None:
    final = facts["final"]
    state = f"finished, model root {final['model_root']}" if final else "not finished"
    rows = [
        ("run", facts["run"]),
        ("task", f"{facts['task'] or 'unknown'} ({facts['kind']}), code sha256 {facts['code']}"),
        ("training", f"{facts['steps']} of {facts['total_steps']} steps on {facts['device']}; {state}"),
        ("data", f"{facts['examples']} examples committed" if facts["examples"] else "batches committed only"),
        ("origin", f"{facts['origin']}, seed {facts['seed']}{'' if facts['bound'] else ' (not bound to the key)'}"),
        ("records", f"{facts['records']} in {facts['intervals']} intervals (k = {facts['every']}, "
                    f"warm {facts['warm']}, {facts['resumes']} resumes)"),
        ("key", facts["key"]),
        ("seals", _seals(facts["seals"])),
        *_waiting(facts["waiting"]),
    ]  # fmt: skip
    if facts["renewals"]:
        rows.append(("renewals", _renewals(facts["renewals"])))
    if facts["damage"]:
        rows.append(("damage", facts["damage"]))
    for name, value in rows:
        output.text(f"{name:>9}  {one_line(value)}")
    drawn = _drawn(facts["lineage"]) if facts["origin"] != "scratch" else ()
    for number, line in enumerate(drawn):
        output.text(f"{'' if number else 'lineage':>9}  {line}")


def _drawn(chain: list[dict[str, Any]]) -> "Iterator[str]":
    """The chain from this run to the first one, each below the one that starts from it."""
    from polledger.core.report import counted

    part = ""
    for depth, link in enumerate(chain):
        yield _branch(depth, f"{part}run {link['run']}, {link['steps']} steps ({link['path']})")
        kept = len(link["origin"].get("fresh", ()))
        but = f" but for {counted(kept, 'tensor')}" if kept else ""
        part = (
            f"{'whole final state' if link['origin'].get('mode') == 'continue' else 'final model'}{but} of "
        )
    yield _branch(len(chain), _first(chain[-1]["origin"], part))


def _branch(depth: int, text: str) -> str:
    return ("   " * (depth - 1) + "└─ " if depth else "") + one_line(text)


def _first(origin: dict[str, Any], part: str) -> str:
    if origin["kind"] == "scratch":
        return f"from scratch, seed {origin['seed']}"
    if origin["kind"] == "external":
        return f"a model file, sha256 {origin['sha256']}"
    return f"{part}a run that is not here (head {origin['head']})"


def _waiting(waiting: list[dict[str, Any]]) -> list[tuple[str, str]]:
    from polledger.core.reportwords import waiting_rows
    from polledger.core.timesummary import Waiting

    return waiting_rows([Waiting(**one) for one in waiting])


def _seals(seals: list[dict[str, Any]]) -> str:
    times = [seal["time"] for seal in seals if seal.get("time")]
    said = f", their tokens say {min(times)} to {max(times)}" if times else ", no token yet"
    broken = sum(seal["size"] is None for seal in seals)
    without = sum(seal["size"] is not None and not seal["tokens"] for seal in seals)
    lacking = f", {without} without token" if times and without else ""
    unreadable = f", {broken} unreadable" if broken else ""
    return f"{len(seals)}{said}{_lag(seals)}{lacking}{_cosigned(seals)}{unreadable}"


def _cosigned(seals: list[dict[str, Any]]) -> str:
    names = sorted({one["name"] for seal in seals for one in seal.get("witnesses", ())})
    return f", cosigned by {', '.join(names)}" if names else ""


def _lag(seals: list[dict[str, Any]]) -> str:
    lags = [token["lag"] for seal in seals for token in seal.get("tokens", ()) if token["lag"] is not None]
    return f", {max(lags):.1f} s after the seal at most" if lags else ""


def _renewals(renewals: list[dict[str, Any]]) -> str:
    said = [
        f"{one['index']}: {one['entries']} heads and tokens, {one['time'] or 'time unreadable'}, "
        f"{', '.join(one['authorities'])}"
        if one["entries"] is not None
        else f"{one['index']}: unreadable"
        for one in renewals
    ]
    return "; ".join(said)
