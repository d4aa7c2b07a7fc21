"""How many checkpoints fit: ``--keep auto``."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from polledger.errors import Unavailable, UsageError
from polledger.training.keeping import Auto, in_words, parse_keep, resolve, stored_count
from polledger.training.recording import Cadence


def cadences(count: int) -> list[Cadence]:
    generator = random.Random(7)
    return [
        Cadence(
            steps=generator.randint(1, 400),
            every=generator.randint(1, 60),
            warm=generator.choice([0, 1, 5, 10, 500]),
            keep=generator.randint(1, 30),
        )
        for _ in range(count)
    ]


def test_count_is_that_of_the_steps_whose_state_is_stored() -> None:
    for cadence in cadences(500):
        stored = [
            step
            for step in range(cadence.steps + 1)
            if cadence.is_checkpoint(step) and cadence.is_stored(step)
        ]
        assert stored_count(cadence) == len(stored), cadence


def test_the_smallest_keep_that_fits_is_chosen(tmp_path: Path) -> None:
    for cadence in cadences(200):
        least = stored_count(replace(cadence, keep=10**6))
        for count in (least, least + 1, least + 5, 10**6):
            found = resolve(cadence, Auto(budget=count * 50 + 49), state_bytes=50, directory=tmp_path)
            assert stored_count(found) <= count
            assert found.keep == 1 or stored_count(replace(found, keep=found.keep - 1)) > count


def test_a_budget_that_holds_not_even_what_is_always_stored_is_refused(tmp_path: Path) -> None:
    cadence = Cadence(steps=1000, every=10, warm=10)
    with pytest.raises(Unavailable, match=r"12 states of 1 GB are stored at least, .* has 11 GB"):
        resolve(cadence, Auto(budget=11 * 10**9), state_bytes=10**9, directory=tmp_path)
    assert resolve(cadence, Auto(budget=12 * 10**9), state_bytes=10**9, directory=tmp_path).keep >= 51


def test_without_a_size_a_tenth_of_what_is_free_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    cadence = Cadence(steps=100, every=10, warm=0)
    assert stored_count(resolve(cadence, Auto(), state_bytes=100, directory=tmp_path)) <= 10
    assert resolve(cadence, Auto(), state_bytes=90, directory=tmp_path).keep == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7", 7),
        ("auto", Auto()),
        ("auto:50GB", Auto(budget=50 * 10**9)),
        ("auto:1.5 tb", Auto(budget=1_500 * 10**9)),
        ("AUTO:200MB", Auto(budget=200 * 10**6)),
        ("auto:7b", Auto(budget=7)),
    ],
)
def test_what_is_taken(text: str, found: int | Auto) -> None:
    assert parse_keep(text) == found


@pytest.mark.parametrize(
    "text", ["", "2.5", "-1", "auto:", "auto:GB", "auto:50", "auto:5GiB", "all", "auto 5GB"]
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(UsageError, match="--keep takes"):
        parse_keep(text)


def test_sizes_in_words() -> None:
    assert [in_words(size) for size in (0, 999, 1500, 12_345_678, 5e9, 2.5e12, 3e15)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "12.3 MB",
        "5 GB",
        "2.5 TB",
        "3e+03 TB",
    ]
