"""Spoof 19, smuggled weights: the committed code, its config, its data or what it imports brings the weights along.

Replay runs the code that was committed, so whatever that code does is reproduced: a step that copies the weights in
replays bit for bit, and a loss that pulls towards them *is* training by its own lights. What polledger can do is to run
no code that nobody vouched for, to keep weights of any size out of source (1 MiB) and config (64 KiB), to let a
verifier ask for a recipe or a committed data set, and to print how many lines there are to read and what undeclared
fields of examples hold. Who vouches for code that smuggles has been deceived by the code, not by the proof
(:data:`LIMITS`): a task's code must be read. PROTOCOL sections 1, 7 and 9.
"""

import base64
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import torch

from polledger.core.encoding import SOURCE_LIMITS, encode
from polledger.core.records import CONFIG_BYTES
from polledger.core.source import SOURCE_BYTES
from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.own import own_run
from polledger.redteam.rewrite import read_records, reseal, seal_sizes
from polledger.redteam.spoof import Attempt, Forge, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of
from polledger.store.run import RunDirectory
from polledger.training.location import load_task_class, resolve_task
from polledger.training.sealer import encode_record
from polledger.training.session import MODEL

PROGRAMS = Path(__file__).parent / "programs"
PACKAGE = "stolen_weights"

Packed = dict[str, tuple[list[int], str]]


def program(target: Target, name: str, directory: Path, *, weights: Packed | None = None) -> Path:
    """The program ``name`` in ``directory``, its base class the target's task, with ``weights`` where they belong."""
    text = (PROGRAMS / f"{name}.py").read_text()
    text = text.replace("from polledger.examples.mlp import Mlp as Base", _import_of(target, directory))
    text = text.replace("WEIGHTS: Packed = {}", f"WEIGHTS: Packed = {weights or {}!r}")
    path = directory / f"{name}.py"
    path.write_text(text)
    return path


def _import_of(target: Target, directory: Path) -> str:
    location = resolve_task(target.task)
    cls = location.class_name or load_task_class(location).__name__
    if location.module is not None:
        return f"from {location.module} import {cls} as Base"
    if location.path is None:
        raise ValueError(f"{target.task} has no file")
    shutil.copy(location.path, directory)
    return f"from {location.path.stem} import {cls} as Base"


def packed(target: Target) -> Packed:
    """The stolen parameters by their names in the model, as the programs read them."""
    return {
        path.removeprefix(f"{MODEL}/"): (
            list(tensor.shape),
            base64.b64encode(tensor.contiguous().numpy().tobytes()).decode(),
        )
        for path, tensor in tensors_of(target.weights).items()
        if tensor.dtype == torch.float32
    }


def smuggle(
    target: Target,
    attempt: Attempt,
    way: str,
    *,
    arguments: Callable[[str], Sequence[str]] = lambda digest: ("--trust-code", digest),
    settings: tuple[str, ...] = (),
    inputs: tuple[tuple[str, str], ...] = (),
    weights: Packed | None = None,
    note: str = "",
) -> Forgery:
    """Train the program's class ``way`` as it is meant to be trained: every record is true.

    ``arguments`` are the verifier's, given the digest of the code.
    """
    path = program(target, "smuggle", attempt.directory, weights=weights)
    known = replace(target, task=f"{path}:{way}", inputs={**target.inputs, **dict(inputs)})
    stolen = tensors_of(target.weights)
    with forging(seal_options(known, attempt, settings=settings), thief_key(attempt.seed)) as forge:
        start = distance(stolen, tensors_of(forge.state()))
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
        given = [word for name, place in inputs for word in ("--input", f"{name}={place}")]
        return Forgery(
            run=forge.run.path,
            gradients=forge.cost(target),
            sample=1,
            bogus=0,
            arguments=(*arguments(forge.genesis.task.hex()), *given),
            reached={
                "distance from the stolen weights": distance(stolen, tensors_of(forge.state())),
                "distance at the start": start,
            },
            note=note,
        )


def unread(target: Target, attempt: Attempt) -> Forgery:
    """Weights in the source, and a verifier who has vouched for no code."""
    return smuggle(target, attempt, "Copied", weights=packed(target), arguments=lambda digest: ())


def requiring(attempt: Attempt, what: str) -> Callable[[str], tuple[str, ...]]:
    """Arguments of a verifier who vouches for the code and whose policy requires ``what``."""
    policy = attempt.directory / "policy.toml"
    policy.write_text(f"[require]\n{what} = true\n")
    return lambda digest: ("--trust-code", digest, "--policy", str(policy))


def stepped(target: Target, attempt: Attempt) -> Forgery:
    """A step of the task's own puts them in; the verifier's policy requires a recipe."""
    return smuggle(target, attempt, "Stepped", weights=packed(target), arguments=requiring(attempt, "recipe"))


def batched(target: Target, attempt: Attempt) -> Forgery:
    """A batch of the task's own brings them; the verifier's policy requires a committed data set."""
    return smuggle(
        target,
        attempt,
        "Batched",
        inputs=_extra(target, attempt),
        arguments=requiring(attempt, "dataset_root"),
    )


def _extra(target: Target, attempt: Attempt) -> tuple[tuple[str, str], ...]:
    """A data file that holds every parameter, in the model's order."""
    path = attempt.directory / "extra.json"
    with forging(
        seal_options(target, attempt, run=attempt.directory / "scratch"), thief_key(attempt.seed)
    ) as forge:
        names = [name for name, _ in forge.objects[MODEL].named_parameters()]
    tensors = tensors_of(target.weights)
    values = [value for name in names for value in tensors[f"{MODEL}/{name}"].flatten().tolist()]
    path.write_text(json.dumps(values))
    return (("extra", str(path)),)


def installed(target: Target, attempt: Attempt) -> Forgery:
    """An installed package has them, and is installed where the run is sealed and nowhere else."""
    site = attempt.directory / "site-packages"
    site.mkdir()
    (site / f"{PACKAGE}.py").write_text(f"WEIGHTS = {packed(target)!r}\n")
    with _importable(site):
        return smuggle(target, attempt, "Dependent", note="the package is not there at replay")


@contextmanager
def _importable(site: Path) -> Iterator[None]:
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        sys.modules.pop(PACKAGE, None)


def large_source(target: Target, attempt: Attempt) -> Forgery:
    """A manifest of source that is larger than source may be, as larger weights would need; written by hand."""

    def enlarge(run: RunDirectory, genesis: dict[str, Any]) -> None:
        manifest = msgpack.unpackb(run.objects.get(genesis["task"], limit=SOURCE_LIMITS.size))
        blob = bytes(SOURCE_BYTES)
        extra = {"path": "zz.py", "executable": False, "size": len(blob), "digest": run.objects.put(blob)}
        manifest["files"].append(extra)
        genesis["task"] = run.objects.put(encode(manifest))

    return _by_hand(target, attempt, enlarge)


def large_config(target: Target, attempt: Attempt) -> Forgery:
    """A config that is larger than a config may be; written by hand."""

    def enlarge(run: RunDirectory, genesis: dict[str, Any]) -> None:
        genesis["config"]["notes"] = "w" * CONFIG_BYTES

    return _by_hand(target, attempt, enlarge)


def _by_hand(
    target: Target, attempt: Attempt, change: Callable[[RunDirectory, dict[str, Any]], None]
) -> Forgery:
    """An honest run whose genesis is what no tool of polledger would write."""
    run = own_run(target, attempt)
    first, *others = (encode_record(record) for record in read_records(run))
    genesis = msgpack.unpackb(first)
    change(run, genesis)
    reseal(run, [encode(genesis), *others], sizes=seal_sizes(run), key=thief_key(attempt.seed))
    return Forgery(run=run.path, gradients=1.0, sample=1, bogus=0, note="beyond a limit of section 7")


def in_config(target: Target, attempt: Attempt) -> Forgery:
    """Weights that fit into a config, which the code reads."""
    value = json.dumps(packed(target))
    return smuggle(target, attempt, "Configured", settings=(f"notes='{value}'",))


def in_data(target: Target, attempt: Attempt) -> Forgery:
    """Weights in a field of every example, which no domain is declared for."""
    return smuggle(target, attempt, "Fed", inputs=_extra(target, attempt))


def _in_source(way: str) -> Forge:
    return lambda target, attempt: smuggle(target, attempt, way, weights=packed(target))


def _spoof(variant: str, title: str, forge: Forge) -> Spoof:
    return Spoof(
        number=19,
        variant=variant,
        title=title,
        source="review of this design",
        forge=forge,
        reference=False,
        why="it runs whatever code the prover sends, and says nothing about it",
    )


SPOOFS = (
    _spoof("unread", "weights in the source, no code vouched for", unread),
    _spoof("step", "a step that copies them in, where a recipe is required", stepped),
    _spoof("batch", "a batch that brings them, where a data set is required", batched),
    _spoof("installed", "weights in a package that only the prover has", installed),
    _spoof("large-source", "source of more than 1 MiB", large_source),
    _spoof("large-config", "config of more than 64 KiB", large_config),
)

LIMITS = (
    _spoof("loss", "a recipe whose loss copies weights out of the source, vouched for", _in_source("Copied")),
    _spoof("anchor", "a recipe whose loss pulls towards the weights, vouched for", _in_source("Anchored")),
    _spoof("start", "a model that is built as the weights, vouched for", _in_source("Started")),
    _spoof("config", "weights in the config and code that reads them, vouched for", in_config),
    _spoof("data", "weights in the examples and code that reads them, vouched for", in_data),
)
"""What verifies all the same once somebody vouches for the code: it has to be read."""
