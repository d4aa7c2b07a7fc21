"""The chars example cuts any file into windows, predicts causally and learns; what is wrong with its input is said."""

from pathlib import Path
from typing import Any

import pytest
import torch

from polledger.errors import UsageError
from polledger.examples.chars import Chars, Transformer, Windows
from polledger.training.task import prepare_task
from tests.examples.loop import TEXT, start, train


def prepared(**config: Any) -> Chars:
    return prepare_task(Chars, config=config)


def small_model() -> Transformer:
    return Transformer(context=16, width=32, layers=2, heads=2, dropout=0.0).eval()


def test_windows_overlap_by_the_predicted_byte_only() -> None:
    windows = Windows(bytes(range(10)), 3)
    assert [window.tolist() for window in windows] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_missing_text_names_the_option() -> None:
    with pytest.raises(UsageError, match="--input text=PATH"):
        prepared().dataset()


def test_short_text_says_how_long_it_must_be(tmp_path: Path) -> None:
    task = prepared(context=64)
    path = tmp_path / "short.txt"
    task.inputs = {"text": str(path)}
    path.write_bytes(b"x" * 64)
    with pytest.raises(UsageError, match="64 bytes, one window takes 65"):
        task.dataset()
    path.write_bytes(b"x" * 65)
    assert len(task.dataset()) == 1


def test_unreadable_text_is_a_usage_error(tmp_path: Path) -> None:
    task = prepared()
    task.inputs = {"text": str(tmp_path)}
    with pytest.raises(UsageError, match="cannot be read"):
        task.dataset()


def test_heads_must_divide_width() -> None:
    with pytest.raises(UsageError, match="not a multiple of heads"):
        prepared(width=30, heads=4).model()


def test_no_logit_depends_on_a_later_byte() -> None:
    model = small_model()
    tokens = torch.arange(16).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 9] = 200
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :9], after[0, :9])
    assert not torch.equal(before[0, 9:], after[0, 9:])


def test_input_and_output_share_one_weight() -> None:
    model = small_model()
    assert model.head.weight is model.embed.weight
    assert "mask" not in model.state_dict()


@pytest.mark.slow
def test_default_config_learns_a_text() -> None:
    trained = train(start(Chars, {"steps": 150}, {"text": str(TEXT)}), 0, 150)
    bits = [metrics["bits_per_byte"] for metrics in trained.metrics]
    # 8 bits are a guess; single-letter frequencies of English give more than 4.
    assert bits[0] > 6
    assert sum(bits[-20:]) / 20 < 3.2
