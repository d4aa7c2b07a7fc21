"""The session in the documents is the one that the script acts out."""

import pytest

from scripts import two_parties


def test_the_document_holds_the_session() -> None:
    text = two_parties.DOCUMENT.read_text("utf-8")
    assert two_parties.is_current(text)
    for act in two_parties.SESSION:
        assert act.said in text
    assert f"{two_parties.BEGIN}\n" in text
    assert f"{two_parties.END}\n" in text


def test_it_names_no_place_of_the_machine_that_wrote_it() -> None:
    text = two_parties.DOCUMENT.read_text("utf-8")
    assert "/tmp" not in text
    assert "/dev/shm" not in text


def test_drift_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = two_parties.DOCUMENT.read_text("utf-8")
    assert not two_parties.is_current(text.replace("--sample 3", "--sample 4", 1))
    act = two_parties.Act(who="prover", command="polledger doctor")
    monkeypatch.setattr(two_parties, "SESSION", (*two_parties.SESSION, act))
    assert not two_parties.is_current(text)
