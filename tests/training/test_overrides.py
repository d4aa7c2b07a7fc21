"""--set and --input: typed by the defaults, helpful about names."""

from pathlib import Path

import pytest

from polledger.errors import UsageError
from polledger.training.overrides import apply_settings, parse_inputs, recipe_settings, step_count

CONFIG = {
    "steps": 5,
    "lr": 0.1,
    "name": "x",
    "flag": False,
    "betas": [0.9, 0.99],
    "pair": (1, 2),
    "table": {"a": 1},
}


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("lr=0.5", "lr", 0.5),
        ("lr=1", "lr", 1.0),
        ("lr = 1e-3", "lr", 0.001),
        ("lr=inf", "lr", float("inf")),
        ("steps=7", "steps", 7),
        ("flag=true", "flag", True),
        ("name=cosine", "name", "cosine"),
        ('name="cosine"', "name", "cosine"),
        ("name=3", "name", "3"),
        ("name=", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("betas=[0.8, 0.9]", "betas", [0.8, 0.9]),
        ("pair=[3, 4]", "pair", [3, 4]),
        ("table={a = 2}", "table", {"a": 2}),
    ],
)
def test_value_has_the_type_of_its_default(setting: str, name: str, value: object) -> None:
    changed = apply_settings(CONFIG, [setting])
    assert changed[name] == value
    assert type(changed[name]) is type(value)
    assert {**changed, name: CONFIG[name]} == CONFIG


@pytest.mark.parametrize(
    "setting",
    [
        "steps=1.5",
        "steps=true",
        "steps=x",
        "lr=true",
        "lr=x",
        "lr=",
        "flag=1",
        "betas=3",
        "table=[1]",
        f"lr={10**400}",
    ],
)
def test_value_of_another_type_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="expected a value of type"):
        apply_settings(CONFIG, [setting])


@pytest.mark.parametrize("setting", ["lr", "=3", ""])
def test_setting_without_name_or_value_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        apply_settings(CONFIG, [setting])


def test_unknown_name_lists_the_near_ones_or_all() -> None:
    with pytest.raises(UsageError, match="did you mean steps"):
        apply_settings(CONFIG, ["step=3"])
    with pytest.raises(UsageError, match="it has betas, flag, lr"):
        apply_settings(CONFIG, ["zzz=3"])


def test_value_cannot_smuggle_in_a_second_key() -> None:
    with pytest.raises(UsageError):
        apply_settings(CONFIG, ["lr=1\nsteps = 9"])


def test_last_setting_of_a_name_wins() -> None:
    assert apply_settings(CONFIG, ["lr=1", "lr=2"])["lr"] == 2.0


def test_recipe_keys_that_the_task_leaves_out_may_be_set() -> None:
    config = {"steps": 5, "optimizer": "SGD", "lr": 0.1}
    settings = ["optimizer=AdamW", "weight_decay=0.2", "schedule=exponential", "gamma=0.5", "clip=1"]
    known = recipe_settings(config, settings)
    changed = apply_settings(config, settings, known=known)
    assert (changed["weight_decay"], changed["gamma"], changed["clip"]) == (0.2, 0.5, 1.0)
    with pytest.raises(UsageError, match="no 'weight_decay'"):
        apply_settings(config, ["weight_decay=0.2"])


def test_inputs_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_inputs(["a=data", f"b={tmp_path}"]) == {"a": str(tmp_path / "data"), "b": str(tmp_path)}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["a"], "NAME=PATH"),
        (["=x"], "NAME=PATH"),
        (["a="], "NAME=PATH"),
        (["a=/", "a=/"], "twice"),
        (["a=/nope"], "no such"),
    ],
)
def test_bad_input_gets_one_line(pairs: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_inputs(pairs)


@pytest.mark.parametrize("config", [{}, {"steps": 0}, {"steps": 1.0}, {"steps": True}, {"steps": "3"}])
def test_steps_have_to_be_a_positive_integer(config: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="'steps'"):
        step_count(config)
