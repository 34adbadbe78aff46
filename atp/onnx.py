"""Export as an ONNX graph that is compared with PyTorch: ``atp export model.onnx``."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from atp.api import load_model, samples_of
from atp.data.folder import evenly_spread, open_image, resized
from atp.data.reading import by
from atp.data.tensors import image_tensor
from atp.errors import InputError, counted, first_line
from atp.files import atomic_path
from atp.models.checkpoint import Checkpoint, load_checkpoint, restored
from atp.models.config import NetworkConfig
from atp.models.own import COARSEST
from atp.models.segmentation import SegmentationNetwork
from atp.params import load_params
from atp.registry.package import find_model

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""Optional packages that the export needs."""

DRAWN = (256, 128)
"""Width and height of drawn images, and of the exporter's where the model states none."""

COMPARED = 4
"""Number of images on which the graph is compared with PyTorch."""

TOLERANCE = 1e-3
"""Largest difference between two probabilities; rounding makes some 1e-5."""

RECIPE = (
    "Read the image as RGB and resize it to atp.size (width x height, bicubic; native: keep its own). Pass it as "
    "uint8, 0 to 255, (1, 3, height, width); the graph normalises it. Resize the probabilities to the image's own size "
    "(bilinear), then take the argmax over the classes. At another size, predictions are worse."
)


class _Graph(nn.Module):
    """The whole graph: images, uint8, (N, 3, H, W), to probabilities, float32, (N, C, H, W)."""

    def __init__(self, network: SegmentationNetwork, divisor: int) -> None:
        super().__init__()
        self.network = network
        self.divisor = divisor

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        # Padded as OwnNetwork pads, in operations that do not depend on whether a size needs it.
        rows = torch.arange(height + -height % self.divisor).clamp(max=height - 1)
        columns = torch.arange(width + -width % self.divisor).clamp(max=width - 1)
        logits = self.network(images[:, :, rows][..., columns])
        probabilities: Tensor = logits.float().softmax(1)
        return probabilities[..., :height, :width]


def export_onnx(out: Path, model: str, images: Path | None = None, *, trust: bool = False) -> str:
    """Write a model as an ONNX graph whose batch, height and width may vary, compared with PyTorch by ONNX Runtime.

    The graph computes in float32. Its metadata has the classes, the size at which the model was adapted, and how to
    get the same masks as ATP: ``RECIPE``.

    Args:
        images: a file or folder of images to compare on; None takes the test images of params.yaml, or drawn ones.
        trust: see ``atp.load_model``.

    Returns:
        One line with the largest difference.

    Raises:
        InputError: if a package is missing, the network cannot be exported, or the graph computes something else.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"{out}: ONNX needs {', '.join(missing)}, not installed: pip install {' '.join(PACKAGES)}")
    network = load_model(model, trust=trust)
    path = find_model(model)
    checkpoint = load_checkpoint(path)
    # The graph pads by itself.
    undivided = replace(checkpoint, config=checkpoint.config.model_copy(update={"divisor": 1}))
    graph = _Graph(restored(undivided, path).eval(), checkpoint.config.divisor).eval()
    files, where = _files(images)
    size = checkpoint.reading.window or checkpoint.reading.size
    taken = size or DRAWN
    # A network may compute with its size as with a number, or with the batch's: then the graph is for that size, or for
    # one image of it.
    for varying in ("size", "batch", "none"):
        any_size = varying == "size"
        try:
            program = _exported(graph, taken, varying)
            program.model.metadata_props.update(_metadata(checkpoint))
            with atomic_path(out) as temporary:
                program.save(temporary, external_data=False)
                largest, other, pixels = _compared(
                    temporary, network, _batches(files, size if any_size else taken, any_size=any_size)
                )
                if not largest <= TOLERANCE:
                    raise InputError(f"{out}: not written; on {where}, it differs from PyTorch by {largest:.1e}")
            break
        except (InputError, OSError):
            raise
        except Exception as error:  # A network's code, the exporter and ONNX Runtime may raise anything.
            failure = error
    else:
        raise InputError(f"{out}: the network cannot be exported to ONNX ({first_line(failure)})") from failure
    takes = {"size": "of any size", "batch": f"of {by(taken)} alone", "none": f"of {by(taken)} alone, one at a time"}
    return (
        f"{out}: RGB images, uint8, {takes[varying]}, to probabilities of "
        f"{network.num_classes} classes; adapted at {checkpoint.reading}; on {where}, probabilities differ from "
        f"PyTorch's by at most {largest:.1e}, and the class of {other} of {pixels} pixels"
    )


def _files(images: Path | None) -> tuple[list[Path], str]:
    """Images to compare on, none for drawn ones, and what they are."""
    if images is None and Path("params.yaml").is_file():
        tests = load_params().data.test.images
        images = tests if tests.is_dir() else None
    if images is None:
        return [], "drawn images"
    samples = evenly_spread(samples_of(images), COMPARED)
    return [sample.image for sample in samples], f"{counted(len(samples), 'image')} of {images}"


def _batches(files: Sequence[Path], size: tuple[int, int] | None, *, any_size: bool) -> list[Tensor]:
    """Images as the network reads them, and where the graph takes it, a batch of two at another size."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 3), dtype=np.uint8)
    pictures = [open_image(file) for file in files] or [
        Image.fromarray(pixels).resize(DRAWN, Image.Resampling.BICUBIC) for pixels in noise
    ]
    batches = [image_tensor(resized(picture, size))[None] for picture in pictures]
    if any_size:
        width, height = (max(32, 3 * side // 4 + 1) for side in size or pictures[0].size)
        two = [image_tensor(resized(picture, (width, height))) for picture in (pictures[0], pictures[-1])]
        batches.append(torch.stack(two))
    return batches


def _exported(graph: _Graph, size: tuple[int, int], varying: str) -> Any:
    """The graph by PyTorch's exporter.

    Args:
        size: (width, height) of the images.
        varying: what may vary: ``size``, with the batch; ``batch``; or ``none``, for one image.
    """
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    if varying == "size":
        # The exporter fails to generalise from a size that a network rounds.
        size = (-(-size[0] // COARSEST) * COARSEST, -(-size[1] // COARSEST) * COARSEST)
    # With gradients, attention is traced as another operation, which the exporter cannot always take apart.
    with torch.no_grad(), warnings.catch_warnings():
        # Of the exporter's own use of PyTorch.
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            graph,
            (torch.zeros(1 if varying == "none" else 2, 3, size[1], size[0], dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={
                "images": {"size": {0: batch, 2: height, 3: width}, "batch": {0: batch}, "none": {}}[varying]
            },
        )


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    config: NetworkConfig = checkpoint.config
    reading, space = checkpoint.reading, checkpoint.label_space
    return {
        "atp.classes": json.dumps(space.names),
        "atp.colors": json.dumps(space.colors),
        "atp.size": by(reading.size) if reading.size else "native",
        "atp.window": by(reading.window) if reading.window else "",
        "atp.normalisation": json.dumps(
            {"in the graph": True, "mean": config.mean, "std": config.std, "channels": config.channels}
        ),
        "atp.recipe": RECIPE,
    }


def _compared(file: Path, network: SegmentationNetwork, batches: Sequence[Tensor]) -> tuple[float, int, int]:
    """Largest difference between probabilities, and number of pixels with another class, of all pixels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # What fails is raised as well, and may be the graph for any size, after which another is tried.
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    largest, other, pixels = 0.0, 0, 0
    for images in batches:
        with torch.no_grad():
            expected = network(images).float().softmax(1).numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        largest = max(largest, float(np.abs(found - expected).max()))
        other += int((found.argmax(1) != expected.argmax(1)).sum())
        pixels += expected[:, 0].size
    return largest, other, pixels
