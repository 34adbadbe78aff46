"""Checks of a given source model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from atp.checks.finding import Finding
from atp.checks.images import CHECKPOINTS
from atp.checks.network import TRIAL
from atp.data.folder import Sample, evenly_spread, list_samples
from atp.data.labels import LabelSpace
from atp.data.tensors import read_image, read_label
from atp.errors import InputError, alike
from atp.evaluation.metrics import ConfusionMatrix
from atp.models.checkpoint import load_into, load_user_state
from atp.models.inspection import live_aspp_branches
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.models.own import call_factory
from atp.models.trial import classifiers
from atp.params import Params
from atp.training.prediction import Predictor
from atp.training.runtime import Runtime


def check_checkpoint(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """Check that it loads, fits, has all branches trained and, given source images, works on its own domain."""
    path = params.source.checkpoint if params.source else None
    if path is None:
        return
    config = params.network(space).model_copy(update={"weights": "none"})
    if config.factory and config.classifier is None:
        # Any label space will do to read a checkpoint.
        proposed = classifiers(call_factory(config), TRIAL[:1], config.num_scores, config.factory)
        if not proposed:
            return
        config = config.model_copy(update={"classifier": proposed[0].name})
    network = build_network(config)
    state = load_user_state(path)
    load_into(network, state, path)
    yield Finding("ok", f"{path}: fits the network in params.yaml")
    yield from branches(path, state, config)
    data = params.data
    if data.source.images.is_dir() and data.source.labels.is_dir():
        samples = evenly_spread(list_samples(data.source.images, data.source.labels), 20)
        yield from check_source_model(path, network, samples, params)
    else:
        yield Finding("ok", f"{path}: no labelled source images here, so its mIoU on the source is unknown")


def check_unused(params: Params) -> Iterator[Finding]:
    """Check for a checkpoint that nothing names while the source model is trained here."""
    if params.source is None or params.source.checkpoint is not None or not params.data.source.images.is_dir():
        return
    root = params.data.source.root
    below = [path for path in sorted(root.rglob("*")) if path.suffix in CHECKPOINTS]
    beside = [path for path in sorted(Path().iterdir()) if path.suffix in CHECKPOINTS]
    # A network's initial weights, or a file that its factory reads.
    named = {params.model.weights, *(str(value) for value in params.model.arguments.values())}
    found = [path for path in (*below, *beside) if str(path) not in named and path.is_file()]
    if found:
        where = found[0] if found[0].is_relative_to(root) else f"{root}/{found[0]}, after moving it there"
        yield Finding(
            "warning",
            f"{found[0]}: is not used, and the source model is trained; to start from it, set source.checkpoint: "
            f"{where}{alike([str(path) for path in found[1:]])}",
        )


def branches(path: Path, state: Mapping[str, Tensor], config: NetworkConfig) -> Iterator[Finding]:
    """Detect untrained ASPP branches: public code that returns inside its loop trains only two of four."""
    live = live_aspp_branches(state, config)
    if live and len(live) < len(config.aspp_dilations):
        dilations = [config.aspp_dilations[index] for index in live]
        yield Finding(
            "warning",
            f"{path}: only {len(live)} of {len(config.aspp_dilations)} ASPP branches are trained; the others add "
            f"noise; if it was trained with two branches, set model.aspp_dilations: {dilations}",
        )


def check_source_model(
    path: Path, network: SegmentationNetwork, samples: Sequence[Sample], params: Params
) -> Iterator[Finding]:
    """Check mIoU on its own domain: near chance suggests wrong normalisation, channel order or class order."""
    scores = {"straight": ConfusionMatrix(network.num_classes), "swapped": ConfusionMatrix(network.num_classes)}
    predictor = Predictor([(network, 1.0)], Runtime(torch.device("cpu")))
    for sample in tqdm(samples, desc="source model", unit="image", disable=None, leave=False):
        assert sample.label is not None
        try:
            image = read_image(sample.image, params.data.source_size)
            labels = read_label(sample.label, network.num_classes, params.data.source_size)
        except InputError:  # reported with all images
            continue
        for name, view in (("straight", image), ("swapped", image.flip(0))):
            scores[name].update(predictor.probabilities(view[None])[0].argmax(0), labels)
    miou, swapped = (100 * scores[name].mean_iou() for name in ("straight", "swapped"))
    text = f"{path}: mIoU {miou:.1f} on {len(samples)} of its own source images"
    if swapped > miou + 5:
        other = "rgb" if network.channels == "bgr" else "bgr"
        text += f", but {swapped:.1f} with red and blue swapped; set model.channels: {other}"
        yield Finding("warning", text)
    elif miou < max(15.0, 200 / network.num_classes):
        counts = scores["straight"].counts.double()
        best = float(counts.max(0).values.sum() / counts.sum().clamp_min(1))
        straight = float(counts.diagonal().sum() / counts.sum().clamp_min(1))
        order = "; its classes look permuted" if best > straight + 0.3 else ""
        yield Finding("warning", f"{text}: implausible{order}; check mean, std, channels and the order of the classes")
    else:
        yield Finding("ok", text)
