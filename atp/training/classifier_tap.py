"""Access to the input and output of any network's classifier."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from atp.errors import InputError
from atp.models.network import SegmentationNetwork


class ClassifierTap:
    """Context manager that records input and output of the classifier's last call with a forward hook.

    Enter it after copying the network, since copies would include the hook.

    Attributes:
        output: the classifier's last output.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        self._head = network.head
        self._name = network.head_name
        self._given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.output: object = None

    def __enter__(self) -> Self:
        self._hook = self._head.register_forward_hook(self._keep, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        self._given, self.output = (args, kwargs), output

    @property
    def features(self) -> Tensor:
        """The classifier's input, (N, D, h, w); the last, deepest feature map if there are several.

        Raises:
            InputError: if no input has four dimensions.
        """
        maps: list[Tensor] = []
        self._mapped(maps.append)
        if not maps:
            raise InputError(
                f"params.yaml: model.classifier: {self._name} does not take a feature map (N, D, h, w); choose another "
                "method, or a submodule that takes one"
            )
        return maps[-1]

    def through(self, classifier: nn.Module, change: Callable[[Tensor], Tensor]) -> object:
        """Apply another classifier to the recorded input with ``change`` applied to its feature maps."""
        args, kwargs = self._mapped(change)
        return classifier(*args, **kwargs)

    def _mapped(self, change: Callable[[Tensor], Any]) -> Any:
        assert self._given is not None, "the network must be called first"
        return _mapped(self._given, change)

    @torch.no_grad()
    def probe(self, network: SegmentationNetwork, images: Tensor) -> Tensor:
        """The features of some images, without side effects on the network."""
        was_training = network.training
        network.eval()(images)
        network.train(was_training)
        return self.features


@contextmanager
def feature_dropout(network: SegmentationNetwork, shares: Tensor) -> Iterator[None]:
    """Set random channels of the classifier's input to zero and scale the others, as in ``dropout2d``.

    The numbers are drawn on the CPU, so that a seed drops the same channels on every device.

    Args:
        shares: share of the channels that each image of a batch loses, in [0, 1), (N,), on the CPU; without any,
            this does nothing.

    Raises:
        InputError: if no input of the classifier is a feature map of every image, (N, D, h, w).
    """
    if not shares.any():
        yield
        return
    found: list[Tensor] = []

    def drop(features: Tensor) -> Tensor:
        if len(features) != len(shares):
            return features
        found.append(features)
        kept = (torch.rand(features.shape[:2]) >= shares[:, None]) / (1 - shares[:, None])
        return features * kept[:, :, None, None].to(features)

    def dropped(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _mapped((args, kwargs), drop)

    hook = network.head.register_forward_pre_hook(dropped, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
    if not found:
        raise InputError(
            f"params.yaml: model.classifier: {network.head_name} does not take a feature map (N, D, h, w); choose "
            "another propagate.mix, or a submodule that takes one"
        )


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Apply ``change`` to every feature map in nested containers."""
    if isinstance(value, Tensor):
        return change(value) if value.ndim == 4 and value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_mapped(item, change) for item in value])
    return value
