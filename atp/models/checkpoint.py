"""Checkpoints: weights with their network's configuration, classes, image size and origin; read without unpickling.

Their metadata hold a SHA-256 of everything else in the file, since safetensors has none.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atp.data.labels import LabelSpace
from atp.data.reading import Reading
from atp.errors import InputError
from atp.files import atomic_path
from atp.models.layouts import is_public_deeplab, to_our_names
from atp.models.network import DeepLabV2, NetworkConfig, SegmentationNetwork, build_network
from atp.models.state import copy_state, load_user_state

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_into",
    "load_user_state",
    "network_from_checkpoint",
    "restored",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

DIGEST = "sha256"
"""The digest's name in the metadata."""


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Attributes:
        config: configuration of the network.
        label_space: its classes.
        state: its state dict, on the CPU.
        made_by: origin, as recorded by the writer: stage, fingerprint, precision, version.
        reading: size at which it was trained or adapted, and how it predicts; each image's own size in files that do
            not state it.
    """

    config: NetworkConfig
    label_space: LabelSpace
    state: dict[str, Tensor]
    made_by: dict[str, Any]
    reading: Reading = field(default_factory=Reading)


def save_checkpoint(
    path: Path,
    network: SegmentationNetwork,
    config: NetworkConfig,
    label_space: LabelSpace,
    made_by: Mapping[str, Any],
) -> None:
    """Write a safetensors file atomically, with ``network.reading``; equal contents give equal bytes."""
    # Contiguous copies, because safetensors supports neither shared tensors nor channels-last.
    given = network.given.state_dict()
    state = {key: value.cpu().clone(memory_format=torch.contiguous_format) for key, value in given.items()}
    metadata = {
        "format": "atp",
        "network": config.model_dump_json(),
        "classes": json.dumps(asdict(label_space), sort_keys=True),
        "made_by": json.dumps(dict(made_by), sort_keys=True),
        "reading": json.dumps(asdict(network.reading), sort_keys=True),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(_sealed(save(state, metadata)))


def _sealed(blob: bytes) -> bytes:
    """Add the digest to a safetensors file, and sort its header, whose writer stores metadata in random order."""
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:end])
    digest = _digest(header, hashlib.sha256(memoryview(blob)[end:]))
    header["__metadata__"] = dict(sorted({**header["__metadata__"], DIGEST: digest}.items()))
    text = _as_text(header)
    # The format pads with spaces, so that the tensors start at a multiple of 8.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + memoryview(blob)[end:]


def _as_text(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def _digest(header: Mapping[str, Any], digest: "hashlib._Hash") -> str:
    """The digest of a file.

    Args:
        header: of the file; the digest in it does not count, nor does the order of the metadata.
        digest: of the tensors.
    """
    metadata = {name: text for name, text in sorted(header["__metadata__"].items()) if name != DIGEST}
    digest.update(_as_text({**header, "__metadata__": metadata}))
    return digest.hexdigest()


def _is_damaged(path: Path, stated: str) -> bool:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return _digest(header, hashlib.file_digest(file, "sha256")) != stated


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file written by ``save_checkpoint``.

    Raises:
        InputError: if the file does not exist, is incomplete or damaged, or was not written by ATP.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage that writes it") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}); create it again") from error
    if metadata.get("format") != "atp":
        raise InputError(f"{path}: not written by ATP; pass a model of one of its stages")
    # Earlier versions wrote none.
    if DIGEST in metadata and _is_damaged(path, metadata[DIGEST]):
        raise InputError(f"{path}: damaged, it has changed since it was written; fetch or make it again")
    try:
        config = NetworkConfig.model_validate_json(metadata["network"])
        return Checkpoint(
            config=config,
            label_space=_label_space(json.loads(metadata["classes"]), config),
            state=state,
            made_by=json.loads(metadata["made_by"]),
            reading=_reading(metadata),
        )
    except (InputError, KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise InputError(f"{path}: written by another version of ATP; create it again with this one") from error


def _label_space(classes: Mapping[str, Any], config: NetworkConfig) -> LabelSpace:
    """The classes in a file's metadata.

    Raises:
        ValueError: they are not those of its network, or no names and colours.
    """
    names, colors = tuple(classes["names"]), tuple((red, green, blue) for red, green, blue in classes["colors"])
    named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    coloured = all(type(channel) is int and 0 <= channel <= 255 for color in colors for channel in color)
    if not (named and coloured and len(names) == len(colors) == config.num_classes):
        raise ValueError
    return LabelSpace(names, colors)


def _reading(metadata: Mapping[str, str]) -> Reading:
    """How the model reads images; files of earlier versions do not state it."""
    stated = json.loads(metadata.get("reading", "{}"))
    return Reading(**{name: None if value is None else tuple(value) for name, value in stated.items()})


def network_from_checkpoint(path: Path) -> tuple[SegmentationNetwork, LabelSpace]:
    """Load the network of a checkpoint, in evaluation mode on the CPU, and its classes.

    Raises:
        InputError: see ``load_checkpoint`` and ``restored``.
    """
    checkpoint = load_checkpoint(path)
    return restored(checkpoint, path).eval(), checkpoint.label_space


def restored(checkpoint: Checkpoint, path: Path) -> SegmentationNetwork:
    """Build the network of a checkpoint, calling the factory if it is the user's own.

    Raises:
        InputError: if the weights in ``path`` do not fit its network.
    """
    # All weights are in the checkpoint: no download is needed, and a path may no longer exist.
    network = build_network(checkpoint.config.model_copy(update={"weights": "none"}))
    load_into(network, checkpoint.state, path)
    network.label_space = checkpoint.label_space
    network.reading = checkpoint.reading
    network.precision = checkpoint.made_by.get("precision", network.precision)
    return network


def load_into(network: SegmentationNetwork, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict in place, with the names of the network or of public DeepLabV2 code.

    Args:
        network: changes only if the whole state dict fits.
        state: state dict.
        path: its file, for error messages.

    Raises:
        InputError: if the number of classes or a shape differs, or names are missing or unexpected (all are listed).
    """
    public = is_public_deeplab(state)
    own = network.given.state_dict()
    if isinstance(network, DeepLabV2):
        state = to_our_names(state)
    _check_classes(network, own, state, path)
    copy_state(own, state, path)
    if public and isinstance(network, DeepLabV2) and not _is_caffe_style(network):
        logger.warning(
            "%s: has the names of a PyTorch port of Caffe's DeepLabV2; if it is one, set under model resnet_style: "
            "caffe, channels: bgr, mean: [0.4811, 0.4575, 0.4079], std: [0.00392157, 0.00392157, 0.00392157]",
            path,
        )


def _check_classes(
    network: SegmentationNetwork, own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path
) -> None:
    """Check the number of classes, usually the number of rows of the classifier's last tensor."""
    last = next(key for key in reversed(list(own)) if key.startswith(f"{network.head_name}."))
    classes = len(own[last]) if own[last].ndim else 0
    found = len(state[last]) if last in state and state[last].ndim else classes
    if classes == network.num_scores and found != classes:
        more = "more" if found > classes else "fewer"
        where = "the data" if network.num_scores == network.num_classes else "data.class_map"
        raise InputError(
            f"{path}: {more} classes in the checkpoint ({found}) than in {where} ({classes}); "
            "list the checkpoint's classes, in its order, in data.classes, or map them with data.class_map"
        )


def _is_caffe_style(network: DeepLabV2) -> bool:
    pool = getattr(network.backbone, "maxpool", None)
    return bool(getattr(pool, "ceil_mode", False))
