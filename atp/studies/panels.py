"""Predictions of a figure's models side by side, for the test images whose predictions the cells keep."""

import io
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from atp.data.folder import list_samples, open_image, read_ids
from atp.evaluation.metrics import ConfusionMatrix
from atp.params import Params
from atp.report import pictures
from atp.report.style import image_names

Predictions = Mapping[str, Mapping[str, bytes]]
"""PNGs of class ids, by model and image."""


def panels(params: Params, predictions: Predictions) -> bytes | None:
    """Image, ground truth and each model's prediction, for the best, the median and the worst image; PNG.

    Args:
        predictions: of the models in order, without those that there are none of; the last one ranks.

    Returns:
        None where there is no prediction of one of the test images.
    """
    test, space = params.data.test, params.data.label_space()
    known = {model: images for model, images in predictions.items() if images}
    samples = {each.name: each for each in list_samples(test.images, test.labels)}
    names = [name for name in samples if known and all(name in images for images in known.values())]
    if not names:
        return None
    ids = {name: read_ids(label, space.num_classes) for name in names if (label := samples[name].label)}
    masks = {
        model: {name: np.array(Image.open(io.BytesIO(images[name]))) for name in names}
        for model, images in known.items()
    }
    last = list(masks)[-1]
    chosen = choose({name: miou(masks[last][name], ids[name], space.num_classes) for name in names})
    rows, pixels = [], np.zeros(256, np.int64)
    for (group, name), short in zip(chosen, image_names([name for _, name in chosen]), strict=True):
        image = pictures.fitted(open_image(samples[name].image), pictures.CELL, pictures.TALLEST)
        shown = [ids[name], *(masks[model][name] for model in masks)]
        for each in shown:
            pixels += np.bincount(each.ravel(), minlength=256)
        scores = [f"mIoU {miou(masks[model][name], ids[name], space.num_classes):.1f}" for model in masks]
        drawn = [image, *(pictures.mask_picture(each, space, image.size) for each in shown)]
        rows.append(pictures.Row(group, drawn, [short, "", *scores]))
    titles = ["target image", "ground truth", *masks]
    return _png(pictures.sheet(titles, rows, pictures.legend(space, pixels)))


def choose(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The best, the median and the worst, each with what it is; of one or two images none twice."""
    order = sorted(scores, key=lambda name: (-scores[name], name))
    found = {order[0]: "best"}
    for name, group in ((order[-1], "worst"), (order[len(order) // 2], "median")):
        found.setdefault(name, group)
    return [(found[name], name) for name in order if name in found]


def miou(predicted: NDArray[np.uint8], labels: NDArray[np.uint8], num_classes: int) -> float:
    """Of one image in percent, as stage ``evaluate`` has it of all; 0 where nothing is labelled."""
    matrix = ConfusionMatrix(num_classes)
    matrix.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    return 0.0 if math.isnan(mean := matrix.mean_iou()) else 100 * mean


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
