"""A network of the user's own: made by a callable of theirs, used as it is."""

import difflib
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from atp.errors import InputError
from atp.models.config import NetworkConfig
from atp.models.segmentation import SegmentationNetwork
from atp.models.state import copy_state, load_user_state


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
        self.model = model
        self.head_name = f"model.{config.classifier}"
        self._factory = config.factory
        self._divisor = config.divisor

    def scores(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        down, right = -height % self._divisor, -width % self._divisor
        if not (down or right):
            return self._checked(self.model(images))
        padded = F.pad(images, (0, right, 0, down), mode="replicate")
        scores = self._checked(self.model(padded))
        # Cut at the images' own resolution: at the scores' stride the edge may fall between two of them.
        return F.interpolate(scores, padded.shape[-2:], mode="bilinear", align_corners=False)[..., :height, :width]

    def _checked(self, output: object) -> Tensor:
        scores = as_scores(output, str(self._factory))
        if scores.ndim != 4 or scores.shape[1] != self.num_scores:
            raise InputError(
                f"params.yaml: model.factory: {self._factory} gives scores of shape {tuple(scores.shape)}, not "
                f"(N, {self.num_scores}, h, w); check model.arguments, data.classes and data.class_map"
            )
        return scores

    def given_state(self) -> dict[str, Tensor]:
        return self.model.state_dict()


def as_scores(output: object, name: str) -> Tensor:
    """The scores in what a network returns: a tensor, a mapping's ``out``, or an object's ``logits``.

    Raises:
        InputError: none of these.
    """
    if isinstance(output, Mapping) and "out" in output:
        output = output["out"]
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        output = output.logits
    if isinstance(output, Tensor):
        return output
    raise InputError(
        f"params.yaml: model.factory: {name} returns {type(output).__name__}; it must be a tensor of scores, "
        "a mapping with out, or an object with logits: wrap it in a module that returns one"
    )


def make_own(config: NetworkConfig) -> nn.Module:
    """Call the factory; random weights come from torch's global generator.

    Raises:
        InputError: it cannot be imported or called, returns no module, has no such classifier, or the weights do not
            fit.
    """
    assert config.factory is not None, "the caller has looked"
    where = f"params.yaml: model.factory: {config.factory}"
    factory = import_callable(config.factory, "model.factory")
    try:
        model = factory(**config.arguments)
    except Exception as error:  # A user's code may raise anything.
        reason = str(error).splitlines()[0] if str(error) else ""
        raise InputError(
            f"{where} cannot be called: {type(error).__name__}: {reason}; check model.arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{where} returns {type(model).__name__}; it must return a torch.nn.Module")
    _check_classifier(model, config)
    if config.weights != "none":
        copy_state(model.state_dict(), load_user_state(Path(config.weights)), config.weights)
    return model


def import_callable(address: str, setting: str) -> Any:
    """What ``package.module:callable`` names; modules in the working folder are found as well as installed ones.

    Args:
        setting: of params.yaml, for the messages.

    Raises:
        InputError: there is none.
    """
    where = f"params.yaml: {setting}: {address}"
    module_name, _, name = address.partition(":")
    # Absent where a command of its own, such as ``atp``, was started.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except Exception as error:  # A user's module may raise anything while it is imported.
        raise InputError(
            f"{where} cannot be imported: {type(error).__name__}: {error}; install its package, or put the module into "
            f"{here}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, dir(module), n=1)
        raise InputError(f"{where}: {module_name} has no callable {name}" + (f"; is it {near[0]}?" if near else ""))
    return found


def _check_classifier(model: nn.Module, config: NetworkConfig) -> None:
    names = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    if config.classifier is None:
        raise InputError(
            "params.yaml: model.classifier: missing; give the dotted name of the submodule that makes the scores; "
            "atp doctor proposes one"
        )
    if config.classifier not in names:
        near = difflib.get_close_matches(config.classifier, names, n=1)
        hint = f"is it {near[0]}?" if near else f"it has {', '.join(n for n, _ in model.named_children())}"
        raise InputError(
            f"params.yaml: model.classifier: {config.factory} has no {config.classifier} with parameters; {hint}"
        )


def check_code(config: NetworkConfig) -> None:
    """A factory in the project's own folder must lie where DVC watches.

    Raises:
        InputError: it does not.
    """
    if config.factory is None:
        return
    module = sys.modules.get(config.factory.partition(":")[0]) or import_module(config.factory.partition(":")[0])
    file = Path(str(module.__file__)).resolve()
    installed = "site-packages" in file.parts or not file.is_relative_to(Path.cwd())
    if not installed and not file.is_relative_to(config.code.resolve()):
        raise InputError(
            f"params.yaml: model.code: {file.relative_to(Path.cwd())} holds the factory and is not "
            f"{'below' if config.code.is_dir() else 'it'}; set model.code to it, so that DVC sees it change"
        )
