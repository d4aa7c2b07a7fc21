"""A policy that knows the data, through the command line."""

import re
from pathlib import Path

from tests.e2e.conftest import TASKS, Cli


def test_the_digest_that_a_finding_names_is_the_one_to_list(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"

    def verify(known: str) -> tuple[int, dict[str, str]]:
        policy.write_text(f'[data]\nknown = ["{known}"]\n')
        words = ("--sample", 1, "--task", TASKS / "tiny.py", "--policy", policy, "--json")
        done = cli("verify", tiny, *words)
        (finding,) = [item for item in done.json["findings"] if item["name"] == "data.known"]
        return done.code, finding

    code, finding = verify("00" * 32)
    assert (code, finding["outcome"]) == (3, "unverifiable")
    found = re.search(r"[0-9a-f]{64}", finding["detail"])
    assert found is not None
    code, finding = verify(found[0])
    assert (code, finding["outcome"]) == (0, "pass")
