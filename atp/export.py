"""Export of the adapted weights for the network's own class, without ATP."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from atp.data.reading import Reading
from atp.errors import InputError
from atp.files import atomic_path
from atp.models.checkpoint import load_checkpoint
from atp.models.config import NetworkConfig, is_made
from atp.registry.package import find_model

LOADERS = {
    ".safetensors": "safetensors.torch.load_file({file!r})",
    ".pth": "torch.load({file!r}, weights_only=True)",
    ".pt": "torch.load({file!r}, weights_only=True)",
}
"""Python code that reads each kind of file."""


def export_state(out: Path, model: str) -> str:
    """Write a model's state dict with its author's parameter names, without building the network.

    Args:
        out: ``.safetensors``, or ``.pth`` as ``torch.save`` writes it.
        model: a stage's folder, a file of ``save_checkpoint``, or an address in MLflow's registry.

    Returns:
        One line that says at which size it reads images, and how to load it.

    Raises:
        InputError: no such model, or an unsupported kind of file.
    """
    kind = out.suffix.lower()
    if kind not in LOADERS:
        raise InputError(f"{out}: must end in {' or '.join(LOADERS)} or .onnx")
    checkpoint = load_checkpoint(find_model(model))
    with atomic_path(out) as temporary:
        if kind == ".safetensors":
            # The metadata by which transformers and others recognise it.
            save_file(checkpoint.state, temporary, {"format": "pt"})
        else:
            torch.save(checkpoint.state, temporary)
    config = checkpoint.config
    count = f"{out}: {len(checkpoint.state)} tensors, {config.num_scores} classes"
    mapped = "" if config.class_map is None else f", which data.class_map maps to {config.num_classes}"
    reading = checkpoint.reading
    size = "" if reading == Reading() else f", for images of this size: {reading}"
    return f"{count}{mapped}{size}; load: {_maker(config)}.load_state_dict({LOADERS[kind].format(file=str(out))})"


def _maker(config: NetworkConfig) -> str:
    """Python code that builds the network."""
    if config.factory is None:
        given = config.model_dump(mode="json", exclude_defaults=True, exclude={"class_map", "weights", "code"})
        given["num_classes"] = config.num_scores
        return f"atp.models.network.build_network(NetworkConfig({_keywords(given)}))"
    return _call(config.factory, config.arguments)


def _call(address: str, arguments: object) -> str:
    keywords = _keywords(arguments) if isinstance(arguments, dict) else ""
    return f"{address.replace(':', '.')}({keywords})"


def _keywords(values: dict[str, object]) -> str:
    return ", ".join(f"{name}={_python(value)}" for name, value in values.items())


def _python(value: object) -> str:
    if is_made(value):
        assert isinstance(value, dict)
        return _call(str(value["factory"]), value.get("arguments", {}))
    return repr(value)
