"""A network of the user's own: made by a callable of theirs, used as it is."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.errors import InputError
from atp.models.config import NetworkConfig, is_made
from atp.models.segmentation import SegmentationNetwork
from atp.models.state import copy_state, load_user_state, tell

COARSEST = 32
"""Image pixels per feature pixel at which nearly every encoder ends."""


class OwnNetwork(SegmentationNetwork):
    """Any module that makes scores out of normalised images.

    Args:
        model: normalised images (N, 3, H, W) to a tensor (N, C', h, w), to a mapping that holds one under ``out``, or
            to an object that has one as ``logits``.
        config: names its classifier.
    """

    # An auxiliary classifier, for one, has no part in them.
    uses_all = False

    def __init__(self, model: nn.Module, config: NetworkConfig) -> None:
        super().__init__(config)
        assert config.classifier is not None, "whoever made the model has looked"
        self.model = model
        self.head_name = config.classifier
        self._factory = config.factory
        self._divisor = config.divisor

    @property
    def given(self) -> nn.Module:
        return self.model

    def scores(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        down, right = -height % self._divisor, -width % self._divisor
        if not (down or right):
            return self._called(images)
        padded = F.pad(images, (0, right, 0, down), mode="replicate")
        # Cut at the images' own resolution: at the scores' stride the edge may fall between two of them.
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
                f"if it wants multiples of {COARSEST}, set model.divisor: {COARSEST}"
            ) from error
        return as_scores(output, str(self._factory), self.num_scores)


def as_scores(output: object, name: str, num_scores: int | None) -> Tensor:
    """The scores in what a network returns: a tensor, a mapping's ``out``, or an object's ``logits``.

    Args:
        name: of the network's factory, for messages.
        num_scores: C', how many classes it should tell apart; None where that is to be found out.

    Raises:
        InputError: none of these, or not (N, C', h, w).
    """
    if isinstance(output, Mapping) and "out" in output:
        output = output["out"]
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        output = output.logits
    if not isinstance(output, Tensor):
        raise InputError(
            f"model.factory: {name} returns {type(output).__name__}; it must be a tensor of scores, a mapping with "
            "out, or an object with logits: wrap it in a module that returns one"
        )
    if output.ndim != 4 or num_scores not in (None, output.shape[1]):
        raise InputError(
            f"model.factory: {name} gives scores of shape {tuple(output.shape)}, not (N, {num_scores or 'C'}, h, w); "
            "check model.arguments, data.classes and data.class_map"
        )
    return output


def make_own(config: NetworkConfig) -> nn.Module:
    """Call the factory, and read the weights; random ones come from torch's global generator.

    Raises:
        InputError: it cannot be imported or called, returns no module, has no such classifier, or the weights do not
            fit.
    """
    model = call_factory(config)
    check_classifier(model, config)
    if config.weights != "none":
        copy_state(model.state_dict(), load_user_state(Path(config.weights)), config.weights)
    return model


def call_factory(config: NetworkConfig) -> nn.Module:
    """The module that the factory makes.

    Raises:
        InputError: it cannot be imported or called, or returns no module.
    """
    assert config.factory is not None, "the caller has looked"
    model = _make(config.factory, config.arguments)
    where = f"model.factory: {config.factory}"
    if not isinstance(model, nn.Module):
        raise InputError(f"{where} returns {type(model).__name__}; it must return a torch.nn.Module")
    state = model.state_dict()
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise InputError(f"{where}: its state_dict() holds other things than tensors: {tell(other, state)}; wrap it")
    return model


def _make(address: str, arguments: object) -> Any:
    factory = import_callable(address, "model.factory")
    if not isinstance(arguments, Mapping):
        raise InputError(f"model.factory: {address}: its arguments are {arguments!r}; they must be a mapping of names")
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


def first_line(error: Exception) -> str:
    """An exception of somebody else's code, for a message of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def import_callable(address: str, setting: str) -> Any:
    """What ``package.module:callable`` names.

    Args:
        setting: of params.yaml, for the messages.

    Raises:
        InputError: there is none.
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
    """The setting ``classifier`` names a submodule with parameters.

    Raises:
        InputError: it does not.
    """
    if config.classifier is None:
        raise InputError(
            "model.classifier: missing; give the dotted name of the submodule that makes the scores; "
            "atp doctor proposes one"
        )
    names = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    if config.classifier not in names:
        near = difflib.get_close_matches(config.classifier, names, n=1)
        hint = f"is it {near[0]}?" if near else f"it has {', '.join(n for n, _ in model.named_children())}"
        raise InputError(f"model.classifier: {config.factory} has no {config.classifier} with parameters; {hint}")


def check_code(config: NetworkConfig) -> None:
    """Modules of the project's own folder that the network needs must lie where DVC watches.

    Raises:
        InputError: they do not, or a callable cannot be imported.
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
            "holds all of it, so that DVC sees it change"
        )


def project_modules() -> Iterator[Path]:
    """Files of the imported modules that lie below the working folder and are neither installed nor ATP's own."""
    here = Path.cwd().resolve()
    for name, module in sorted(sys.modules.items()):
        # Some of PyTorch's have a file that does not exist.
        file = Path(getattr(module, "__file__", None) or "")
        if not file.is_absolute() or name.partition(".")[0] in ("atp", "flows", "__main__", "__mp_main__"):
            continue
        path = file.resolve()
        if path.is_relative_to(here) and not {"site-packages", "dist-packages"} & set(path.parts):
            yield path
