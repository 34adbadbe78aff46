"""Which model of a run to use, and why, in words.

Labels decide if there are any: those of the validation images, else those of the test images. Without labels the
evidence decides: a stage that is judged improved, else the first one that is not judged collapsed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atp.errors import InputError
from atp.evaluation.evidence.record import Evidence, read_all
from atp.evaluation.evidence.verdict import worse
from atp.runs import BATCHNORM_ONLY, METRICS, MODEL, models, within


@dataclass(frozen=True)
class Recommendation:
    """The model to use.

    Attributes:
        model: its name, as in the metrics: ``source``, ``align``, ``teach``, ``propagate``.
        folder: the folder of its file.
        by: what decided: labels of the ``validation`` or ``test`` images, or the ``evidence`` without labels.
        why: the reason, one or more sentences without the first capital and the full stop at the end.
        tentative: nothing says that it is better than the source model: there are no labels, and no stage is judged
            improved.
    """

    model: str
    folder: Path
    by: Literal["validation", "test", "evidence"]
    why: str
    tentative: bool = False

    def __str__(self) -> str:
        return f"{'look first at' if self.tentative else 'use'} {_named(self.model)}: {self.why}"


def read_recommendation(runs: Path, rounds: Sequence[str], *, black_box: bool) -> Recommendation:
    """Recommend one of a run's models, also before ``evaluate`` has measured them.

    Args:
        runs: the folder of the results.
        rounds: keys of the rounds.
        black_box: whether the run is of the black-box pipeline.

    Raises:
        InputError: there is no model yet, or a file is damaged.
    """
    folders = {name: within(runs, path) for name, path in models(rounds, black_box=black_box).items()}
    folders = {name: folder for name, folder in folders.items() if (folder / MODEL).is_file()}
    if not folders:
        raise InputError(f"{runs}: contains no model; run dvc repro first")
    path = within(runs, METRICS)
    try:
        metrics = json.loads(path.read_text()) if path.is_file() else {}
        return recommend(folders, metrics, read_all(runs, rounds))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged or of another version; run dvc repro --force evaluate") from error


def recommend(
    folders: Mapping[str, Path], metrics: Mapping[str, Any], evidence: Mapping[str, Evidence]
) -> Recommendation:
    """Recommend one of the models.

    Args:
        folders: of the models, by name, in the order of training.
        metrics: the contents of ``runs/evaluate/metrics.json``; empty if nothing is measured.
        evidence: indicators and verdicts without labels, by the same names.
    """
    for by, miou in (("validation", metrics.get("validation", {})), ("test", metrics)):
        known = {name: value for name, value in miou.get("miou", {}).items() if value is not None}
        if any(name in known for name in folders):
            model, why = _by_labels(list(folders), known, evidence, by)
            return Recommendation(model, folders[model], "validation" if by == "validation" else "test", why)
    model, why = _by_evidence(list(folders), evidence)
    tentative = model != "source" and (model not in evidence or evidence[model]["verdict"] != "improved")
    return Recommendation(model, folders[model], "evidence", why, tentative)


def _by_labels(
    names: Sequence[str], miou: Mapping[str, float], evidence: Mapping[str, Evidence], by: str
) -> tuple[str, str]:
    """The model of highest mIoU, the earliest of equals, and why."""
    measured = [name for name in names if name in miou]
    best, last = max(measured, key=lambda name: miou[name]), measured[-1]
    why = f"{miou[best]:.2f} % mIoU on the {by} images, "
    if last == best:
        why += "more than any other stage" if len(measured) > 1 else "the only one measured"
    elif last in evidence and evidence[last]["reverted"] and miou[last] == miou[best]:
        why += f"and {_named(last)} was reverted to it"
    else:
        why += f"{_named(last)} {miou[last]:.2f} %"
        if miou.get(BATCHNORM_ONLY, 0.0) > miou[last]:
            why += f", which is below BatchNorm alone ({miou[BATCHNORM_ONLY]:.2f} %)"
    if miou.get(BATCHNORM_ONLY, 0.0) > miou[best]:
        why += (
            f". Re-estimated BatchNorm statistics alone have more, {miou[BATCHNORM_ONLY]:.2f} %; align.method: "
            "baselines/batchnorm makes that model"
        )
    if "source" in miou and "source" not in names and miou["source"] > miou[best]:
        why += f". The black box itself has more, {miou['source']:.2f} %"
    if by == "test":
        why += (
            ". The labels that measured it also chose it, so its mIoU is rather too high; name validation images in "
            "data.validation to choose on those"
        )
    return best, why


def _by_evidence(names: Sequence[str], evidence: Mapping[str, Evidence]) -> tuple[str, str]:
    """The last model that is judged improved, unless an earlier one agrees clearly better with itself.

    If there is none, the first stage that is unclear, since such models gained more often than they lost, and by more
    (docs/explanation/evidence.md); if there is none of these either, the first model.
    """
    unmeasured = "; nothing was measured with labels, so look at predictions"
    if not evidence:
        return names[-1], f"the last stage; no stage was judged{unmeasured}"
    best = ""
    for name in names:
        found = evidence.get(name)
        if found is None or found["reverted"] or found["verdict"] != "improved":
            continue
        if not best or not worse(evidence[best]["after"], found["after"]):
            best = name
    later = [name for name in names[names.index(best) + 1 if best else 1 :] if name in evidence]
    others = ", ".join(f"{_named(name)} is {_word(evidence[name])}" for name in later)
    if best:
        return best, "judged improved without labels" + (f"; {others}" if others else "") + unmeasured
    told = f"no stage is judged improved without labels ({others})" if others else "no later stage is judged"
    judged = ((name, evidence[name]) for name in names if name in evidence)
    careful = (name for name, found in judged if found["verdict"] == "unclear" and not found["reverted"])
    return next(careful, names[0]), told + unmeasured


def _word(found: Evidence) -> str:
    if found["reverted"]:
        return "reverted"
    if found["verdict"] != "improved":
        return found["verdict"]
    return "judged worse than an earlier model"


def _named(model: str) -> str:
    return "the source model" if model == "source" else model.replace("_", " ")
