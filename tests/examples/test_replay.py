"""Every example continues bit for bit from a stored state in a fresh build: the property that replay rests on."""

from typing import Any

import pytest

from polledger import Task
from polledger.examples.chars import Chars
from polledger.examples.digits import Digits
from polledger.examples.gan import Gan
from polledger.examples.mlp import Mlp
from polledger.examples.resnet import ResNet
from polledger.training.task import kind_of
from tests.examples.loop import TEXT, resume, start, train

SMALL_CHARS = {"steps": 12, "batch_size": 8, "width": 32, "layers": 1, "heads": 2, "context": 16, "warmup": 4}
CASES = [
    pytest.param(Digits, {"steps": 12, "width": 8}, {}, id="digits"),
    pytest.param(Chars, SMALL_CHARS, {"text": str(TEXT)}, id="chars"),
    pytest.param(Gan, {"steps": 12}, {}, id="gan"),
    pytest.param(Mlp, {"steps": 12}, {}, id="mlp"),
    pytest.param(ResNet, {"steps": 12, "width": 4, "blocks": 1}, {}, id="resnet"),
]


@pytest.mark.parametrize(("cls", "config", "inputs"), CASES)
def test_fresh_build_continues_bit_for_bit(
    cls: type[Task], config: dict[str, Any], inputs: dict[str, str]
) -> None:
    trained = train(start(cls, config, inputs), 0, 12, keep=(5, 12))
    fresh = start(cls, config, inputs)
    resume(fresh, trained, 5)
    assert train(fresh, 5, 12, keep=(12,)).roots[12] == trained.roots[12]


@pytest.mark.parametrize(("cls", "config", "inputs"), CASES)
def test_same_seed_builds_the_same_state_and_moves_it(
    cls: type[Task], config: dict[str, Any], inputs: dict[str, str]
) -> None:
    first = train(start(cls, config, inputs), 0, 2, keep=(1, 2))
    second = train(start(cls, config, inputs), 0, 2, keep=(1, 2))
    assert first.roots == second.roots
    assert first.roots[1] != first.roots[2]


@pytest.mark.parametrize(("cls", "config", "inputs"), CASES)
def test_examples_have_the_same_bytes_each_time(
    cls: type[Task], config: dict[str, Any], inputs: dict[str, str]
) -> None:
    from polledger.training.nest import encode_nest

    def read() -> list[bytes]:
        data = start(cls, config, inputs).task.dataset()
        return [b"".join(map(bytes, encode_nest(data[i]))) for i in range(20)]

    assert read() == read()


def test_kinds_are_what_the_documents_say() -> None:
    assert {kind_of(cls) for cls in (Digits, Chars, Mlp, ResNet)} == {"recipe"}
    assert kind_of(Gan) == "custom"
