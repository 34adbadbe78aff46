"""What a run shows of its results."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from atp.evaluation.evidence.record import Evidence
from flows.results import PICTURE_WIDTH, data_uri, evidence_table, label_table, miou_table
from flows.stage import slug


def test_figures_are_told_beside_the_source_models() -> None:
    rows = miou_table({"source": 25.0, "align": 43.5})
    assert rows[1] == {"model": "align", "mIoU, %": 43.5, "over source": "+18.5"}


def test_labels_of_all_rounds_share_one_table() -> None:
    def table(threshold: float | None) -> dict[str, object]:
        return {"coverage": 0.65, "classes": [{"name": "road", "threshold": threshold, "coverage": 0.5}]}

    everything, road = label_table({"r01": table(0.9), "split": table(None)})
    assert everything["class"] == "all"
    assert everything["split: kept, %"] == 65.0
    assert road == {
        "class": "road",
        "r01: threshold": 0.9,
        "r01: kept, %": 50.0,
        "split: threshold": "never predicted",
        "split: kept, %": 50.0,
    }


def test_evidence_is_told_beside_what_it_is_compared_with() -> None:
    align = Evidence(
        images=8,
        verdict="improved",
        why="agrees more",
        reverted=False,
        source={"scale_iou": 0.4},
        before={"scale_iou": 0.4},
        after={"scale_iou": 0.5},
    )
    assert evidence_table({"align": align, "teach": align}, {"teach": "classes that almost vanished: sky"}) == [
        {"model": "to compare with", "verdict": "", "why": "", "scale_iou": 0.4},
        {"model": "align", "verdict": "improved", "why": "agrees more", "scale_iou": 0.5},
        {
            "model": "teach",
            "verdict": "improved",
            "why": "agrees more; classes that almost vanished: sky",
            "scale_iou": 0.5,
        },
    ]


def test_the_picture_lies_in_its_address(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1000), (200, 10, 10)).save(tmp_path / "big.png")
    kind, _, content = data_uri(tmp_path / "big.png").partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).width == PICTURE_WIDTH


@pytest.mark.parametrize(("stage", "key"), [("teach@r01", "teach-r01"), ("Propagate", "propagate"), ("a_b.c", "a-b-c")])
def test_a_stage_is_a_key_for_artifacts(stage: str, key: str) -> None:
    assert slug(stage) == key
