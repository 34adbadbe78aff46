"""A small part of the campaign: ``make campaign`` runs all of it for as long as one likes."""

import os
from pathlib import Path

import pytest

from tests.campaign import damaged, files, kills, trial
from tests.campaign.__main__ import one
from tests.campaign.trial import GOOD, RIGHT, FailedError, Result, check_results, refusal


@pytest.fixture
def place(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The projects that trials copy: the one that other tests have made."""
    monkeypatch.setattr(trial, "place", tmp_path)
    for module in (damaged, files, kills):
        monkeypatch.setattr(module, "adapted", lambda: adapted)
    return tmp_path


@pytest.mark.parametrize(("kind", "seed"), [("bytes", 3), ("files", 2), ("files", 5), ("kills", 0)])
def test_a_trial_ends_well(place: Path, kind: str, seed: int) -> None:
    result = one(kind, seed)
    assert result.outcome in GOOD, result.note
    assert not (place / f"{kind}-{seed}").exists()


def test_what_is_wrong_is_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that meets another file, two lines or a traceback is not among the good ones."""
    (place / "model").write_bytes(b"other bits")
    with pytest.raises(FailedError, match="wrong"):
        check_results(place, {"model": b"right bits"})
    with pytest.raises(FailedError, match="2 lines"):
        refusal(trial.Done(2, "error: a\nerror: b\n"))
    done = trial.run(place, "-c", "import sys; sys.exit('error: a: damaged')", environment=dict(os.environ))
    assert refusal(done, "a") == "error: a: damaged"
    with pytest.raises(FailedError, match="traceback"):
        trial.run(place, "-c", "1 / 0")
    assert Result(RIGHT).outcome in GOOD
