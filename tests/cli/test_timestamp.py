"""``polledger timestamp`` around its verbs; what they find out is tested in tests/timestamp."""

import shutil

from tests.cli.conftest import Command
from tests.verify.build import Built


def test_retry_changes_nothing_in_a_copy_without_a_queue(command: Command, copied: Built) -> None:
    shutil.rmtree(copied.run.path / "private", ignore_errors=True)
    before = sorted(copied.run.path.rglob("*"))
    said = command("timestamp", "retry", copied.run.path, "--json")
    assert (said.code, said.json["pending"], said.json["damaged"]) == (0, [], [])
    assert said.last == "no timestamp waits"
    assert sorted(copied.run.path.rglob("*")) == before
