"""Segmentation models in the folders that transformers writes: config.json, preprocessor_config.json, safetensors.

transformers is imported when such a folder is read, and only its own classes are used: no code that a folder brings
along, no pickle, and no connection except in ``brought``.
"""

import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atp.errors import InputError, first_line

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROCESSOR = "preprocessor_config.json"
FILES = (CONFIG, PROCESSOR, "*.safetensors", "*.safetensors.index.json")

SEGMENTS = ("ForSemanticSegmentation", "ForUniversalSegmentation", "ForInstanceSegmentation")
"""Endings of the classes whose outputs are class scores of pixels or of masks."""

NOT_ARGUMENTS = (
    *("architectures", "model_type", "transformers_version", "_name_or_path", "_commit_hash", "auto_map"),
    *("dtype", "torch_dtype", "id2label", "label2id", "num_labels"),
)
"""Entries of config.json that describe the file, or that ``num_labels`` replaces."""


@dataclass(frozen=True)
class Described:
    """A model as its folder describes it.

    Attributes:
        factory: class that builds the network, ``package.module:callable``.
        arguments: its arguments, without the folder's weights.
        classes: names by id, in config.json's order; None if it states only their number.
        num_classes: their number.
        settings: normalisation, channel order and divisor, as ``NetworkConfig`` has them.
        image_size: (width, height) for which the network was made, if its configuration states one.
        size: (width, height) to which images were resized, if both are stated.
        shorter_side: of the resized images, if only this is stated.
        notes: what had to be assumed, one line each.
    """

    factory: str
    arguments: dict[str, Any]
    classes: tuple[str, ...] | None
    num_classes: int
    settings: dict[str, Any]
    image_size: tuple[int, int] | None
    size: tuple[int, int] | None = None
    shorter_side: int | None = None
    notes: tuple[str, ...] = ()


def is_model(folder: Path) -> bool:
    """Whether a folder contains a model of transformers."""
    return (folder / CONFIG).is_file()


def described(folder: Path) -> Described:
    """Read a folder's configuration, and how its image processor prepares images.

    Raises:
        InputError: if transformers is not installed, cannot read the folder or does not have the model, or the model
            does not segment images.
    """
    transformers = _transformers(folder)
    config = _config(folder)
    model, settings = _classes(folder, config, transformers)
    names = _label_names(config)
    arguments = _arguments(config)
    try:
        built = settings(**arguments)
    except Exception as error:  # It may raise anything for values of another version.
        raise InputError(f"{folder / CONFIG}: not accepted by transformers ({first_line(error)})") from error
    patch = getattr(built, "patch_size", None)
    divisor = patch if isinstance(patch, int) else 1
    values, size, notes = _processing(folder, transformers)
    whole = "width" in size
    return Described(
        factory=f"transformers:{model.__name__}",
        arguments={"config": {"factory": f"transformers:{settings.__name__}", "arguments": arguments}},
        classes=None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else _unique(names),
        num_classes=len(names),
        settings={"divisor": divisor, **values},
        image_size=_sides(getattr(built, "image_size", None)),
        size=(size["width"], size["height"]) if whole else None,
        shorter_side=None if whole else size.get("shortest_edge"),
        notes=notes,
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; pass one with {CONFIG} and model.safetensors")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: contains no {CONFIG}; pass a folder that save_pretrained wrote") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a JSON file ({first_line(error)}); copy it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object; copy it again")
    return found


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the configuration's class."""
    arguments = _without_downloads({key: value for key, value in config.items() if key not in NOT_ARGUMENTS})
    return arguments | {"num_labels": len(_label_names(config))}


def _label_names(config: Mapping[str, Any]) -> list[str]:
    """Names by id; LABEL_0, LABEL_1, ..., as in transformers, if only the number is stated."""
    named = config.get("id2label")
    if isinstance(named, dict):
        return [str(name) for _, name in sorted(named.items(), key=lambda item: int(item[0]))]
    return [f"LABEL_{index}" for index in range(int(config.get("num_labels", 2)))]


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Distinguish equal names by their id."""
    return tuple(name if names.index(name) == index else f"{name} {index}" for index, name in enumerate(names))


def _classes(folder: Path, config: Mapping[str, Any], transformers: Any) -> tuple[Any, Any]:
    """The classes of transformers for the network and its configuration."""
    if config.get("auto_map"):
        raise InputError(
            f"{folder / CONFIG}: the model has code of its own, which ATP does not run; import that code yourself and "
            "name the network package.module:callable"
        )
    kind, names = config.get("model_type"), config.get("architectures") or []
    # Its get() does not import what its [] does.
    settings = transformers.CONFIG_MAPPING[kind] if kind in transformers.CONFIG_MAPPING else None  # noqa: SIM401
    model = getattr(transformers, str(names[0]), None) if names else None
    if settings is None or model is None:
        raise InputError(
            f"{folder / CONFIG}: transformers {transformers.__version__} has no model_type {kind} with architectures "
            f"{names}; update transformers, or pass another folder"
        )
    needed = [
        name
        for name, parameter in list(inspect.signature(model.forward).parameters.items())[2:]
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if not model.__name__.endswith(SEGMENTS) or needed:
        why = f"also takes {', '.join(needed)}" if needed else "does not assign classes to pixels or masks"
        raise InputError(
            f"{folder / CONFIG}: {model.__name__} {why}; pass a model such as SegformerForSemanticSegmentation or "
            "Mask2FormerForUniversalSegmentation"
        )
    return model, settings


def _processing(folder: Path, transformers: Any) -> tuple[dict[str, Any], dict[str, int], tuple[str, ...]]:
    """How images are prepared: settings of ``NetworkConfig``, sides of the resized image, and notes."""
    if not (folder / PROCESSOR).is_file():
        return {}, {}, (f"{folder}: contains no {PROCESSOR}: ImageNet's mean and std are assumed",)
    try:
        # By its own class, which knows the defaults of what is not stated.
        found = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except Exception as error:  # It may raise anything for values of another version.
        raise InputError(
            f"{folder / PROCESSOR}: cannot be read by transformers ({first_line(error)}); correct it, or remove it and "
            "set model.mean and model.std"
        ) from error
    # The network's input is (factor * image - mean) / std of an image from 0 to 255.
    scale = 255 * (found.rescale_factor if found.do_rescale else 1.0)
    normalises = getattr(found, "do_normalize", False)
    mean = [value / scale for value in found.image_mean] if normalises else [0.0] * 3
    std = [value / scale for value in found.image_std] if normalises else [1 / scale] * 3
    values: dict[str, Any] = {"mean": mean, "std": std}
    if getattr(found, "do_flip_channel_order", False):
        values |= {"channels": "bgr", "mean": mean[::-1], "std": std[::-1]}
    if divisor := getattr(found, "size_divisor", None):
        values["divisor"] = divisor
    size = found.size if found.do_resize and found.size else {}
    sides = {name: int(size[name]) for name in ("width", "height", "shortest_edge") if size.get(name)}
    return values, sides, ()


def _sides(size: object) -> tuple[int, int] | None:
    """(width, height) of a size as configurations have it: one number, or height and width."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[1]), int(size[0])
    return None


def _without_downloads(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with ``use_pretrained_backbone``, which fetches weights at every call, switched off."""
    made = {key: _without_downloads(value) if isinstance(value, dict) else value for key, value in values.items()}
    return made | ({"use_pretrained_backbone": False} if made.get("use_pretrained_backbone") else {})


def check_weights(folder: Path) -> None:
    """Check that a folder has weights that are not pickled.

    Raises:
        InputError: if it has none.
    """
    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder}: contains no model.safetensors; ATP reads no pickled weights: load the model yourself and call "
            f"model.save_pretrained({str(folder)!r})"
        )


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Load the weights of a folder as a state dict of its class, in float32 on the CPU.

    transformers itself reads them, since it renames those that earlier versions wrote, and joins several files.

    Raises:
        InputError: if there are none as safetensors, or they do not fit the folder's config.json.
    """
    check_weights(folder)
    transformers = _transformers(folder)
    config = _config(folder)
    model_class, settings = _classes(folder, config, transformers)
    arguments = _arguments(config)
    with _quiet(transformers):
        try:
            model, found = model_class.from_pretrained(
                folder,
                config=settings(**arguments),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:  # transformers and safetensors may raise anything for a broken file.
            raise InputError(
                f"{folder}: its weights cannot be loaded ({first_line(error)}); copy them again"
            ) from error
    wrong = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if wrong:
        raise InputError(
            f"{folder}: its weights do not fit its {CONFIG}: {len(wrong)} tensors are missing or of another shape, "
            f"such as {wrong[0]}; copy both from the same model"
        )
    state: dict[str, Tensor] = model.state_dict()
    return state


def brought(model: Path, into: Path) -> Path:
    """Copy a model's files into a folder of ``into``, or download them if it is no folder but in the hub.

    Args:
        model: a folder, or a name in the Hugging Face hub, ``ORGANISATION/MODEL``.

    Raises:
        InputError: if there is no such model, there is no connection, or another model is in the way.
    """
    target = into / model.resolve().name
    if not model.is_dir():
        return target if is_model(target) else _fetched(model.as_posix(), target)
    _config(model)
    if target.resolve() == model.resolve():
        return model
    if target.exists():
        if is_model(target) and (target / CONFIG).read_bytes() == (model / CONFIG).read_bytes():
            return target
        raise InputError(f"{target}: is not a copy of {model}; rename one of them")
    with _new_folder(target) as temporary:
        for path in (path for pattern in FILES for path in model.glob(pattern)):
            shutil.copyfile(path, temporary / path.name)
    return target


def _fetched(repository: str, target: Path) -> Path:
    """Download a model of the hub, without pickled files and code."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"network hf:{repository}: no such folder")
    _transformers(Path(repository))
    hub = import_module("huggingface_hub")
    with _new_folder(target) as temporary:
        try:
            hub.snapshot_download(repository, local_dir=temporary, allow_patterns=list(FILES))
        except Exception as error:  # The client passes on those of several libraries.
            raise InputError(
                f"network hf:{repository}: no such folder, and no connection to the Hugging Face hub, or no such model "
                f"there ({first_line(error)})"
            ) from error
        shutil.rmtree(temporary / ".cache", ignore_errors=True)
        if not is_model(temporary):
            raise InputError(f"network hf:{repository}: contains no {CONFIG}; name a model of transformers")
    return target


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, renamed to ``path`` on success and deleted on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        made = Path(temporary) / path.name
        made.mkdir()
        yield made
        made.rename(path)


def _transformers(folder: Path) -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise InputError(f"network hf:{folder}: transformers is not installed; pip install transformers") from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bars and its report of loaded weights, which is checked here."""
    logging = transformers.utils.logging
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
