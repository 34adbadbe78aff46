"""The user's own network, built by the user's factory and used unchanged."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.errors import InputError, first_line
from atp.models.config import NetworkConfig, is_made
from atp.models.queries import query_scores
from atp.models.segmentation import SegmentationNetwork
from atp.models.state import copy_state, load_user_state, tell

COARSEST = 32
"""Output stride (image pixels per feature pixel) of almost every encoder's last stage."""


class OwnNetwork(SegmentationNetwork):
    """Wraps any module that maps normalised images to logits.

    Args:
        model: maps normalised images (N, 3, H, W) to one of the outputs of ``as_scores``.
        config: configuration that names the classifier.
    """

    # The logits do not depend on an auxiliary classifier, for example.
    uses_all = False

    def __init__(self, model: nn.Module, config: NetworkConfig) -> None:
        super().__init__(config)
        assert config.classifier is not None, "checked by the caller"
        self.model = model
        self.head_name = config.classifier
        self._factory = config.factory
        self._divisor = config.divisor
        self._input_size = config.input_size

    @property
    def given(self) -> nn.Module:
        return self.model

    def scores(self, images: Tensor) -> Tensor:
        if self._input_size is not None:
            images = F.interpolate(images, self._input_size[::-1], mode="bilinear", align_corners=False)
        height, width = images.shape[-2:]
        down, right = -height % self._divisor, -width % self._divisor
        if not (down or right):
            return self._called(images)
        padded = F.pad(images, (0, right, 0, down), mode="replicate")
        # Cropped at the images' resolution, since the edge may lie within a pixel of the logits.
        scores = F.interpolate(self._called(padded), padded.shape[-2:], mode="bilinear", align_corners=False)
        return scores[..., :height, :width]

    def _called(self, images: Tensor) -> Tensor:
        try:
            output = self.model(images)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            height, width = images.shape[-2:]
            if height % COARSEST == width % COARSEST == 0:
                raise
            raise InputError(
                f"model.factory: {self._factory} fails on images of {width}x{height} ({first_line(error)}); "
                f"if it needs multiples of {COARSEST}, set model.divisor: {COARSEST}"
            ) from error
        return as_scores(output, str(self._factory), self.num_scores)


def as_scores(output: object, name: str, num_scores: int | None) -> Tensor:
    """Extract the logits from a network's output.

    Args:
        output: a tensor, a mapping with it as ``out``, an object with it as ``logits``, or an object with
            ``class_queries_logits`` and ``masks_queries_logits``: see ``query_scores``.
        name: name of the network's factory, for error messages.
        num_scores: C', the expected number of classes; None accepts any number.

    Raises:
        InputError: if the output is none of these, or its shape is not (N, C', h, w).
    """
    if isinstance(output, Mapping) and "out" in output:
        output = output["out"]
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        output = output.logits
    elif (queries := as_queries(output)) is not None:
        output = query_scores(*queries)
    if not isinstance(output, Tensor):
        raise InputError(
            f"model.factory: {name} returns {type(output).__name__}, not a tensor of logits, a mapping with out, or "
            "an object with logits; wrap it in a module that returns one"
        )
    if output.ndim != 4 or num_scores not in (None, output.shape[1]):
        raise InputError(
            f"model.factory: {name} returns logits of shape {tuple(output.shape)}, not (N, {num_scores or 'C'}, h, w); "
            "check model.arguments, data.classes and data.class_map"
        )
    return output


def as_queries(output: object) -> tuple[Tensor, Tensor] | None:
    """The queries' logits of classes and masks, as in ``query_scores``, if the network classifies masks."""
    classes, masks = (getattr(output, f"{name}_queries_logits", None) for name in ("class", "masks"))
    return (classes, masks) if isinstance(classes, Tensor) and isinstance(masks, Tensor) else None


def make_own(config: NetworkConfig) -> nn.Module:
    """Call the factory and load the weights; random weights come from PyTorch's global generator.

    Raises:
        InputError: if the factory fails, the classifier does not exist, or the weights do not fit.
    """
    model = call_factory(config)
    check_classifier(model, config)
    if config.weights != "none":
        copy_state(model.state_dict(), load_user_state(Path(config.weights)), config.weights)
    return model


def call_factory(config: NetworkConfig) -> nn.Module:
    """Call the factory and return its module.

    Raises:
        InputError: if the factory cannot be imported or called, or does not return a module.
    """
    assert config.factory is not None, "checked by the caller"
    model = _make(config.factory, config.arguments)
    where = f"model.factory: {config.factory}"
    if not isinstance(model, nn.Module):
        raise InputError(f"{where} returns {type(model).__name__}; it must return a torch.nn.Module")
    state = model.state_dict()
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise InputError(f"{where}: its state_dict() has entries that are not tensors: {tell(other, state)}; wrap it")
    return model


def _make(address: str, arguments: object) -> Any:
    factory = import_callable(address, "model.factory")
    if not isinstance(arguments, Mapping):
        raise InputError(f"model.factory: {address}: its arguments are {arguments!r}; set them as a mapping of names")
    try:
        return factory(**{name: _argument(value) for name, value in arguments.items()})
    except InputError:
        raise
    except Exception as error:  # A user's code may raise anything.
        raise InputError(
            f"model.factory: {address} cannot be called ({first_line(error)}); check model.arguments"
        ) from error


def _argument(value: object) -> object:
    if is_made(value):
        assert isinstance(value, Mapping)
        return _make(str(value["factory"]), value.get("arguments", {}))
    if isinstance(value, Mapping):
        return {key: _argument(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_argument(part) for part in value]
    return value


def import_callable(address: str, setting: str) -> Any:
    """Import the callable named ``package.module:callable``.

    Args:
        setting: its setting in params.yaml, for error messages.

    Raises:
        InputError: if it does not exist.
    """
    where = f"{setting}: {address}"
    module_name, _, name = address.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # A user's module may raise anything while it is imported.
        raise InputError(
            f"{where} cannot be imported ({first_line(error)}); install its package, or put its module into "
            f"{Path.cwd()} or onto PYTHONPATH"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, dir(module), n=1)
        raise InputError(f"{where}: {module_name} has no callable {name}" + (f"; is it {near[0]}?" if near else ""))
    return found


def check_classifier(model: nn.Module, config: NetworkConfig) -> None:
    """Check that the setting ``classifier`` names a submodule with parameters.

    Raises:
        InputError: if it does not.
    """
    if config.classifier is None:
        raise InputError(
            "model.classifier: missing; set the dotted name of the submodule that computes the logits; "
            "atp doctor suggests one"
        )
    names = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    if config.classifier not in names:
        near = difflib.get_close_matches(config.classifier, names, n=1)
        hint = f"is it {near[0]}?" if near else f"it has {', '.join(n for n, _ in model.named_children())}"
        raise InputError(f"model.classifier: {config.factory} has no {config.classifier} with parameters; {hint}")


def check_code(config: NetworkConfig) -> None:
    """Check that the network's modules in the project's folder are tracked by DVC.

    Raises:
        InputError: if they are not, or a callable cannot be imported.
    """
    if config.factory is None:
        return
    for address in config.callables:
        import_callable(address, "model.factory")
    code = config.code.resolve()
    unseen = [file for file in project_modules() if not file.is_relative_to(code)]
    if unseen:
        here = Path.cwd()
        raise InputError(
            f"params.yaml: model.code: {unseen[0].relative_to(here)} is part of {config.factory}'s code and not "
            f"{'below' if code.is_dir() else 'the file'} {config.code}; set model.code to the file or folder that "
            "contains all of it, so that DVC tracks it"
        )


def project_modules() -> Iterator[Path]:
    """Files of imported modules below the working folder that are neither installed nor part of ATP."""
    here = Path.cwd().resolve()
    for name, module in sorted(sys.modules.items()):
        # Some of PyTorch's modules name a file that does not exist.
        file = Path(getattr(module, "__file__", None) or "")
        if not file.is_absolute() or name.partition(".")[0] in ("atp", "flows", "__main__", "__mp_main__"):
            continue
        path = file.resolve()
        if path.is_relative_to(here) and not {"site-packages", "dist-packages"} & set(path.parts):
            yield path
