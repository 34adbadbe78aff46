"""A network's BatchNorm layers, for methods that live on them."""

from atp.errors import InputError
from atp.models.network import SegmentationNetwork
from atp.models.segmentation import BatchNorm


def batchnorm_layers(network: SegmentationNetwork) -> list[BatchNorm]:
    """All of them.

    Raises:
        InputError: there are none, as in VGG-16 and in transformers.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not layers:
        raise InputError(
            "params.yaml: align.method: the network has no BatchNorm for it to adapt; choose another method"
        )
    return layers
