"""Which model is recommended, by what, and in which words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atp.errors import InputError
from atp.evaluation.evidence.record import Evidence, Verdict
from atp.evaluation.recommendation import Recommendation, read_recommendation, recommend

WHITE = {name: Path("runs") / name for name in ("source", "align", "teach", "propagate")}
BLACK = {name: Path("runs") / name for name in ("distill", "teach", "propagate")}


def evidence(verdict: Verdict, after: float, *, before: float = 0.5, reverted: bool = False) -> Evidence:
    def figures(value: float) -> dict[str, float]:
        return {"scale_iou": value}

    return Evidence(
        images=8,
        verdict=verdict,
        why="",
        reverted=reverted,
        source=figures(0.5),
        before=figures(before),
        after=figures(after),
    )


GOOD = {"align": evidence("improved", 0.6), "teach": evidence("improved", 0.62, before=0.6)}


def measured(**miou: float | None) -> dict[str, Any]:
    return {"miou": miou}


def told(
    metrics: Mapping[str, Any], found: Mapping[str, Evidence], folders: Mapping[str, Path] = WHITE
) -> Recommendation:
    return recommend(folders, metrics, found)


def test_labels_of_the_validation_images_decide_before_those_of_the_test_images() -> None:
    test = measured(source=40.0, align=41.0, teach=44.0, propagate=46.0)
    validation = measured(source=40.0, align=41.0, teach=47.72, propagate=45.9, batchnorm_only=46.3)
    found = told(test | {"validation": validation}, {})
    assert (found.model, found.folder, found.by) == ("teach", WHITE["teach"], "validation")
    assert str(found) == (
        "use teach: 47.72 % mIoU on the validation images, propagate 45.90 %, which is below BatchNorm alone (46.30 %)"
    )


def test_test_images_alone_decide_and_the_words_say_what_that_means() -> None:
    found = told(measured(source=40.0, align=41.0, teach=44.0, propagate=46.0), {})
    assert (found.model, found.by) == ("propagate", "test")
    assert found.why.startswith("46.00 % mIoU on the test images, more than any other stage. The labels that measured")


def test_no_stage_above_the_source_model() -> None:
    found = told({"validation": measured(source=40.0, align=39.0, teach=38.0, propagate=15.7)}, GOOD)
    assert (found.model, found.why) == (
        "source",
        "40.00 % mIoU on the validation images, propagate 15.70 %",
    )


def test_batchnorm_alone_above_all_is_named_with_the_way_to_it() -> None:
    miou = measured(source=40.0, batchnorm_only=47.9, align=46.0, teach=47.7, propagate=40.9)
    found = told({"validation": miou}, {})
    assert found.model == "teach"
    assert "Re-estimated BatchNorm statistics alone have more, 47.90 %" in found.why
    assert "baselines/batchnorm" in found.why


def test_a_reverted_stage_is_the_one_before() -> None:
    miou = measured(source=40.0, align=41.0, teach=44.0, propagate=44.0)
    found = told({"validation": miou}, GOOD | {"propagate": evidence("collapsed", 0.62, reverted=True)})
    assert (found.model, found.why) == (
        "teach",
        "44.00 % mIoU on the validation images, and propagate was reverted to it",
    )


def test_a_model_without_a_labelled_pixel_is_not_compared() -> None:
    assert told({"miou": {"source": None, "align": None}}, GOOD).by == "evidence"


def test_a_black_box_that_is_better_itself_is_named() -> None:
    found = told(measured(source=26.0, distill=22.0, teach=23.0, propagate=24.4), {}, BLACK)
    assert found.model == "propagate"
    assert "The black box itself has more, 26.00 %" in found.why


@pytest.mark.parametrize(
    ("last", "model", "why"),
    [
        (evidence("improved", 0.63), "propagate", "judged improved without labels; nothing was measured"),
        (evidence("unclear", 0.51), "teach", "propagate is unclear; nothing was measured"),
        (evidence("collapsed", 0.3), "teach", "propagate is collapsed"),
        (evidence("collapsed", 0.62, reverted=True), "teach", "propagate is reverted"),
        (evidence("improved", 0.62, before=0.62, reverted=True), "teach", "propagate is reverted"),
        # Still above the source model, and clearly below the one before.
        (evidence("improved", 0.58), "teach", "propagate is judged worse than an earlier model"),
    ],
)
def test_without_labels_the_last_that_is_judged_improved(last: Evidence, model: str, why: str) -> None:
    found = told({"miou": {}}, GOOD | {"propagate": last})
    assert (found.model, found.by) == (model, "evidence")
    assert why in found.why
    assert "look at predictions" in found.why
    assert str(found).startswith("use ")


@pytest.mark.parametrize("found", [{}, {"align": evidence("unclear", 0.51)}])
def test_a_model_that_nothing_says_is_better_is_only_looked_at_first(found: Mapping[str, Evidence]) -> None:
    best = told({}, found)
    assert (best.tentative, str(best)[:13]) == (True, "look first at")
    assert not told({}, {"align": evidence("collapsed", 0.2)}).tentative
    assert not told(measured(source=40.0, align=39.0), found).tentative


def test_without_labels_and_without_an_improvement_the_first_that_is_unclear() -> None:
    found = told({}, {"align": evidence("unclear", 0.51), "teach": evidence("collapsed", 0.2)})
    assert found.model == "align"
    assert "no stage is judged improved without labels (align is unclear, teach is collapsed)" in found.why
    found = told({}, {"align": evidence("unclear", 0.51, reverted=True), "teach": evidence("unclear", 0.5)})
    assert found.model == "teach"
    found = told({}, {name: evidence("collapsed", 0.2) for name in WHITE if name != "source"})
    assert str(found).startswith("use the source model: no stage is judged improved")
    found = told({}, {name: evidence("unclear", 0.51) for name in BLACK}, BLACK)
    assert found.model == "distill"


def test_a_run_s_models_are_those_on_disk(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="contains no model; run dvc repro first"):
        read_recommendation(runs, ["r01", "r02"], black_box=False)
    for stage in ("source", "align", "teach/r01"):
        (runs / stage).mkdir(parents=True)
        (runs / stage / "model.safetensors").touch()
    (runs / "teach/r01/evidence.json").write_text(json.dumps(evidence("improved", 0.6)))
    found = read_recommendation(runs, ["r01", "r02"], black_box=False)
    assert (found.model, found.folder) == ("teach_r01", runs / "teach/r01")
    (runs / "evaluate").mkdir()
    (runs / "evaluate/metrics.json").write_text(json.dumps(measured(source=30.0, align=31.0, teach_r01=29.0)))
    assert read_recommendation(runs, ["r01", "r02"], black_box=False).model == "align"
    (runs / "evaluate/metrics.json").write_text("[]")
    with pytest.raises(InputError, match=r"metrics\.json: damaged"):
        read_recommendation(runs, ["r01", "r02"], black_box=False)
