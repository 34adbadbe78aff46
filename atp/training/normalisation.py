"""A network's BatchNorm layers, for methods that live on them."""

from torch.nn.modules.batchnorm import _BatchNorm

from atp.errors import InputError
from atp.models.network import SegmentationNetwork


def batchnorm_layers(network: SegmentationNetwork) -> list[_BatchNorm]:
    """All of them.

    Raises:
        InputError: there are none, as in VGG-16 and in transformers.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        raise InputError(
            "params.yaml: align.method: the network has no BatchNorm for it to adapt; choose another method"
        )
    return layers
