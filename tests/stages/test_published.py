"""Each of the papers' pairs of data sets, as it is published, through every stage by its own preset."""

import json
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from atp.datasets.cityscapes import CITYSCAPES
from atp.datasets.cross_city import CROSS_CITY
from atp.datasets.gta5 import GTA5
from atp.datasets.label_maps import CLASS_SETS
from atp.datasets.pairs import prepare, settings
from atp.datasets.published import DataSet
from atp.datasets.synthia import SYNTHIA
from atp.pseudo_labels.store import PseudoLabelStore
from tests.datasets import published
from tests.datasets.test_label_maps import CROSS_CITY as CROSS_CITY_IDS
from tests.datasets.test_label_maps import TRAIN_IDS
from tests.stages.launch import ORDER, RunStage

ROOT = Path(__file__).parents[2]
TERRAIN_TRUCK_TRAIN = (9, 14, 16)


def draw(data_set: DataSet, root: Path) -> Path:
    """The data set as it is published, ``root/Rome`` of Cross-City."""
    if data_set is CROSS_CITY:
        return published.cross_city(root / "Rome")
    kinds = {"gta5": published.gta5, "synthia": published.synthia, "cityscapes": published.cityscapes}
    return kinds[data_set.name](root / data_set.name)


def shown(classes: int) -> list[int]:
    """Pixels of each class in one published label of Cityscapes' ids, by the tables of ``test_label_maps``."""
    if classes == 13:
        table = [CROSS_CITY_IDS.get(number, 255) for number in range(34)]
    else:
        left_out = TERRAIN_TRUCK_TRAIN if classes == 16 else ()
        kept = [train_id for train_id in range(19) if train_id not in left_out]
        table = [kept.index(train_id) if train_id in kept else 255 for train_id in TRAIN_IDS]
    ids = np.array(table)[published.all_ids(34)]
    return [int((ids == number).sum()) for number in range(classes)]


@pytest.mark.parametrize(
    ("preset", "source", "target", "classes", "backbone"),
    [
        # All three presets have ResNet-101, which takes a CPU too long.
        pytest.param("paper", GTA5, CITYSCAPES, 19, "resnet18", id="gta5-cityscapes"),
        pytest.param("paper-synthia", SYNTHIA, CITYSCAPES, 16, "resnet_small", id="synthia-cityscapes"),
        pytest.param("paper-cross-city", CITYSCAPES, CROSS_CITY, 13, "resnet_small", id="cityscapes-cross-city"),
    ],
)
def test_a_published_pair_goes_through_every_stage(
    preset: str,
    source: DataSet,
    target: DataSet,
    classes: int,
    backbone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_stage: RunStage,
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = prepare(source, draw(source, tmp_path), target, draw(target, tmp_path), Path("data"))
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / f"presets/{preset}.yaml")
    # What the preparation prints is what the preset has.
    assert params["data"] == yaml.load(settings(prepared, Path("data")))["data"]
    # No download, and the rest for the time it takes.
    params["data"] |= {"size": [48, 24]}
    params["data"]["source"]["size"] = [48, 27]
    params["model"] |= {"weights": "none", "backbone": backbone}
    params["runtime"] |= {"threads": 1, "workers": 0}
    for stage in ("source", "align", "teach", "propagate"):
        params[stage] |= {"epochs": 1, "steps": None}
    params["rounds"] = {"r01": params["rounds"]["r01"]}
    params["split"]["model"] = "runs/teach/r01"
    yaml.dump(params, tmp_path / "params.yaml")
    for stage, *arguments in ORDER:
        if arguments != ["--round", "r02"]:
            ended = run_stage(tmp_path, stage, *arguments)
            assert ended.code == 0, ended.output

    names = CLASS_SETS[classes]
    labels = PseudoLabelStore(tmp_path / "runs/dump/r01")
    assert labels.label_space.names == names
    assert len(labels.names) == 3
    metrics = json.loads((tmp_path / "runs/evaluate/metrics.json").read_text())
    assert set(metrics["miou"]) == {"source", "align", "teach", "propagate", "batchnorm_only"}
    assert ("accuracy" in metrics["pseudo_labels"]["r01"]) == (target is CITYSCAPES), "Cross-City has no labels"
    confusion = json.loads((tmp_path / "runs/evaluate/confusion.json").read_text())
    test_images = 1 if target is CITYSCAPES else 2
    for name, counts in confusion.items():
        assert [sum(row) for row in counts] == [test_images * pixels for pixels in shown(classes)], name
        iou = metrics["iou"][name]
        assert tuple(iou) == names
        assert metrics["miou"][name] == pytest.approx(np.mean(list(iou.values())), abs=0.02)
    if classes == 16:
        left = [other for other in names if other not in ("wall", "fence", "pole")]
        means = {name: np.mean([iou[other] for other in left]) for name, iou in metrics["iou"].items()}
        assert metrics["protocols"] == {"classes_13": pytest.approx(means, abs=0.02)}
    else:
        assert not metrics["protocols"]
