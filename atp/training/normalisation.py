"""A network's BatchNorm layers, for methods that adapt them."""

from atp.errors import InputError
from atp.models.network import SegmentationNetwork
from atp.models.segmentation import BatchNorm


def batchnorm_layers(network: SegmentationNetwork) -> list[BatchNorm]:
    """List the network's BatchNorm layers.

    Raises:
        InputError: if there are none, as in VGG-16 and in transformers.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not layers:
        raise InputError(
            "params.yaml: align.method: needs BatchNorm layers, which the network lacks; choose another method"
        )
    return layers
