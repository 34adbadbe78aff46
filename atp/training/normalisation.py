"""A network's BatchNorm layers, for methods that adapt them."""

from atp.errors import InputError
from atp.models.network import SegmentationNetwork
from atp.models.segmentation import BatchNorm


def batchnorm_layers(
    network: SegmentationNetwork, setting: str = "align.method", remedy: str = "choose another method"
) -> list[BatchNorm]:
    """List the network's BatchNorm layers.

    Args:
        setting: the parameter that needs them, for the error message.
        remedy: what to do if there are none, for the error message.

    Raises:
        InputError: if there are none, as in VGG-16 and in transformers.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not layers:
        raise InputError(f"params.yaml: {setting}: needs BatchNorm layers, which the network lacks; {remedy}")
    return layers
