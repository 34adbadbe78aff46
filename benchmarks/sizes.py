"""mIoU on test images of other sizes than those at which the model was adapted, which should be the report's.

    python benchmarks/sizes.py

Run it in a project after ``make demo``. The test images are resized as a camera with more pixels or another aspect
would take them (bicubic), and their labels by nearest neighbour. ``atp predict`` and the registered model's code
predict them; mIoU is measured at the size of the resized labels.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from atp.data.folder import Sample, list_samples, read_ids
from atp.evaluation.metrics import ConfusionMatrix
from atp.models.checkpoint import load_checkpoint
from atp.registry.package import save_model

FACTORS = ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (1.5, 1.2))
"""Of the width and the height."""


def resized(samples: list[Sample], factors: tuple[float, float], folder: Path) -> tuple[int, int]:
    """Write images and labels at another size, and return that of the last one."""
    for kind, method in (("image", Image.Resampling.BICUBIC), ("label", Image.Resampling.NEAREST)):
        for sample in samples:
            path = folder / kind / f"{sample.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(getattr(sample, kind)) as file:
                whole = file.convert("RGB") if kind == "image" else Image.fromarray(np.array(file))
            size = (round(whole.width * factors[0]), round(whole.height * factors[1]))
            whole.resize(size, method).save(path)
    return size


def by_command(model: Path, folder: Path) -> None:
    """Write ``folder/command/masks`` by ``atp predict``."""
    command = ["predict", str(folder / "image"), str(folder / "command"), "--model", str(model), "--no-overlay"]
    subprocess.run([sys.executable, "-m", "atp.cli", *command], check=True, stdout=subprocess.DEVNULL)


def by_registered(model: Path, folder: Path) -> None:
    """Write ``folder/registered/masks`` by the model as it is registered."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        save_model(model, folder / "registered/model")
        registered = mlflow.pyfunc.load_model(str(folder / "registered/model"))
    (folder / "registered/masks").mkdir()
    for sample in list_samples(folder / "image"):
        with Image.open(sample.image) as file:
            mask: NDArray[np.uint8] = registered.predict(np.array(file)[None])[0]
        Image.fromarray(mask).save(folder / f"registered/masks/{sample.name}.png")


def miou(masks: Path, labels: Path, num_classes: int) -> float:
    confusion = ConfusionMatrix(num_classes)
    for path in sorted(labels.rglob("*.png")):
        predicted = torch.from_numpy(read_ids(masks / path.relative_to(labels), num_classes))
        confusion.update(predicted, torch.from_numpy(read_ids(path, num_classes)))
    return 100 * confusion.mean_iou()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/propagate/model.safetensors"))
    parser.add_argument("--test", type=Path, default=Path("data/test"), help="folder of images and labels")
    arguments = parser.parse_args()
    samples = list_samples(arguments.test / "images", arguments.test / "labels")
    classes = load_checkpoint(arguments.model).label_space.num_classes
    print("| images | atp predict | registered model |\n|---|---|---|")
    for factors in FACTORS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            width, height = resized(samples, factors, folder)
            by_command(arguments.model, folder)
            by_registered(arguments.model, folder)
            row = [miou(folder / f"{route}/masks", folder / "label", classes) for route in ("command", "registered")]
        print(f"| {width}x{height} | {row[0]:.2f} | {row[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
