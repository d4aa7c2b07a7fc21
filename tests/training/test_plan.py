"""A plan leaves nothing running behind it."""

from typing import Any

import pytest

from polledger.errors import Unavailable
from polledger.training.plan import Plan


class Closing:
    """Something to close, that may fail at it."""

    def __init__(self, name: str, closed: list[str], *, fails: bool) -> None:
        self.name, self.closed, self.fails = name, closed, fails

    def close(self) -> None:
        self.closed.append(self.name)
        if self.fails:
            raise Unavailable(f"{self.name}: disk full")


@pytest.mark.parametrize("failing", [(), ("recorder",), ("batches",), ("recorder", "batches", "first")])
def test_everything_is_closed_whatever_fails(failing: tuple[str, ...]) -> None:
    closed: list[str] = []
    parts: Any = {
        name: Closing(name, closed, fails=name in failing) for name in ("recorder", "batches", "first")
    }
    nothing: Any = None
    plan = Plan(genesis=nothing, runner=nothing, start=0, inputs={}, **parts)
    if failing:
        with pytest.raises(Unavailable, match="disk full"):
            plan.close()
    else:
        plan.close()
    assert closed == ["recorder", "batches", "first"]
