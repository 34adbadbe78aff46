"""Networks named in one line: what a name stands for, and what it brings along."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch import nn

from atp.data.labels import LabelSpace
from atp.errors import InputError, first_line
from atp.models import hugging_face
from atp.models.checkpoint import load_into, load_user_state
from atp.models.config import HF, NetworkConfig, hf_folder
from atp.models.network import SegmentationNetwork, build_network
from atp.models.own import call_factory, import_callable
from atp.models.trial import classifiers, num_scores
from atp.settings import problems

LIBRARIES = {
    "torchvision": ("torchvision.models.segmentation", "torchvision"),
    "smp": ("segmentation_models_pytorch", "segmentation-models-pytorch"),
}
"""Module and package of the libraries whose networks have short names."""

COUNTS = ("num_classes", "classes", "n_classes", "num_labels")
"""Names that arguments for the number of classes commonly have."""

NO_WEIGHTS = ("weights", "weights_backbone", "encoder_weights")
"""Arguments of these libraries that download weights unless they are null."""

AUXILIARY = "aux_classifier."
"""Prefix of the names of torchvision's auxiliary classifiers, which only ``aux_loss`` builds."""

PROBED = 7
"""A number of classes to try a network with; few of a network's layers have as many channels."""

TRIAL = (64, 128)
"""Height and width of the image of a trial run: not square, since some networks assume that images are."""


@dataclass(frozen=True)
class NamedNetwork:
    """What the name of a network brings along, for params.yaml.

    Attributes:
        model: section ``model``.
        checkpoint: for ``source.checkpoint``.
        num_classes: number of the network's classes; None if only training would decide it.
        classes: their names by id, if known.
        size: (width, height) at which it was trained, if stated.
        shorter_side: the images' shorter side at which it was trained, if only this is stated.
        notes: what had to be assumed, one line each.
    """

    model: dict[str, Any]
    checkpoint: Path | None
    num_classes: int | None
    classes: tuple[str, ...] | None
    size: tuple[int, int] | None
    shorter_side: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Meaning:
    """What a name stands for.

    Attributes:
        factory, arguments: as ``NetworkConfig`` has them.
        count: the argument that sets the number of classes; None if it is set, or there is none.
        about: description in the folder of a model of transformers.
    """

    factory: str
    arguments: dict[str, Any]
    count: str | None = None
    about: hugging_face.Described | None = None

    def config(self, num_classes: int, **settings: Any) -> NetworkConfig:
        """Configuration of the network, with the settings that the name brings along where they are not given."""
        arguments = self.arguments | ({self.count: num_classes} if self.count else {})
        brought = self.about.settings if self.about else {}
        values = {"num_classes": num_classes, **brought, **settings, "factory": self.factory, "arguments": arguments}
        try:
            return NetworkConfig(**values)
        except ValidationError as error:
            raise InputError(*problems(error, NetworkConfig)) from error


@dataclass(frozen=True)
class _Tried:
    """What a trial run found.

    Attributes:
        num_classes: number of the network's classes.
        classifier: the smallest submodule that computes all scores; None if there is none.
        divisor: images are padded to multiples of it; None if the network does not say.
        input_size: (width, height) of the only images that it takes; None if it takes others too.
    """

    num_classes: int
    classifier: str | None
    divisor: int | None
    input_size: tuple[int, int] | None


def named_network(name: str, checkpoint: Path | None = None, *, into: Path | None = None) -> NamedNetwork:
    """Find out what a network's name brings along, by reading its files and a trial run.

    Args:
        name: see ``NetworkConfig.network``; after ``hf:`` also a model of the Hugging Face hub.
        checkpoint: file with the source model's weights; for ``hf:``, the folder's if None.
        into: folder to which the files of a model of transformers are copied or downloaded; None reads them in place.

    Raises:
        InputError: if the name is unknown, its package is not installed, the network cannot be built, the checkpoint
            is another network's, or there is no connection to the hub.
    """
    if (folder := hf_folder(name)) is not None:
        if into is not None:
            folder = hugging_face.brought(folder, into)
        name = f"{HF}{folder}"
    meaning = _meaning(name, {})
    about = meaning.about
    if folder is not None and checkpoint is None:
        hugging_face.check_weights(folder)
        checkpoint = folder
    state = {} if checkpoint is None or about else load_user_state(checkpoint)
    added = {"aux_loss": True} if any(key.startswith(AUXILIARY) for key in state) else {}
    meaning = _meaning(name, added) if added else meaning
    config = meaning.config(about.num_classes if about else PROBED)
    tried = _tried(name, config, about)
    rows = [len(value) for key, value in state.items() if key.startswith(f"{tried.classifier}.") and value.ndim]
    if state and not rows:
        raise InputError(
            f"{checkpoint}: contains no {tried.classifier}, where {name} computes the scores: another network"
        )
    # The classifier's last tensor has a row for each class.
    if rows and meaning.count is None and rows[-1] != tried.num_classes:
        raise InputError(
            f"{checkpoint}: {rows[-1]} classes, but {name} builds a network of {tried.num_classes}; name the number, "
            f"as in ?num_classes={rows[-1]}"
        )
    known = rows[-1] if rows else None if meaning.count else tried.num_classes
    found = {
        "network": name,
        "arguments": added,
        "classifier": tried.classifier,
        "mean": list(config.mean),
        "std": list(config.std),
        "channels": config.channels,
        "divisor": tried.divisor or config.divisor,
        "input_size": tried.input_size and list(tried.input_size),
    }
    always = ("mean", "std")
    model = {key: value for key, value in found.items() if key in always or value != _default(key)}
    return NamedNetwork(
        model=model,
        checkpoint=checkpoint,
        num_classes=known,
        classes=about.classes if about else None,
        size=tried.input_size or (about.size if about else None),
        shorter_side=about.shorter_side if about else None,
        notes=about.notes if about else (),
    )


def _default(setting: str) -> Any:
    return NetworkConfig.model_fields[setting].default


def load_named(found: NamedNetwork) -> tuple[SegmentationNetwork, NetworkConfig]:
    """Build the network with its weights and classes, in evaluation mode on the CPU.

    Raises:
        InputError: if its weights are missing or do not fit, or its number of classes is unknown.
    """
    if found.checkpoint is None or found.num_classes is None:
        raise InputError(f"network {found.model['network']}: has no weights; pass a checkpoint")
    space = LabelSpace.named(found.classes) if found.classes else LabelSpace.numbered(found.num_classes)
    config = completed(NetworkConfig(**found.model, num_classes=space.num_classes))
    network = build_network(config)
    load_into(network, load_user_state(found.checkpoint), found.checkpoint)
    network.label_space = space
    return network.eval(), config


def completed(config: NetworkConfig) -> NetworkConfig:
    """Replace a network's name by its factory and arguments, and fill in what the section ``model`` does not set.

    The result no longer needs what the name refers to, such as a folder, so a model file can contain it.

    Args:
        config: with the number of classes.

    Raises:
        InputError: see ``named_network``; or if the network has another number of classes.
    """
    if config.network is None:
        return config
    name = config.network
    meaning = _meaning(name, config.arguments)
    about = meaning.about
    if about and about.num_classes != config.num_scores:
        where = "the data" if config.class_map is None else "data.class_map"
        raise InputError(
            f"network {name}: has {about.num_classes} classes, and {where} {config.num_scores}; list its classes, in "
            "its order, in data.classes, or map them with data.class_map"
        )
    given = config.model_dump(exclude_unset=True, exclude_none=True, exclude={"network", "num_classes"})
    full = meaning.config(config.num_scores, **given).model_copy(update={"num_classes": config.num_classes})
    tried = _tried(name, full, about)
    found = {"classifier": tried.classifier, "divisor": tried.divisor, "input_size": tried.input_size}
    update = {key: value for key, value in found.items() if value is not None and key not in given}
    return full.model_copy(update=update)


def callables(config: NetworkConfig) -> tuple[str, ...]:
    """All callables needed to build the network, also if it is only named."""
    return (
        config.callables if config.network is None else _meaning(config.network, config.arguments).config(1).callables
    )


def _meaning(name: str, arguments: Mapping[str, Any]) -> _Meaning:
    address, _, query = name.partition("?")
    values = {**_parsed(name, query), **arguments}
    if (folder := hf_folder(name)) is not None:
        if values:
            raise InputError(f"network {name}: takes no arguments; its folder's config.json has them")
        about = hugging_face.described(folder)
        return _Meaning(about.factory, about.arguments, about=about)
    kind, _, rest = address.partition(":")
    if kind in LIBRARIES and rest:
        address = f"{_library(name, kind)}:{rest}"
    elif not re.fullmatch(r"\w+(\.\w+)*:\w+", address):
        raise InputError(
            f"network {name}: unknown; name it hf:FOLDER, torchvision:deeplabv3_resnet50, "
            "smp:Unet?encoder_name=resnet18 or package.module:callable"
        )
    parameters = _parameters(import_callable(address, "network"))
    if kind in LIBRARIES:
        values = {key: None for key in NO_WEIGHTS if key in parameters} | values
    count = None if set(COUNTS) & set(values) else next((key for key in COUNTS if key in parameters), None)
    return _Meaning(address, values, count)


def _parsed(name: str, query: str) -> dict[str, Any]:
    """Arguments after the question mark, with values as in YAML."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        return {key: YAML(typ="safe").load(value) for key, value in pairs}
    except (ValueError, YAMLError) as error:
        raise InputError(f"network {name}: {query} is not of the form argument=value&argument=value") from error


def _library(name: str, kind: str) -> str:
    module, package = LIBRARIES[kind]
    try:
        import_module(module)
    except ImportError as error:
        raise InputError(f"network {name}: {package} is not installed; pip install {package}") from error
    return module


def _parameters(factory: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # It has none, as some compiled callables.
        return {}


def _tried(name: str, config: NetworkConfig, about: hugging_face.Described | None) -> _Tried:
    """Build the network with random weights, without an effect on PyTorch's generator, and run it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = call_factory(config)
        # As segmentation_models_pytorch's say it.
        divides = getattr(model, "requires_divisible_input_shape", False)
        divisor = getattr(model.encoder, "output_stride", None) if divides else None
        only = about.image_size if about else None
        step = divisor or config.divisor
        usual = tuple(side + -side % step for side in TRIAL)
        try:
            count, classifier = _run(model, config, usual)
            only = None
        except InputError:
            raise
        except Exception as error:  # A user's code may raise anything.
            if only is None:
                raise InputError(
                    f"network {name}: a trial run on a {usual[1]}x{usual[0]} image fails ({first_line(error)})"
                ) from error
            count, classifier = _run(model, config, only[::-1])
    if classifier is None and config.classifier is None:
        children = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"network {name}: no single submodule computes all scores; set model.classifier: {children}")
    return _Tried(count, classifier, divisor, only)


def _run(model: nn.Module, config: NetworkConfig, size: tuple[int, ...]) -> tuple[int, str | None]:
    image = torch.rand(1, 3, *size)
    count = num_scores(model, image, str(config.factory))
    found = classifiers(model, image, count, str(config.factory))
    return count, found[0].name if found else None
