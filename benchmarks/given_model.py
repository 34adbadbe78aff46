"""A model that is brought along: mIoU after each stage, with the default settings and with presets/given-model.yaml.

    python benchmarks/given_model.py /tmp/given

Trains a network of segmentation_models_pytorch on the source images of ``data/`` by a plain PyTorch script, which
stands for somebody else's, and gives its state dict to the pipeline. Settings are to be chosen on the validation
images; the test images give the result. Prints Markdown. Finished stages are not repeated.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2 as transforms

from atp.files import atomic_path

ROOT = Path(__file__).parents[1]
ENCODER = "mobilenet_v2"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODELS = ("source", "batchnorm_only", "align", "teach", "propagate")
STAGES = ("source", "align", "dump/r01", "teach/r01", "split", "propagate")


def train(data: Path, size: tuple[int, int], epochs: int, out: Path, seed: int, *, robust: bool) -> None:
    """Train the given model with labels, with colour jitter and blur if it is to be robust; write its state dict."""
    torch.manual_seed(seed)
    shuffle = random.Random(seed)
    classes = len(YAML(typ="safe").load(data / "source/classes.yaml"))
    network = smp.Linknet(encoder_name=ENCODER, encoder_weights=None, classes=classes)
    pairs = [(path, data / "source/labels" / path.name) for path in sorted((data / "source/images").iterdir())]
    images = torch.stack([_image(image, size) for image, _ in pairs])
    labels = torch.stack([_label(label, size) for _, label in pairs])
    normalise = transforms.Normalize(MEAN, STD)
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    blur = transforms.RandomApply([transforms.GaussianBlur(5, (0.1, 1.5))])
    steps = epochs * (len(pairs) // 8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < 8:
            order = shuffle.sample(range(len(pairs)), len(pairs))
        batch, order = order[:8], order[8:]
        flip = shuffle.random() < 0.5
        x, y = images[batch], labels[batch]
        if robust:
            x = torch.stack([blur(jitter(image)) for image in x])
        if flip:
            x, y = x.flip(-1), y.flip(-1)
        optimiser.zero_grad()
        F.cross_entropy(network(_padded(normalise(x)))[..., : size[1], : size[0]], y, ignore_index=255).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with atomic_path(out) as temporary:
        torch.save(network.state_dict(), temporary)


def _image(path: Path, size: tuple[int, int]) -> Tensor:
    pixels = np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def _label(path: Path, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).resize(size, Image.Resampling.NEAREST))).long()


def _padded(images: Tensor) -> Tensor:
    """Pad at the right and at the bottom to multiples of 32, which the network needs."""
    return F.pad(images, (0, -images.shape[-1] % 32, 0, -images.shape[-2] % 32), mode="replicate")


def params(preset: Path, changes: Mapping[str, Any], classes: int, size: Sequence[int]) -> dict[str, Any]:
    """A preset with this network, and with changes by dotted names."""
    tree: dict[str, Any] = YAML(typ="safe").load(preset)
    tree["data"] |= {
        "size": list(size),
        "validation": {"images": "data/validation/images", "labels": "data/validation/labels"},
    }
    tree["training"]["precision"] = "fp32"  # faster than bf16 for this network on a CPU
    tree["source"]["checkpoint"] = "data/source/given.pth"
    tree["model"] = {
        "code": "atp/models/own.py",
        "factory": "segmentation_models_pytorch:Linknet",
        "arguments": {"encoder_name": ENCODER, "encoder_weights": None, "classes": classes},
        "classifier": "segmentation_head",
        "divisor": 32,
        "mean": list(MEAN),
        "std": list(STD),
    }
    for name, value in changes.items():
        section, key = name.split(".")
        tree[section][key] = value
    return tree


def run(folder: Path, tree: Mapping[str, Any]) -> None:
    """Run those of the pipeline's stages in this folder that have no result yet."""
    (folder / "atp/models").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "atp/models/own.py", folder / "atp/models/own.py")
    if not (folder / "data").exists():
        shutil.copytree(folder.parent / "data", folder / "data")
    YAML().dump(tree, folder / "params.yaml")
    for stage in (*STAGES, "evaluate"):
        if not (folder / "runs" / stage).exists():
            name, _, key = stage.partition("/")
            command = [sys.executable, "-m", "atp.stages", name, *(["--round", key] if key else [])]
            subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def table(folders: Mapping[str, Path]) -> str:
    """mIoU on the validation and on the test images, and the verdict without labels, by run and model."""
    lines = [f"| | {' | '.join(MODELS)} | without labels |", f"|---|{'---|' * (len(MODELS) + 1)}"]
    for name, folder in folders.items():
        for where in ("validation", "test"):
            metrics = json.loads((folder / "runs/evaluate/metrics.json").read_text())
            miou = (metrics if where == "test" else metrics["validation"])["miou"]
            told = ""
            if where == "test":
                found = [
                    json.loads((folder / "runs" / stage / "evidence.json").read_text())
                    for stage in ("align", "teach/r01", "propagate")
                ]
                told = ", ".join(each["verdict"] + (" (reverted)" if each["reverted"] else "") for each in found)
            lines.append(f"| {name}, {where} | {' | '.join(f'{miou[model]:.1f}' for model in MODELS)} | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the given model and the runs")
    parser.add_argument("--data", type=Path, default=Path("data"), help="source, target, test and validation images")
    parser.add_argument("--images", type=int, default=200, help="number of target images")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 80), help="width and height")
    parser.add_argument("--epochs", type=int, default=6, help="of the given model's training")
    parser.add_argument("--seed", type=int, default=0, help="of the given model's training")
    parser.add_argument("--robust", action="store_true", help="train the given model with colour jitter and blur")
    parser.add_argument("--run", action="append", default=[], help="NAME:PRESET[:section.key=value,...]")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "data").exists():
        shutil.copytree(arguments.data, out / "data")
        for part in ("images", "labels"):
            for path in sorted((out / "data/target" / part).iterdir())[arguments.images :]:
                path.unlink()
    given = out / "data/source/given.pth"
    if not given.exists():
        train(out / "data", tuple(arguments.size), arguments.epochs, given, arguments.seed, robust=arguments.robust)
    classes = len(YAML(typ="safe").load(out / "data/source/classes.yaml"))
    folders = {}
    for text in arguments.run or ["default:streets", "preset:given-model"]:
        name, preset, *rest = text.split(":", 2)
        pairs = (pair.split("=") for pair in rest[0].split(",")) if rest else ()
        changes = {key: YAML(typ="safe").load(value) for key, value in pairs}
        folders[name] = out / name
        run(folders[name], params(ROOT / f"presets/{preset}.yaml", changes, classes, arguments.size))
    print(table(folders))


if __name__ == "__main__":
    main()
