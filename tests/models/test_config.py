"""The network's settings need no PyTorch, and say the same as the modules that build it."""

import subprocess
import sys

from atp.models.backbones import IMAGENET
from atp.models.config import OUTPUT_STRIDES


def test_parameters_are_read_without_pytorch() -> None:
    code = "import sys, atp.params, atp.runner.tracking, atp.runner.process; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_but_two_backbones_have_imagenet_weights_of_torchvision() -> None:
    # Ours has none, and the other's are a package.
    assert set(OUTPUT_STRIDES) - set(IMAGENET) == {"resnet_small", "efficientnet_lite0"}
