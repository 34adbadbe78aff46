"""The gate's decisions, and the champion's alias by hand."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from typer.testing import CliRunner

from atp.cli import app
from atp.errors import InputError
from atp.registry import gate
from atp.registry.comparison import Again
from atp.registry.gate import Version, judge, judged, pass_gate, promote_by_hand
from atp.registry.settings import RegisterSettings

AUTO = RegisterSettings()


@pytest.mark.parametrize(
    ("own", "source", "champion", "rival", "gain", "promote", "why"),
    [
        (None, None, None, None, 0, False, "no labels"),
        (None, None, "1", None, 0, False, "no labels"),
        (50.0, 40.0, None, None, 0, True, "50.00 % mIoU, its source model 40.00 %; there was no champion"),
        (40.0, 40.0, None, None, 0, True, "there was no champion"),
        (39.9, 40.0, None, None, 0, False, "39.90 % mIoU, but its own source model has 40.00 %"),
        (50.0, None, None, None, 0, False, "its own source model has an unknown one"),
        (50.0, 40.0, "1", Again(49.99), 0, True, "50.00 % mIoU against 49.99 % of version 1"),
        (50.0, 40.0, "1", Again(50.0), 0, False, "50.00 % mIoU against 50.00 % of version 1"),
        (50.0, 60.0, "1", Again(49.0), 0, True, "against 49.00 %"),
        (50.3, 40.0, "1", Again(50.0), 0.3, True, "against 50.00 %"),
        (50.29, 40.0, "1", Again(50.0), 0.3, False, "a gain of 0.3 points is required"),
        (50.0, 40.0, "1", Again(None, "its classes differ: a, b"), 0, False, "its classes differ: a, b"),
    ],
)
def test_what_the_gate_decides(
    own: float | None,
    source: float | None,
    champion: str | None,
    rival: Again | None,
    gain: float,
    promote: bool,
    why: str,
) -> None:
    verdict = judge(own, source, champion, rival, gain)
    assert verdict.promote == promote
    assert why in verdict.why


def test_what_is_left_to_the_gate() -> None:
    assert not judged({}, AUTO)
    assert judged({}, RegisterSettings(promote="never"))
    assert judged({"atp.promoted_at": "2026-01-01"}, AUTO), "it was champion before"
    assert judged({"atp.gate_rule": gate.rule(AUTO)}, AUTO)
    assert not judged({"atp.gate_rule": gate.rule(AUTO)}, RegisterSettings(gain=1.0))


class Registry:
    """A registered model without any files: as much of it as the gate sees."""

    def __init__(self, client: MlflowClient, folder: Path) -> None:
        self.client = client
        folder.mkdir()
        self.source = folder.as_uri()
        client.create_registered_model("empty")

    def add(self, miou: float | None, evaluation: str | None = "e", source: float = 40.0, **more: str) -> Version:
        tags = {"atp.evaluation": evaluation, "atp.miou_propagate": miou, "atp.miou_source": source, **more}
        known = {key: str(value) for key, value in tags.items() if value is not None}
        made = self.client.create_model_version("empty", self.source, tags=known)
        return Version("empty", str(made.version), "", known)

    def champion(self) -> str | None:
        found = gate.holder(self.client, "empty", "champion")
        return str(found.version) if found else None

    def tags(self, number: str) -> dict[str, str]:
        found: ModelVersion = self.client.get_model_version("empty", number)
        return dict(found.tags)


@pytest.fixture
def registry(client: MlflowClient, tmp_path: Path) -> Registry:
    return Registry(client, tmp_path / "model")


def no_evaluation(checkpoint: Path) -> Again:
    raise AssertionError("evaluated anew")


def test_of_several_the_best_is_champion(registry: Registry) -> None:
    champions = []
    for miou in (45.0, 44.0, 47.5, 46.0):
        pass_gate(registry.client, registry.add(miou), AUTO, no_evaluation)
        champions.append(registry.champion())
    assert champions == ["1", "1", "3", "3"]
    tags = registry.tags("3")
    assert (tags["atp.promoted_by"], tags["atp.promoted_over"]) == ("gate", "1")
    assert tags["atp.promoted_why"] == "47.50 % mIoU against 45.00 % of version 1"
    assert tags["atp.promoted_at"].endswith("+00:00")
    assert tags["atp.gate"] == "promoted: 47.50 % mIoU against 45.00 % of version 1"
    assert registry.tags("4")["atp.gate"] == "not promoted: 46.00 % mIoU against 47.50 % of version 3"


def test_the_figure_is_of_the_stage_that_is_registered(registry: Registry) -> None:
    """Versions of before say none: they are propagate's."""
    pass_gate(registry.client, registry.add(45.0), AUTO, no_evaluation)
    teach = registry.add(30.0, **{"atp.stage": "teach", "atp.miou_teach": "47.0"})
    said = pass_gate(registry.client, teach, AUTO, no_evaluation)
    assert said == "promoted: 47.00 % mIoU against 45.00 % of version 1"


@pytest.mark.parametrize(("anew", "expected"), [(48.0, "1"), (44.0, "2")])
def test_figures_of_other_evaluations_are_not_compared(
    registry: Registry, tmp_path: Path, anew: float, expected: str
) -> None:
    """The champion has 50 % of other images; of these it has ``anew``."""
    seen = []

    def evaluate(checkpoint: Path) -> Again:
        seen.append(checkpoint.read_bytes())
        return Again(anew)

    pass_gate(registry.client, registry.add(50.0, "other"), AUTO, no_evaluation)
    (tmp_path / "model/model.safetensors").write_bytes(b"the champion's")
    said = pass_gate(registry.client, registry.add(45.0), AUTO, evaluate)
    assert registry.champion() == expected
    assert seen == [b"the champion's"]
    assert said is not None
    assert f"45.00 % mIoU against {anew:.2f} % of version 1" in said


def test_a_champion_of_somebody_else_stays(registry: Registry) -> None:
    registry.client.create_model_version("empty", registry.source)
    registry.client.set_registered_model_alias("empty", "champion", "1")
    said = pass_gate(registry.client, registry.add(99.0), AUTO, no_evaluation)
    assert registry.champion() == "1"
    assert said is not None
    assert "it was not made by ATP" in said
    assert said.endswith("by hand: atp promote 2")


def test_without_labels_nobody_is_promoted(registry: Registry) -> None:
    said = pass_gate(registry.client, registry.add(None, None), AUTO, no_evaluation)
    assert said is not None
    assert said.startswith("not promoted: the test images have no labels")
    assert registry.champion() is None


def test_a_version_is_judged_once(registry: Registry) -> None:
    version = registry.add(45.0)
    assert pass_gate(registry.client, version, AUTO, no_evaluation) is not None
    registry.client.delete_registered_model_alias("empty", "champion")
    again = Version("empty", "1", "", registry.tags("1"))
    assert pass_gate(registry.client, again, RegisterSettings(gain=0.5), no_evaluation) is None
    assert registry.champion() is None


def test_a_champion_made_while_the_other_was_evaluated(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = registry.add(40.0, "other"), registry.add(50.0), registry.add(45.0)
    pass_gate(registry.client, first, AUTO, no_evaluation)

    def evaluate(checkpoint: Path) -> Again:
        registry.client.set_registered_model_alias("empty", "champion", second.number)
        return Again(41.0)

    monkeypatch.setattr("atp.registry.package.find_checkpoint", lambda model, address: model)
    pass_gate(registry.client, third, AUTO, evaluate)
    assert registry.champion() == second.number
    assert registry.tags(third.number)["atp.gate"].endswith("against 50.00 % of version 2")


def test_by_hand_forwards_and_back(registry: Registry) -> None:
    registry.add(45.0)
    registry.add(44.0, "other")
    hand = [promote_by_hand(registry.client, "empty", number, "champion", "candidate") for number in ("1", "2", "1")]
    assert hand == [
        "champion: none -> empty version 1 (45.00 % mIoU)",
        "champion: empty version 1 (45.00 % mIoU) -> empty version 2 (44.00 % mIoU)",
        "champion: empty version 2 (44.00 % mIoU) -> empty version 1 (45.00 % mIoU)",
    ]
    assert registry.champion() == "1"
    tags = registry.tags("1")
    assert (tags["atp.promoted_by"], tags["atp.promoted_over"]) == ("hand", "2")
    assert tags["atp.promoted_why"].endswith("not comparable")
    same = promote_by_hand(registry.client, "empty", "1", "champion", "candidate")
    assert same == "champion: already empty version 1 (45.00 % mIoU); nothing changed"


def test_the_candidate_is_the_default(registry: Registry) -> None:
    with pytest.raises(InputError, match="no version with the alias candidate"):
        promote_by_hand(registry.client, "empty", "", "champion", "candidate")
    registry.add(45.0)
    registry.client.set_registered_model_alias("empty", "candidate", "1")
    promote_by_hand(registry.client, "empty", "", "champion", "candidate", "asked for")
    assert registry.champion() == "1"
    assert registry.tags("1")["atp.promoted_why"].startswith("asked for; ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["99"], "atp has no version 99; it has 1, 2"),
        (["x"], "atp has no version x; it has 1, 2"),
        (["1", "--name", "other"], "other has no version 1; there is no such model"),
        (["1", "--name", "it's"], "cannot be looked up"),
        (["1", "--alias", "latest"], "--alias latest: must be a word"),
    ],
)
def test_the_command_refuses_in_one_line(copy: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["promote", *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_the_command_says_what_it_did(copy: Path, client: MlflowClient) -> None:
    before = str(client.get_model_version_by_alias("atp", "champion").version)
    other = "1" if before == "2" else "2"
    result = CliRunner().invoke(app, ["promote", other, "--why", "fails at night"])
    assert result.exit_code == 0, result.output
    (line,) = result.output.splitlines()
    assert line == f"champion: atp version {before} (51.50 % mIoU) -> atp version {other} (50.25 % mIoU)"
    version = client.get_model_version_by_alias("atp", "champion")
    assert str(version.version) == other
    assert version.tags["atp.promoted_why"] == (
        f"fails at night; atp version {other} (50.25 % mIoU) for atp version {before} (51.50 % mIoU), "
        "in the same evaluation"
    )
