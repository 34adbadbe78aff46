"""docs/how-to/own-model.md: its settings are valid, and doctor prints what it says."""

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import transformers
from ruamel.yaml import YAML

from atp.checks.network import check_network
from atp.export import _maker
from atp.models.config import NetworkConfig
from atp.models.named import completed, named_network
from atp.params import load_params
from tests.test_cli import write_project

PAGE = (Path(__file__).parents[1] / "docs/how-to/own-model.md").read_text()
BLOCKS = [
    YAML(typ="safe").load(dedent(text))
    for text in re.findall(r"^ *```yaml\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
]
NETWORKS = [block["model"] for block in BLOCKS if "model" in block]
UNET = "smp:Unet?encoder_name=resnet18"


def test_every_setting_is_valid() -> None:
    assert len(NETWORKS) == 4
    for model in NETWORKS:
        NetworkConfig.model_validate(model)
    (maker,) = re.findall(r"load: (.*)\.load_state_dict", PAGE)
    assert maker == _maker(completed(NetworkConfig(network=UNET, num_classes=12)))


def changed(folder: Path, **sections: Any) -> Path:
    yaml = YAML(typ="safe")
    params = yaml.load(write_project(folder) / "params.yaml")
    for name, values in sections.items():
        params[name] = {**params[name], **values} if name == "data" else values
    yaml.dump(params, folder / "params.yaml")
    return folder / "params.yaml"


@pytest.mark.parametrize("name", ["torchvision:lraspp_mobilenet_v3_large", "smp:FPN?encoder_name=resnet18", "hf:"])
def test_doctor_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (model,) = [each for each in NETWORKS if each.get("network", "").startswith("hf:")] if name == "hf:" else [{}]
    model = model or {"network": name}
    assert model["network"] in PAGE
    classes = [{"name": str(index), "color": [0, 0, 0]} for index in range(12)]
    params = load_params(changed(tmp_path, model=model, data={"size": [160, 80], "classes": classes}))
    if name == "hf:":
        transformers.utils.logging.disable_progress_bar()
        (sizes,) = (each["arguments"]["config"]["arguments"] for each in NETWORKS if "factory" in each)
        segformer = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes))
        segformer.save_pretrained(model["network"].removeprefix("hf:"))
    found = [f"{finding.level:8}{finding.text}" for finding in check_network(params, params.data.label_space())]
    assert len(found) == 2
    assert "\n".join(found) in PAGE


def test_the_classifiers_of_the_networks_that_were_tried() -> None:
    """Those that neither this page's doctor nor tests/models/test_named.py show."""
    rows = re.findall(r"^\| .+? \| `(.+?:.+?)` \| `(.+?)` \| .*\|$", PAGE, re.MULTILINE)
    assert len(rows) == 11
    for name, classifier in rows:
        if "deeplab" in name or "MAnet" in name:
            assert named_network(name).model["classifier"] == classifier


def test_the_class_map(tmp_path: Path) -> None:
    (listed,) = (block["data"]["class_map"] for block in BLOCKS if "class_map" in block.get("data", {}))
    classes = [{"name": name, "color": [0, 0, 0]} for name in ("ground", "thing", "sky")]
    path = changed(tmp_path, data={"class_map": listed, "classes": classes})
    params = load_params(path, {"source.checkpoint": "data/source/model.pth"})
    assert params.data.mapped_ids() == (0, 0, 1, 2, 255)
