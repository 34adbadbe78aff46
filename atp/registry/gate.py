"""The gate: decides whether a candidate becomes champion, and moves the champion's alias, as users can by hand.

A version is judged once, when it is new, and again only if the rule changes. A former champion is never promoted
automatically: a user who rolled it back had a reason that the metrics do not show.
"""

import getpass
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from atp.errors import InputError
from atp.registry.comparison import Again
from atp.registry.origin import EVALUATION_TAG, STAGE_TAG, miou_tag
from atp.registry.settings import RegisterSettings
from atp.runner.tracking import quotable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

VERDICT_TAG = "atp.gate"
RULE_TAG = "atp.gate_rule"
PROMOTED_TAG = "atp.promoted_at"

JUDGEMENT = ("atp.gate", "atp.promoted")
"""Prefix of the tags that are set after a version is created."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        run_id: id of the run that it belongs to.
        tags: all its tags.
    """

    name: str
    number: str
    run_id: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on a candidate, with the reason in one sentence."""

    promote: bool
    why: str


def rule(section: RegisterSettings) -> str:
    """The settings that a verdict depends on."""
    return f"{section.champion}, at least {section.gain:g} points"


def judged(tags: Mapping[str, str], section: RegisterSettings) -> bool:
    """Whether the gate has already decided on this version."""
    return section.promote == "never" or PROMOTED_TAG in tags or tags.get(RULE_TAG) == rule(section)


def judge(own: float | None, source: float | None, champion: str | None, rival: Again | None, gain: float) -> Verdict:
    """Compare a candidate with the champion, or with its own source model if there is none.

    Args:
        own, source: mIoU in percent of the candidate and of its source model; None without labels.
        champion: version number of the champion.
        rival: the champion in the same evaluation.
        gain: required improvement in percentage points of mIoU.
    """
    if own is None:
        return Verdict(False, "the test images have no labels, so the models cannot be compared")
    if champion is None:
        if source is None or own < source:
            than = "an unknown one" if source is None else f"{source:.2f} %"
            return Verdict(False, f"{own:.2f} % mIoU, but its own source model has {than}")
        return Verdict(True, f"{own:.2f} % mIoU, its source model {source:.2f} %; there was no champion")
    if rival is None or rival.miou is None:
        reason = rival.why if rival else "it was not evaluated"
        return Verdict(False, f"the champion, version {champion}, cannot be compared ({reason})")
    figures = f"{own:.2f} % mIoU against {rival.miou:.2f} % of version {champion}"
    if own > rival.miou and round(own - rival.miou, 2) >= gain:
        return Verdict(True, figures)
    return Verdict(False, figures + (f"; a gain of {gain:g} points is required" if gain else ""))


def pass_gate(
    client: "MlflowClient", version: Version, section: RegisterSettings, evaluate: Callable[[Path], Again]
) -> str | None:
    """Judge a version that has not been judged yet, and promote it if it is better; returns the decision.

    Args:
        evaluate: evaluates a checkpoint in the same way as the version was evaluated.
    """
    if judged(version.tags, section):
        return None
    own, source = _own(version.tags), _figure(version.tags, miou_tag("source"))
    while True:
        champion = holder(client, version.name, section.champion)
        if champion is not None and str(champion.version) == version.number:
            # The alias was set by hand in MLflow.
            _record(client, version, section, f"{section.champion} already")
            return None
        number = str(champion.version) if champion else None
        rival = _in_the_same_evaluation(champion, version, evaluate) if champion and own is not None else None
        verdict = judge(own, source, number, rival, section.gain)
        # Another version may have become champion during the evaluation.
        latest = holder(client, version.name, section.champion)
        if not verdict.promote or (str(latest.version) if latest else None) == number:
            break
    if verdict.promote:
        promote(client, version.name, version.number, section.champion, "gate", verdict.why)
    said = f"{'promoted' if verdict.promote else 'not promoted'}: {verdict.why}"
    _record(client, version, section, said)
    return said if verdict.promote else f"{said}; by hand: atp promote {version.number}"


def _record(client: "MlflowClient", version: Version, section: RegisterSettings, said: str) -> None:
    client.set_model_version_tag(version.name, version.number, VERDICT_TAG, said)
    client.set_model_version_tag(version.name, version.number, RULE_TAG, rule(section))


def _in_the_same_evaluation(champion: "ModelVersion", version: Version, evaluate: Callable[[Path], Again]) -> Again:
    """The champion's mIoU: from its tags if measured in the same way, else measured now."""
    from atp.registry.package import download_model, find_checkpoint

    recorded = _own(champion.tags)
    if recorded is not None and champion.tags.get(EVALUATION_TAG) == version.tags.get(EVALUATION_TAG) is not None:
        return Again(recorded)
    address = f"models:/{champion.name}/{champion.version}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            checkpoint = find_checkpoint(download_model(address, Path(folder)), address)
        except InputError as error:
            return Again(None, str(error))
        return evaluate(checkpoint)


def _own(tags: Mapping[str, str]) -> float | None:
    """mIoU of the registered model, in percent; None without labels."""
    return _figure(tags, miou_tag(tags.get(STAGE_TAG, "propagate")))


def _figure(tags: Mapping[str, str], name: str) -> float | None:
    try:
        return float(tags[name])
    except (KeyError, ValueError):
        return None


def holder(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """The version that carries an alias."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def promote(client: "MlflowClient", name: str, number: str, alias: str, by: str, why: str) -> str | None:
    """Move the alias to a version and record when, by whom and why in its tags; returns the previous version number.

    Args:
        by: ``gate`` or ``hand``.
    """
    before = holder(client, name, alias)
    tags = {
        "atp.promoted_by": by,
        "atp.promoted_user": _user(),
        "atp.promoted_over": str(before.version) if before else "none",
        "atp.promoted_why": why,
    }
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    client.set_registered_model_alias(name, alias, number)
    # Set last: the gate treats a version with this tag as a former champion.
    client.set_model_version_tag(name, number, PROMOTED_TAG, datetime.now(UTC).isoformat(timespec="seconds"))
    return str(before.version) if before else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user may have no name.
        return "unknown"


def promote_by_hand(client: "MlflowClient", name: str, number: str, alias: str, candidate: str, why: str = "") -> str:
    """Move the alias to a version, newer or older; returns one line with the previous and the new version.

    Args:
        number: version number; if empty, the version with the alias ``candidate``.

    Raises:
        InputError: no such version.
    """
    from mlflow.exceptions import MlflowException

    if number:
        try:
            version = client.get_model_version(name, number)
        except MlflowException as error:
            query = f"name = '{quotable(name)}'"
            numbers = sorted(int(found.version) for found in client.search_model_versions(query))
            known = f"it has {', '.join(map(str, numbers))}" if numbers else "there is no such model"
            raise InputError(f"{name} has no version {number}; {known}") from error
    else:
        found = holder(client, name, candidate)
        if found is None:
            raise InputError(f"{name} has no version with the alias {candidate}; pass a version number")
        version = found
    before = holder(client, name, alias)
    if before is not None and before.version == version.version:
        return f"{alias}: already {_named(version)}; nothing changed"
    compared = _compared(before, version)
    promote(client, name, str(version.version), alias, "hand", f"{why}; {compared}" if why else compared)
    return f"{alias}: {_named(before) if before else 'none'} -> {_named(version)}"


def _named(version: "ModelVersion") -> str:
    miou = _own(version.tags)
    return f"{version.name} version {version.version}" + ("" if miou is None else f" ({miou:.2f} % mIoU)")


def _compared(before: "ModelVersion | None", version: "ModelVersion") -> str:
    if before is None:
        return f"{_named(version)}; there was no champion"
    same = before.tags.get(EVALUATION_TAG) == version.tags.get(EVALUATION_TAG) is not None
    return f"{_named(version)} for {_named(before)}, {'in the same evaluation' if same else 'not comparable'}"
