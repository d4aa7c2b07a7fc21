"""The rehearsal: what it tells, and what it refuses before anything is committed."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polledger.errors import UsageError
from polledger.training.location import resolve_task
from polledger.training.rehearsal import RunRequest, parse_request, rehearse, run_rehearsal
from tests.training.sealing import SMALL

pytestmark = pytest.mark.usefixtures("switches")

SEED = 0xFEDCBA9876543210


def request_for(path: Path, **changes: Any) -> RunRequest:
    location = resolve_task(str(path))
    asked = RunRequest(location=location, settings=(), inputs={}, seed=SEED, device="cpu")
    return replace(asked, **changes)


@pytest.fixture
def changed(tmp_path: Path) -> Any:
    """The small task with some of its text replaced."""

    def write(*changes: tuple[str, str]) -> Path:
        text = SMALL.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "task.py").write_text(text)
        return tmp_path / "task.py"

    return write


def test_request_survives_the_way_to_a_child() -> None:
    request = request_for(SMALL, settings=("lr=0.5",), inputs={"data": "/x"}, config={"steps": 3, "lr": 0.1})
    request = replace(request, workers=2)
    assert parse_request(request.to_json()) == request


def test_child_tells_code_packages_data_and_config(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    (tmp_path / "task.py").write_text("import sklearn.utils\nimport beside\n" + SMALL.read_text())
    found = run_rehearsal(request_for(tmp_path / "task.py", settings=("width=5",)))
    assert (found.class_name, found.kind, found.examples) == ("Small", "recipe", 96)
    assert found.config["width"] == 5
    assert found.modules == {"beside.py": str(tmp_path / "beside.py"), "task.py": str(tmp_path / "task.py")}
    named = {item.name: item for item in found.distributions}
    assert {"polledger", "torch", "numpy", "scikit-learn"} <= set(named)
    assert len(named["torch"].record) == 32


def test_what_a_task_prints_does_not_disturb_the_messages(changed: Any) -> None:
    path = changed(("PAUSE = ", "print('{\"result\": 1}', flush=True)\nPAUSE = "))
    assert run_rehearsal(request_for(path)).class_name == "Small"


def test_child_that_dies_is_reported(changed: Any) -> None:
    path = changed(("time.sleep(PAUSE)\n", "os._exit(9)\n"))
    with pytest.raises(Exception, match="ended with status 9"):
        run_rehearsal(request_for(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return values, index % 3", "return torch.randn(8), index % 3"), "move augmentation to collate"),
        (("return Examples()", "return [(torch.ones(8) * i, 0) for i in torch.randperm(9)]"), "fixed seed"),
        (("return 96", "return 10 + int(torch.randint(0, 1000, ()))"), "it must not change"),
        (("return 96", "return 0"), "dataset.. is empty"),
        (("def __len__", "def length"), "has no len"),
        (("return values, index % 3", "return values, {index % 3}"), "set"),
        (
            ("return F.cross_entropy(model(noisy), labels)", "return 1 / 0"),
            "ZeroDivisionError.*task.py, line",
        ),
        (("return nn.Sequential(", "return None and nn.Sequential("), "model"),
        (
            ("return nn.Sequential(", "import sys; sys.exit('no GPU here')  # "),
            "the rehearsal failed: SystemExit: no GPU here .task.py, line",
        ),
        (("return Examples()", "raise SystemExit(3)"), "SystemExit: 3 .task.py, line"),
        (('"lr": 0.01,', '"lr": None,'), "'lr'"),
        (('"steps": 24,', ""), "needs 'steps'"),
        (('"steps": 24,', '"steps": 0,'), "needs 'steps'"),
        (('"optimizer": "AdamW"', '"optimizer": "AdmaW"'), "AdamW"),
        (("range(3)}", "'what'}"), "domain of '1'"),
    ],
)
def test_task_that_would_not_train_or_replay_is_refused_in_one_line(
    changed: Any, change: tuple[str, str], message: str
) -> None:
    request = request_for(changed(change))
    with pytest.raises(UsageError, match=message) as caught:
        rehearse(request.to_json())
    assert "\n" not in str(caught.value)


def test_missing_input_is_hinted_at(changed: Any) -> None:
    path = changed(
        ("domains =", "inputs = {'data': None}\n    domains ="),
        ("return Examples()", "return open(self.inputs['data'])"),
    )
    with pytest.raises(UsageError, match=r"--input data=PATH was not given"):
        rehearse(request_for(path).to_json())


def test_batch_that_workers_cannot_hand_over_is_refused_before_anything_is_committed(changed: Any) -> None:
    named = "import collections\nPair = collections.namedtuple('Pair', 'x y')\n\n\nclass Small(Task):"
    collate = (
        "    def collate(self, examples):\n        return Pair(*super().collate(examples))\n\n    def loss("
    )
    path = changed(("class Small(Task):", named), ("    def loss(", collate))
    assert rehearse(request_for(path).to_json())["examples"] == 96
    with pytest.raises(UsageError, match="with --workers, batches are plain tensors.*Pair"):
        rehearse(request_for(path, workers=1).to_json())


@pytest.mark.parametrize("device", ["cuda:9", "nonsense", "meta-physics:1"])
def test_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{device}' here"):
        rehearse(request_for(SMALL, device=device).to_json())


def test_nothing_of_a_rehearsal_stays_on_the_path(switches: None) -> None:
    before = list(sys.path)
    run_rehearsal(request_for(SMALL))
    assert sys.path == before
