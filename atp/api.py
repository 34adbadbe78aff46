"""The Python API: adapt a network to images, load an adapted model, predict with it."""

import copy
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from atp.data.folder import SUFFIXES, Sample, as_rgb, image_size, list_samples, open_image
from atp.data.labels import LabelSpace
from atp.data.loading import Images
from atp.data.prepared import Store
from atp.data.reading import Inference, Native, Reading, Size, by, check_window
from atp.errors import InputError, first_line
from atp.files import atomic_path
from atp.method.adapt import adapt as run_method
from atp.method.settings import AdaptSettings
from atp.models.checkpoint import load_checkpoint, restored
from atp.models.config import NetworkConfig
from atp.models.own import OwnNetwork, check_classifier
from atp.models.segmentation import SegmentationNetwork
from atp.models.trial import classifiers, num_scores
from atp.registry.package import check_callables, find_model, use_code_of
from atp.settings import problems
from atp.training.prediction import Predictor, predictor_of
from atp.training.runtime import Runtime, find_device, open_runtime
from atp.training.settings import RuntimeSettings, TrainingSettings

logger = logging.getLogger(__name__)

ImageLike = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""A file, a PIL image, an array uint8 (H, W, 3) or a tensor uint8 (3, H, W); RGB."""

Triple = tuple[float, float, float]

DEFAULTS = AdaptSettings()

TRIAL = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
"""The input of the trial run."""


def adapt(
    network: nn.Module,
    images: str | Path | Iterable[ImageLike],
    settings: AdaptSettings = DEFAULTS,
    *,
    classes: Sequence[str] | LabelSpace | None = None,
    classifier: str | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    channels: Literal["rgb", "bgr"] | None = None,
    divisor: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    workers: int = 0,
    folder: str | Path | None = None,
) -> SegmentationNetwork:
    """Adapt a trained segmentation network to a new domain with unlabelled images of that domain (Algorithm 1).

    The result equals that of the pipeline's stages with the same settings, bit for bit on the CPU, unless one of them
    is reverted by ``evidence.on_collapse``: here no stage is judged.

    Args:
        network: a plain module that ``wrap`` accepts, or a network from ``load_model``, ``wrap`` or ``adapt``. A copy
            is adapted; the network itself does not change.
        images: a folder, or an iterable of images, which are written as PNG to the working folder.
        settings: settings of each part of the method.
        classes, classifier, mean, std, channels, divisor: describe a plain module, see ``wrap``.
        device: ``auto`` is CUDA if available, else the CPU.
        precision: ``auto`` is bf16 where the device supports it, else fp32.
        workers: number of processes that load training images, and of threads that read and write beside the network
            when labels are dumped.
        folder: a new or empty folder for the pseudo labels; a temporary one if None. Required with several processes.

    Returns:
        The adapted network, in evaluation mode, on the device; ``.given`` is the adapted copy of a plain module, and
        ``.reading`` the size at which it was adapted and predicts.

    Raises:
        InputError: if the network, the images or the settings are invalid.
    """
    described = _described(
        classes=classes, classifier=classifier, mean=mean, std=std, channels=channels, divisor=divisor
    )
    with (
        open_runtime(TrainingSettings(precision=precision), RuntimeSettings(device=device, workers=workers)) as runtime,
        _log_shown() if runtime.is_main else nullcontext(),
        _working_folder(folder, runtime) as place,
    ):
        if not isinstance(network, SegmentationNetwork):
            network = wrap(copy.deepcopy(network).cpu(), **described)
        elif described:
            raise InputError(f"{', '.join(described)}: only for a plain module; this network is wrapped, leave it out")
        samples = samples_of(Path(images)) if isinstance(images, str | Path) else _written(images, place, runtime)
        if settings.propagate is not None and len(samples) < 2:
            raise InputError("only one image: propagate needs at least two; pass more images, or set propagate=None")
        _check_sizes(samples, settings)
        logger.info("adapt: %d images, %s on %s", len(samples), runtime.precision, runtime.device)
        store = Store(place / "prepared", runtime.prepared_mb * 2**20)
        prepared = store.images([sample.image for sample in samples], settings.size)
        target = Images(samples, settings.size, settings.crop, settings.window, prepared)
        adapted = run_method(network, target, settings, runtime, place)
        runtime.barrier()
        if runtime.is_main:
            shutil.rmtree(store.folder, ignore_errors=True)
        return adapted


def wrap(
    module: nn.Module,
    *,
    classes: Sequence[str] | LabelSpace | None = None,
    classifier: str | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    channels: Literal["rgb", "bgr"] | None = None,
    divisor: int | None = None,
    size: Size | None = None,
) -> SegmentationNetwork:
    """Wrap a module as a network that takes unnormalised images and returns logits at their size, in evaluation mode.

    Args:
        module: maps normalised images (N, 3, H, W) to logits (N, C, h, w): a tensor, a mapping with ``out``, or an
            object with ``logits``, or with ``class_queries_logits`` and ``masks_queries_logits``. It is used, not
            copied.
        classes: names in the order of their ids, or a label space; if None, numbers for as many as a trial run finds.
        classifier: dotted name of the submodule that turns features into logits, which align freezes; if None, the
            smallest submodule that computes all logits, found by a trial run.
        mean, std: normalisation of R, G, B on the scale 0 to 1; ImageNet's if None.
        channels: channel order of the module's input; ``rgb`` if None.
        divisor: images are padded to multiples of this many pixels; U-Nets often need 32.
        size: (width, height) at which it was trained or adapted, and at which it predicts; each image's own if None.

    Raises:
        InputError: if the module returns something else, or a trial run cannot find what was not given.
    """
    # Modules that transformers loads from its hub have names with a hyphen.
    name = re.sub(r"[^\w.]", "_", type(module).__module__) + f":{type(module).__name__}"
    space = classes if classes is None or isinstance(classes, LabelSpace) else LabelSpace.named(classes)
    if space is None or classifier is None:
        count, found = _tried(module, name)
        space = LabelSpace.numbered(count) if space is None else space
        if space.num_classes != count:
            raise InputError(f"{name}: has {count} classes, but classes lists {space.num_classes}; correct classes")
        if classifier is None and found is None:
            children = ", ".join(child for child, _ in module.named_children())
            raise InputError(f"{name}: no single submodule computes all logits; set classifier, one of: {children}")
        if classifier is None:
            classifier = found
            logger.info("%s: the classifier is %s", name, classifier)
    described = _described(mean=mean, std=std, channels=channels, divisor=divisor)
    try:
        config = NetworkConfig(factory=name, classifier=classifier, num_classes=space.num_classes, **described)
    except ValidationError as error:
        raise InputError(*problems(error, NetworkConfig)) from error
    check_classifier(module, config)
    network = OwnNetwork(module, config)
    network.label_space, network.reading = space, Reading(size)
    return network.eval()


def load_model(model: str | Path, *, trust: bool = False) -> SegmentationNetwork:
    """Load a model from the pipeline, in evaluation mode on the CPU.

    ``.label_space`` holds its classes, and ``.reading`` the size at which it was adapted and predicts.

    Args:
        model: a stage's folder such as ``runs/propagate``, a model.safetensors, or ``models:/NAME@ALIAS``.
        trust: call the network factory named in the file even if params.yaml does not name it, or if the model and its
            code come from a registry that ``ATP_TRUSTED_REGISTRIES`` does not name.

    Raises:
        InputError: if the model does not exist, or its factory may not be called.
    """
    path = find_model(str(model))
    checkpoint = load_checkpoint(path)
    if ":/" in str(model):
        # Models in the registry always come with their code.
        use_code_of(path, checkpoint.config, trust=trust)
    elif not trust:
        check_callables(checkpoint.config, path)
    return restored(checkpoint, path).eval()


def predict(
    network: SegmentationNetwork,
    images: str | Path | Iterable[ImageLike],
    *,
    size: Size | Native | None = None,
    inference: Inference | None = None,
    device: str = "auto",
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Predict the class of every pixel, one image at a time.

    An image is resized to the size at which the network was adapted, and the probabilities back to the image's own.
    The network computes in the precision in which it was adapted if the device supports it.

    Args:
        network: from ``adapt``, ``load_model`` or ``wrap``; moves to the device.
        images: a folder, one file, or an iterable of images.
        size: (width, height) to which images are resized for the network, or ``native``, each image's own; None is the
            size at which it was adapted, or each image's own if that is not known.
        inference: ``whole``, or ``sliding`` to read images at ``size`` in overlapping windows of the size at which the
            network was adapted and blend the probabilities; None is as it was adapted: see ``AdaptSettings.window``.

    Yields:
        Name, and class ids at the image's original size, (H, W). Names are paths below the folder without suffix; for
        an iterable, numbers such as ``000000``.

    Raises:
        InputError: if the images or the device do not exist, or the size is invalid; for an image that is unreadable or
            smaller than the windows once it is reached.
    """
    if not isinstance(network, SegmentationNetwork):
        raise InputError(f"predict: {type(network).__name__} is a plain module; pass atp.wrap(module) instead")
    reading = network.reading.changed(size, inference)
    predictor = predictor_of(network, find_device(device, setting="device"), reading.window)
    if isinstance(images, str | Path):
        named: Iterable[tuple[str, ImageLike]] = ((each.name, each.image) for each in samples_of(Path(images)))
    else:
        named = _numbered(images)
    return ((name, _predicted(predictor, opened(item, name), reading.size, name)) for name, item in named)


def _predicted(predictor: Predictor, image: Image.Image, size: Size | None, name: str) -> NDArray[np.uint8]:
    check_window(predictor.window, size or image.size, f"image {name}, {by(size or image.size)}")
    ids: NDArray[np.uint8] = predictor.image(image, size).argmax(0).to("cpu", torch.uint8).numpy()
    return ids


def opened(item: ImageLike, name: str) -> Image.Image:
    """Open an image given in any supported form, as RGB.

    Raises:
        InputError: if the form is not supported, or the file cannot be read.
    """
    if isinstance(item, str | Path):
        return open_image(Path(item))
    if isinstance(item, Image.Image):
        return as_rgb(item, name)
    array: object = item
    if isinstance(item, Tensor):
        array = item.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    if isinstance(array, np.ndarray):
        if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
            return Image.fromarray(np.ascontiguousarray(array))
        what = f"{type(item).__name__} {item.dtype} {tuple(item.shape)}"
    else:
        what = type(item).__name__
    raise InputError(f"image {name}: {what}; pass a file, a PIL image, an array uint8 (H, W, 3), or a tensor (3, H, W)")


def _check_sizes(samples: Sequence[Sample], settings: AdaptSettings) -> None:
    """Say at once what a batch would say after the preparations.

    Raises:
        InputError: the images differ in size, and batches of them need one.
    """
    trained = [part for part in (settings.align, settings.teach, settings.propagate) if part is not None]
    if settings.size or settings.crop or all(part.batch_size == 1 for part in trained):
        return
    sizes = sorted({image_size(sample.image) for sample in samples})
    if len(sizes) > 1:
        told = ", ".join(by(size) for size in sizes[:3])
        raise InputError(
            f"the images have {len(sizes)} sizes ({told}{', ...' if len(sizes) > 3 else ''}); set size, as in "
            "AdaptSettings(size=(1024, 512)), or crop"
        )


def _numbered(images: Iterable[ImageLike]) -> Iterator[tuple[str, ImageLike]]:
    if not isinstance(images, Iterable):
        raise InputError(f"images: {type(images).__name__}; pass a folder, or an iterable of images")
    return ((f"{number:06}", item) for number, item in enumerate(images))


def samples_of(path: Path) -> list[Sample]:
    """List all images below a folder, or a single file."""
    if path.is_dir():
        return list_samples(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder of images")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: not an image file; supported suffixes: {', '.join(sorted(SUFFIXES))}")
    return [Sample(path.stem, path, None)]


def _written(images: Iterable[ImageLike], place: Path, runtime: Runtime) -> list[Sample]:
    """Write images to disk without loss, since every part of the method reads them many times."""
    if runtime.is_main:
        for name, item in _numbered(images):
            with atomic_path(place / "images" / f"{name}.png") as temporary:
                opened(item, name).save(temporary, compress_level=1)
        if not (place / "images").exists():
            raise InputError("images: empty; pass at least one image")
    runtime.barrier()
    return list_samples(place / "images")


@contextmanager
def _working_folder(folder: str | Path | None, runtime: Runtime) -> Iterator[Path]:
    if folder is None and runtime.world_size > 1:
        raise InputError("several processes must share a folder for the pseudo labels; pass folder to adapt")
    with tempfile.TemporaryDirectory(prefix="atp-") if folder is None else nullcontext(folder) as name:
        place = Path(name)
        if runtime.is_main:
            place.mkdir(parents=True, exist_ok=True)
            if any(place.iterdir()):
                raise InputError(f"{place}: not empty; pass a new folder to adapt")
        runtime.barrier()
        yield place


@contextmanager
def _log_shown() -> Iterator[None]:
    """Show progress on stderr if logging is not configured; by default, Python shows warnings only."""
    ours = logging.getLogger("atp")
    if ours.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), ours.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


def _tried(module: nn.Module, name: str) -> tuple[int, str | None]:
    """Number of classes of a module, and the name of the smallest submodule that computes all logits."""
    first = next(module.parameters(), TRIAL)
    try:
        image = TRIAL.to(first.device)
        count = num_scores(module, image, name)
        found = classifiers(module, image, count, name)
    except InputError:
        raise
    except Exception as error:  # A user's code may raise anything.
        raise InputError(
            f"{name}: the trial run on a 64x64 image fails ({first_line(error)}); set classes and classifier to skip it"
        ) from error
    return count, found[0].name if found else None


def _described(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
