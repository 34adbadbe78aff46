"""Conversion of public DeepLabV2 code's tensor names to ATP's."""

import re
from collections.abc import Mapping

from torch import Tensor

HEAD = re.compile(r"(layer[56])\.conv2d_list\.(\d+)\.(weight|bias)")
TRUNK = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")


def is_public_deeplab(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a PyTorch port of Caffe's DeepLabV2 (AdaptSegNet, ADVENT, CRST and others)."""
    names = [key.removeprefix("Scale.") for key in state]
    return any(HEAD.fullmatch(name) for name in names) and any(name == "conv1.weight" for name in names)


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a public port's state dict to ATP's names; return any other unchanged.

    ``conv1, bn1, layer1 .. layer4`` become ``backbone.*``; ``layer6.conv2d_list.N``, or ``layer5`` without a
    ``layer6``, becomes ``classifier.branches.N``. With both, ``layer5`` is AdaptSegNet's auxiliary classifier on the
    features of ``layer3``, used only in its training, and is dropped.
    """
    if not is_public_deeplab(state):
        return dict(state)
    names = {key.removeprefix("Scale."): key for key in state}
    head = "layer6" if any(name.startswith("layer6.") for name in names) else "layer5"
    renamed = {}
    for name, key in names.items():
        match = HEAD.fullmatch(name)
        if match and match[1] == head:
            renamed[f"classifier.branches.{match[2]}.{match[3]}"] = state[key]
        elif name.startswith(TRUNK):
            renamed[f"backbone.{name}"] = state[key]
        elif not match:
            renamed[name] = state[key]
    return renamed
