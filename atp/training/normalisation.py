"""A network's BatchNorm layers, for methods that adapt them."""

from atp.errors import InputError
from atp.models.network import SegmentationNetwork
from atp.models.segmentation import BatchNorm


def has_batchnorm(network: SegmentationNetwork) -> bool:
    """Whether the network has BatchNorm layers, unlike VGG-16 and many transformers."""
    return any(isinstance(module, BatchNorm) for module in network.modules())


def batchnorm_layers(
    network: SegmentationNetwork, setting: str = "align.method", remedy: str = "choose another method"
) -> list[BatchNorm]:
    """List the network's BatchNorm layers.

    Args:
        setting: the parameter that needs them, for the error message.
        remedy: what to do if there are none, for the error message.

    Raises:
        InputError: if there are none.
    """
    if not has_batchnorm(network):
        raise InputError(f"params.yaml: {setting}: needs BatchNorm layers, which the network lacks; {remedy}")
    return [module for module in network.modules() if isinstance(module, BatchNorm)]
