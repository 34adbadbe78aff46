"""The network's settings need no PyTorch, and say the same as the modules that build it."""

import subprocess
import sys

from atp.models.backbones import IMAGENET
from atp.models.config import OUTPUT_STRIDES


def test_parameters_are_read_without_pytorch() -> None:
    code = "import sys, atp.params, atp.runner.tracking, atp.runner.process; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_our_own_backbone_has_no_imagenet_weights() -> None:
    assert set(OUTPUT_STRIDES) - set(IMAGENET) == {"resnet_small"}
