"""The model card says what was measured, and what was not."""

from pathlib import Path
from typing import Any

import pytest

from atp.evaluation.evidence.record import Evidence
from atp.models.config import NetworkConfig
from atp.params import Params, load_params
from atp.registry.card import LIMIT, artifact_address, model_card

ROOT = Path(__file__).parents[2]
TAGS = {"atp.data": "md5:0123.dir", "atp.source_model": "sha256:45", "atp.version": "1.2", "atp.git_commit": "67ab"}
METRICS: dict[str, Any] = {
    "miou": {"source": 40.5, "propagate": 50.25},
    "iou": {
        "source": {"sky": 60.0, "road": 21.0, "a|b": 10.0, "bus": None},
        "propagate": {"sky": 81.0, "road": 19.5, "a|b": 10.0, "bus": None},
    },
}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def rows(card: str) -> list[list[str]]:
    lines = [line.replace("&ensp;", "") for line in card.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines]


def test_every_class_before_and_after(params: Params) -> None:
    assert rows(model_card(params, TAGS, METRICS)) == [
        ["class", "source", "adapted", "change"],
        ["sky", "60.00", "81.00", "+21.00"],
        ["road", "21.00", "19.50", "-1.50"],
        ["a/b", "10.00", "10.00", "+0.00"],
        ["bus", "", "", ""],
    ]


def test_summary_data_method_and_limits(params: Params) -> None:
    card = model_card(params, TAGS, METRICS, images=100, picture="get-artifact?x")
    assert "**50.25 % mIoU** on held-out ones, its source model **40.50 %**" in card
    assert "measured on the 100 images of `data/test/images` with `data/test/labels`" in card
    assert "md5:0123.dir" in card
    assert "commit `67ab`" in card
    assert "- align: epochs 4, lr 0.002, batch_size 8, batchnorm train, method method/align" in card
    assert "- dump: keep_ratio 0.65" in card
    assert "](get-artifact?x)" in card
    assert "- got worse: road (21.00 to 19.50)\n" in card
    assert "absent from the test images: bus\n" in card
    assert "Licence" in card


def test_the_size_at_which_it_predicts(params: Params) -> None:
    line = "- adapted to `data/target/images`, at 160x80, unlabelled; predicts at that size"
    assert f"{line}\n" in model_card(params, TAGS, METRICS)
    windows = load_params(ROOT / "params.yaml", {"data.window": [96, 64]})
    assert f"{line}, in windows of 96x64\n" in model_card(windows, TAGS, METRICS)


def test_a_training_by_steps(params: Params) -> None:
    assert params.align is not None
    align = params.align.model_copy(update={"epochs": None, "steps": 500})
    card = model_card(params.model_copy(update={"align": align}), TAGS, METRICS)
    assert "- align: steps 500, lr 0.002, batch_size 8" in card
    assert "- propagate: epochs 10, lr" in card


def test_no_class_got_worse(params: Params) -> None:
    iou = {"source": {"sky": 60.0}, "propagate": {"sky": 60.0}}
    assert "- no class got worse" in model_card(params, TAGS, METRICS | {"iou": iou})


EVIDENCE = Evidence(images=64, verdict="unclear", why="about as before", reverted=False, source={}, before={}, after={})


@pytest.mark.parametrize("metrics", [METRICS, {"miou": {}, "iou": {}}])
def test_what_was_seen_without_labels_is_told(params: Params, metrics: dict[str, Any]) -> None:
    card = model_card(params, TAGS, metrics, evidence=EVIDENCE)
    assert "Judged without labels, on 64 target images: **unclear**; about as before. This is an estimate" in card
    assert "Judged without labels" not in model_card(params, TAGS, metrics)
    lost = "classes that almost vanished: sky 3.6 % -> 0.5 %"
    assert lost not in card
    assert f"not a measurement. Look at the {lost} of the pixels." in model_card(
        params, TAGS, metrics, evidence=EVIDENCE, vanished=lost
    )


def test_without_labels_it_says_so(params: Params) -> None:
    card = model_card(params, TAGS, {"miou": {}, "iou": {}})
    assert "Its quality was not measured" in card
    assert "mIoU was not measured" in card
    assert "IoU per class" not in card
    assert "![" not in card


@pytest.mark.parametrize("length", [4, 200])
def test_many_classes_fit_and_keep_those_that_changed_most(params: Params, length: int) -> None:
    names = [f"class {'x' * length} {index}" for index in range(255)]
    iou = {"source": dict.fromkeys(names, 50.0), "propagate": dict.fromkeys(names, 50.1)}
    iou["propagate"][names[200]] = 10.0
    card = model_card(params, TAGS, METRICS | {"iou": iou})
    assert len(card) <= LIMIT
    shown = [row[0] for row in rows(card)]
    assert names[200] in shown
    assert any(f"and {255 - (len(shown) - 2)} more that changed less" in name for name in shown)
    assert card.endswith("the user of this model.")


def test_the_card_is_of_the_stage_that_was_recommended(params: Params) -> None:
    metrics = {"miou": {"source": 40.5, "teach": 44.0, "propagate": 39.0}, "iou": {"teach": {"sky": 44.0}}}
    card = model_card(params, TAGS | {"atp.stage": "teach"}, metrics, recommended="use teach: propagate 39.00 %")
    assert "**44.00 % mIoU** on held-out ones, its source model **40.50 %**" in card
    assert "Recommended: use teach: propagate 39.00 %." in card
    card = model_card(params, TAGS | {"atp.stage": "source"}, metrics)
    assert "The source model of an adaptation, of which no stage was recommended, with **40.50 % mIoU**" in card


def test_names_of_classes_are_text(params: Params) -> None:
    name = "![y](http://x) <img onerror=a> `b` *c*"
    iou = {"source": {name: 60.0}, "propagate": {name: 50.0}}
    card = model_card(params, TAGS, METRICS | {"iou": iou}, evidence=EVIDENCE, vanished=name)
    assert card.count(r"\!\[y\](http://x) &lt;img onerror=a> \`b\` \*c\*") == 3
    assert "<img" not in card


def test_a_picture_is_addressed_relative_to_mlflows_page() -> None:
    assert artifact_address("ab", "card/x y.jpg") == "get-artifact?path=card%2Fx+y.jpg&run_uuid=ab"


def test_of_a_black_box_the_answers_are_the_origin() -> None:
    params = load_params(ROOT / "black_box/params.yaml", {"query.endpoint": "http://box:5001/invocations?v=private"})
    card = model_card(params, {"atp.source_answers": "sha256:89"}, METRICS)
    told = "a black box, endpoint `http://box:5001/invocations`, of which only the answers were available: `sha256:89`"
    assert f"- source model: {told}" in card
    assert "- distill: epochs 10" in card
    assert "private" not in card


def test_own_network_and_class_map(params: Params) -> None:
    model = NetworkConfig(factory="my_networks:make", classifier="decoder.head")
    own = params.model_copy(update={"model": model})
    card = model_card(own, TAGS, METRICS, class_map=(0, 1, 1, 255, 2))
    assert "- network: `my_networks:make`, classifier `decoder.head`\n" in card
    assert "- classes: the source model's 5 were mapped to these 3, and 1 of them to none\n" in card
    assert "mapped to these" not in model_card(own, TAGS, METRICS)
