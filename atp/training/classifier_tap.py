"""What a network's classifier is given and makes of it, whatever the network is made of."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from atp.errors import InputError
from atp.models.network import SegmentationNetwork


class ClassifierTap:
    """Holds input and output of the classifier's last call, by a hook, while it is entered as a context.

    Enter it after copies of the network are made: they would hold the hook too.

    Attributes:
        output: what the classifier returned.
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
        """(N, D, h, w); of a classifier that takes several feature maps the last, deepest one.

        Raises:
            InputError: it takes none of four dimensions.
        """
        maps: list[Tensor] = []
        self._mapped(maps.append)
        if not maps:
            raise InputError(
                f"params.yaml: model.classifier: {self._name} is given no feature map (N, D, h, w); choose another "
                "method, or a submodule that is given one"
            )
        return maps[-1]

    def through(self, classifier: nn.Module, change: Callable[[Tensor], Tensor]) -> object:
        """What another classifier makes of the same input, its feature maps changed."""
        args, kwargs = self._mapped(change)
        return classifier(*args, **kwargs)

    def _mapped(self, change: Callable[[Tensor], Any]) -> Any:
        assert self._given is not None, "the network has been called"
        return _mapped(self._given, change)

    @torch.no_grad()
    def probe(self, network: SegmentationNetwork, images: Tensor) -> Tensor:
        """The features of some images, without a trace in the network."""
        was_training = network.training
        network.eval()(images)
        network.train(was_training)
        return self.features


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Every feature map in nested containers changed, the rest as it is."""
    if isinstance(value, Tensor):
        return change(value) if value.ndim == 4 and value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_mapped(item, change) for item in value])
    return value
