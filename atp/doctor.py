"""``atp doctor``: what is wrong with parameters, data and checkpoint, before hours are spent on them.

Every check is a function that returns findings; one that cannot go on says why and stops nothing else.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from atp.config import Params, load_params
from atp.data.folder import Sample, check_sizes, image_size, list_samples
from atp.data.labels import LabelSpace
from atp.data.tensors import read_image, read_label
from atp.errors import InputError
from atp.files import digest
from atp.models.checkpoint import load_into, load_user_state
from atp.models.inspection import live_aspp_branches
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.metrics import ConfusionMatrix
from atp.training.prediction import Predictor
from atp.training.runtime import Runtime

BYTES_PER_PIXEL_AND_CLASS = 0.08
"""Of a half-done dump on disk: 755 kB for 1024x512 pixels and 19 classes, docs/pseudo_labels.md."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: how bad, and what is wrong where and what to do."""

    level: Literal["ok", "warning", "error"]
    text: str


def examine(path: Path, sample: int = 0) -> list[Finding]:
    """All findings about a project.

    Args:
        path: the parameter file.
        sample: images of each folder to read, evenly spread; 0 reads all.
    """
    try:
        params = load_params(path)
        space = params.data.label_space()
    except InputError as error:
        return [Finding("error", str(error))]
    findings = [Finding("ok", f"{path}: valid; {space.num_classes} classes")]
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: check_images(params, space, sample),
        lambda: check_domains(params),
        lambda: check_colours(params),
        lambda: check_checkpoint(params, space),
        lambda: check_machine(params, space),
    ]
    for check in checks:
        try:
            findings += check()
        except InputError as error:
            findings.append(Finding("error", str(error)))
    # Two checks may stumble over the same file.
    return list(dict.fromkeys(findings))


def _folders(params: Params) -> dict[str, tuple[Path, Path | None]]:
    data = params.data
    folders: dict[str, tuple[Path, Path | None]] = {}
    if params.source and (params.source.checkpoint is None or data.source.images.is_dir()):
        folders["source"] = (data.source.images, data.source.labels)
    folders["target"] = (data.target.images, data.target.labels)
    folders["test"] = (data.test.images, data.test.labels)
    return folders


def _spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    if count <= 0 or count >= len(samples):
        return samples
    return [samples[index * len(samples) // count] for index in range(count)]


def check_images(params: Params, space: LabelSpace, sample: int) -> Iterator[Finding]:
    """Missing, unreadable and mismatched files; label values; classes that never occur; sizes; odd image modes."""
    for split, (images, labels) in _folders(params).items():
        try:
            samples = list_samples(images, labels)
        except InputError as error:
            yield Finding("error", str(error))
            continue
        chosen = _spread(samples, sample)
        pixels = torch.zeros(256, dtype=torch.int64)
        sizes: set[tuple[int, int]] = set()
        modes: dict[str, Path] = {}
        errors = 0
        for one in tqdm(chosen, desc=split, unit="image", disable=None, leave=False):
            try:
                check_sizes([one])
                sizes.add(image_size(one.image))
                read_image(one.image)
                with Image.open(one.image) as file:
                    modes.setdefault(file.mode, one.image)
                if one.label:
                    pixels += torch.bincount(read_label(one.label, space.num_classes).flatten(), minlength=256)
            except InputError as error:
                errors += 1
                yield Finding("error", str(error))
        yield Finding("ok", f"{images}: {len(samples)} images, {len(chosen)} read, {errors} with errors")
        for mode in sorted(modes.keys() - {"RGB", "P", "L"}):
            yield Finding(
                "warning", f"{modes[mode]}: mode {mode} is converted to 8-bit RGB; convert it yourself to be sure"
            )
        if len(sizes) > 1 and params.data.size is None and params.data.crop is None:
            yield Finding("error", f"{images}: {len(sizes)} sizes of images; set data.size or data.crop in params.yaml")
        absent = [name for name, count in zip(space.names, pixels.tolist(), strict=False) if not count]
        if labels is not None and absent:
            yield Finding("warning", f"{labels}: classes that never occur: {', '.join(absent)}; is their order right?")


def check_domains(params: Params) -> Iterator[Finding]:
    """The same files in two places: then a figure does not mean what it seems to."""
    held: dict[str, dict[str, Path]] = {}
    for split, (images, _) in _folders(params).items():
        if images.is_dir():
            held[split] = {digest(sample.image): sample.image for sample in list_samples(images)}
    for one, other in (("source", "target"), ("source", "test"), ("target", "test")):
        both = held.get(one, {}).keys() & held.get(other, {}).keys()
        if both:
            example = held[one][min(both)]
            yield Finding("warning", f"{example}: one of {len(both)} images in both {one} and {other}; remove them")


def check_colours(params: Params) -> Iterator[Finding]:
    """Red and blue swapped in one of the domains: the source's sky is blue over its ground, the target's is red."""
    blueness: dict[str, float] = {}
    for split, (images, _) in _folders(params).items():
        if images.is_dir():
            tilts = []
            for sample in _spread(list_samples(images), 50):
                image = read_image(sample.image).float()
                blue = (image[2] - image[0]).mean(1)  # of each line
                third = max(1, len(blue) // 3)
                tilts.append(float(blue[:third].mean() - blue[-third:].mean()))
            blueness[split] = sum(tilts) / len(tilts)
    # Grey levels; a grey sky or a colour cast over the whole image stays below.
    if blueness.get("source", 0) * blueness.get("target", 0) < 0 and min(map(abs, blueness.values())) > 8:
        swapped = min(blueness, key=lambda split: blueness[split])
        yield Finding(
            "warning",
            f"{_folders(params)[swapped][0]}: the upper thirds are redder than the lower ones, elsewhere bluer; were "
            "these written as BGR (OpenCV) or the others?",
        )


def check_checkpoint(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """A given source model: loads, fits, uses all its branches, and knows its own domain where that is there."""
    path = params.source.checkpoint if params.source else None
    if path is None:
        return
    config = params.model.model_copy(update={"num_classes": space.num_classes, "weights": "none"})
    network = build_network(config)
    state = load_user_state(path)
    load_into(network, state, path)
    yield Finding("ok", f"{path}: fits the network in params.yaml")
    yield from branches(path, state, config)
    data = params.data
    if data.source.images.is_dir() and data.source.labels.is_dir():
        samples = _spread(list_samples(data.source.images, data.source.labels), 20)
        yield from check_source_model(path, network, samples, params)
    else:
        yield Finding("ok", f"{path}: no labelled source images here, so its own mIoU is not known")


def branches(path: Path, state: Mapping[str, Tensor], config: NetworkConfig) -> Iterator[Finding]:
    """Public code that returns inside its loop trains two of four ASPP branches."""
    live = live_aspp_branches(state, config)
    if live and len(live) < len(config.aspp_dilations):
        dilations = [config.aspp_dilations[index] for index in live]
        yield Finding(
            "warning",
            f"{path}: only {len(live)} of {len(config.aspp_dilations)} ASPP branches are trained, the others add "
            f"noise; if code with two branches made it, set model.aspp_dilations: {dilations}",
        )


def check_source_model(
    path: Path, network: SegmentationNetwork, samples: Sequence[Sample], params: Params
) -> Iterator[Finding]:
    """mIoU on its own domain: near chance speaks of normalisation, channel order or class order."""
    scores = {"straight": ConfusionMatrix(network.num_classes), "swapped": ConfusionMatrix(network.num_classes)}
    predictor = Predictor([(network, 1.0)], Runtime(torch.device("cpu")))
    for sample in tqdm(samples, desc="source model", unit="image", disable=None, leave=False):
        assert sample.label is not None
        image = read_image(sample.image, params.data.size)
        labels = read_label(sample.label, network.num_classes, params.data.size)
        for name, view in (("straight", image), ("swapped", image.flip(0))):
            scores[name].update(predictor.probabilities(view[None])[0].argmax(0), labels)
    miou, swapped = (100 * scores[name].mean_iou() for name in ("straight", "swapped"))
    text = f"{path}: mIoU {miou:.1f} on {len(samples)} of its own source images"
    if swapped > miou + 5:
        other = "rgb" if params.model.channels == "bgr" else "bgr"
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


def check_machine(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """Device, precision and disk."""
    device = params.runtime.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        yield Finding("error", f"params.yaml: runtime.device is {device}, but PyTorch sees no CUDA device; use auto")
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if on_cpu and params.training.precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        yield Finding(
            "warning", "params.yaml: training.precision is bf16, which this CPU only imitates; fp32 is faster"
        )
    if params.data.target.images.is_dir():
        samples = list_samples(params.data.target.images)
        width, height = params.data.size or image_size(samples[0].image)
        need = len(samples) * width * height * space.num_classes * BYTES_PER_PIXEL_AND_CLASS
        free = shutil.disk_usage(Path.cwd()).free
        level: Literal["ok", "warning"] = "warning" if free < 2 * need else "ok"
        yield Finding(
            level, f"{Path.cwd()}: {free / 1e9:.1f} GB free; a round of pseudo labels takes about {need / 1e6:.0f} MB"
        )
