"""Predictions of a figure's models side by side, for the test images with stored predictions."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atp.data.folder import list_samples, read_ids
from atp.params import Params
from atp.report.pictures import Example, chosen, sheet
from atp.report.results import known

Predictions = Mapping[str, Mapping[str, bytes]]
"""PNGs of class ids, by model and image."""


def panels(params: Params, predictions: Predictions) -> bytes | None:
    """Image, ground truth and each model's prediction, for the best, the median and the worst image; PNG.

    Args:
        predictions: by model, in order, without missing ones; images are ranked by the last model.

    Returns:
        None if no labelled test image has predictions of all models.
    """
    test, space = params.data.test, params.data.label_space()
    models = {model: images for model, images in predictions.items() if images}
    samples = {each.name: each for each in list_samples(test.images, test.labels)}
    truth = {
        name: read_ids(sample.label, space.num_classes)
        for name, sample in samples.items()
        if sample.label and models and all(name in images for images in models.values())
    }
    rows, scores = {}, {}
    for name, label in truth.items():
        masks = {"ground truth": (label, "")}
        for model, images in models.items():
            ids = np.array(Image.open(io.BytesIO(images[name])))
            # After the loop, those of the last model.
            scores[name] = _miou(ids, label, space.num_classes)
            masks[model] = (ids, f"mIoU {scores[name]:.1f}")
        rows[name] = masks
    shown = chosen(known(scores), 1, ("best", "median", "worst"))
    if not shown:
        return None
    buffer = io.BytesIO()
    sheet([Example(group, name, samples[name].image, rows[name]) for group, name in shown], space).save(buffer, "PNG")
    return buffer.getvalue()


def _miou(predicted: NDArray[np.uint8], labels: NDArray[np.uint8], num_classes: int) -> float:
    """mIoU of one image in percent, as in the stage ``evaluate``."""
    # Imported here, since PyTorch is slow to import and other tables do not need it.
    import torch

    from atp.evaluation.metrics import ConfusionMatrix

    confusion = ConfusionMatrix(num_classes)
    confusion.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    return 100 * confusion.mean_iou()
