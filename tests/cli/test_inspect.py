"""``polledger inspect``: what a run says, at once and unverified."""

import msgspec

from polledger.cli.inspect import _drawn
from polledger.core.head import parse_note
from polledger.core.records import Checkpoint, Final, Resume
from polledger.store.ledger import LedgerWriter, read_ledger
from tests.cli.conftest import Command
from tests.timestamp.witness import cosign
from tests.verify.build import ENVIRONMENT, KEY, Built, reseal


def test_json_has_the_fields_of_the_protocol(command: Command, sealed: Built) -> None:
    said = command("inspect", sealed.run.path, "--json")
    found = said.json
    assert said.code == 0
    assert (found["schema"], found["exit_code"]) == ("polledger.inspect/1", 0)
    final = sealed.records[-1]
    assert isinstance(final, Final)
    assert found["run"] == final.run.hex()
    assert found["records"] == len(sealed.records)
    assert (found["steps"], found["intervals"], found["every"], found["warm"]) == (12, 5, 4, 2)
    assert found["kind"] == "recipe"
    assert found["final"]["step"] == 12
    assert found["final"]["model_root"] == final.model_root.hex()
    assert [seal["size"] for seal in found["seals"]] == [2, 11, 20]
    assert found["seals"][0]["time"] == "2026-03-01T12:00:00Z"
    assert all(len(seal["root"]) == 64 for seal in found["seals"])


def test_text_names_run_code_and_state(command: Command, sealed: Built) -> None:
    said = command("inspect", sealed.run.path)
    assert said.code == 0
    assert "12 of 12 steps" in said.out
    assert "finished, model root" in said.out
    assert "nothing was verified" in said.last


def test_an_unfinished_run_says_so(command: Command, sealed: Built, tmp_path: object) -> None:
    from pathlib import Path

    built = reseal(sealed, Path(str(tmp_path)) / "run", sealed.records[:12])
    found = command("inspect", built.run.path, "--json").json
    assert found["final"] is None
    assert found["steps"] == 7
    assert found["intervals"] == 3


def test_abandoned_stretches_do_not_count(command: Command, sealed: Built, tmp_path: object) -> None:
    from pathlib import Path

    at = next(i for i, item in enumerate(sealed.records) if isinstance(item, Checkpoint) and item.step == 4)
    resume = Resume(
        v=1,
        run=sealed.records[0].run,
        index=0,
        environment=ENVIRONMENT,
        source=at,
        first=at + 1,
        last=at + 6,
        reason="r",
    )
    # Five records after step 8's checkpoint are given up: the run goes back to step 4.
    records = [*sealed.records[: at + 7], resume, *sealed.records[at + 1 :]]
    final = records[-1]
    assert isinstance(final, Final)
    records[-1] = msgspec.structs.replace(final, checkpoint=final.checkpoint + 7)
    built = reseal(sealed, Path(str(tmp_path)) / "run", records)
    found = command("inspect", built.run.path, "--json").json
    assert (found["steps"], found["intervals"], found["resumes"]) == (12, 5, 1)


def test_damage_is_shown_and_not_fatal(command: Command, copied: Built) -> None:
    data = bytearray(copied.run.ledger_path.read_bytes())
    data[-5] ^= 1
    copied.run.ledger_path.write_bytes(bytes(data))
    copied.run.seal_path(1).write_bytes(b"junk")
    token = copied.run.read_seal(2).tokens[0]
    copied.run.objects.path(token.response).unlink()
    found = command("inspect", copied.run.path, "--json").json
    assert found["damage"].startswith("record 19")
    assert found["seals"][1]["size"] is None
    assert found["seals"][2]["time"] is None
    text = command("inspect", copied.run.path).out
    assert "1 unreadable" in text
    assert "damage" in text


def test_what_follows_a_damaged_record_still_counts(command: Command, copied: Built) -> None:
    offsets = read_ledger(copied.run.ledger_path).offsets
    data = bytearray(copied.run.ledger_path.read_bytes())
    data[offsets[7] + 20] ^= 1
    copied.run.ledger_path.write_bytes(bytes(data))
    found = command("inspect", copied.run.path, "--json").json
    assert found["damage"].startswith("record 7")
    assert (found["records"], found["steps"], found["intervals"]) == (len(copied.records), 12, 5)
    copied.run.ledger_path.write_bytes(bytes(data[: offsets[12]]) + b"torn")
    found = command("inspect", copied.run.path, "--json").json
    assert (found["records"], found["final"]) == (12, None)


def test_a_checkpoint_record_that_states_no_step_counts_for_nothing(command: Command, copied: Built) -> None:
    with LedgerWriter.open(copied.run.ledger_path) as writer:
        writer.append(b"\x83\xa4step\xc0\xa4type\xaacheckpoint\xa1v\x01")
    found = command("inspect", copied.run.path, "--json").json
    assert (found["records"], found["steps"], found["intervals"]) == (len(copied.records) + 1, 12, 5)


def test_what_a_run_says_reaches_no_terminal_as_control_codes(command: Command, copied: Built) -> None:
    (copied.run.path / "run.toml").write_text('task = "x\\u001b]0;title\\u0007\\nfinal  all is well"\n')
    said = command("inspect", copied.run.path)
    assert said.code == 0
    assert said.out.replace("\n", "").isprintable()
    assert "x\\x1b]0;title\\x07 final all is well" in said.out
    assert len(said.out.splitlines()) == 8


def test_a_run_without_genesis_is_refused(command: Command, copied: Built) -> None:
    copied.run.ledger_path.write_bytes(b"")
    said = command("inspect", copied.run.path)
    assert said.code == 4
    assert "genesis" in said.last


def test_a_path_without_a_run_is_a_usage_error(command: Command, tmp_path: object) -> None:
    said = command("inspect", f"{tmp_path}/nowhere", "--json")
    assert said.code == 2
    assert "nowhere" in said.json["error"]


def test_cosignatures_are_shown_by_name(command: Command, copied: Built) -> None:
    run = copied.run
    text = parse_note(run.read_seal(1).note).text
    lines = [cosign("witness.example/w1", KEY, text, 1_790_000_000).encode(), b"unreadable\n"]
    run.write_seal(msgspec.structs.replace(run.read_seal(1), cosignatures=lines))
    seals = command("inspect", run.path, "--json").json["seals"]
    assert [seal["witnesses"] for seal in seals] == [
        [],
        [{"name": "witness.example/w1", "time": "2026-09-21T14:13:20Z"}],
        [],
    ]
    assert ", cosigned by witness.example/w1" in command("inspect", run.path).out


def test_a_chain_says_how_many_tensors_were_not_taken() -> None:
    first = {"run": "aa", "path": "child", "steps": 3}
    parent = {"run": "bb", "path": "parent", "steps": 4, "origin": {"kind": "scratch", "seed": 7}}
    for fresh, but in ({"fresh": ["b", "w"]}, " but for 2 tensors"), ({}, ""):
        chain = [{**first, "origin": {"kind": "parent", "mode": "model", "head": "cc", **fresh}}, parent]
        assert list(_drawn(chain)) == [
            "run aa, 3 steps (child)",
            f"└─ final model{but} of run bb, 4 steps (parent)",
            "   └─ from scratch, seed 7",
        ]
