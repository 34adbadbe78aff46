"""What a network is made of, as settings; without PyTorch, whose import takes seconds that not every command has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

BackboneName = Literal["resnet_small", "resnet18", "resnet50", "resnet101", "vgg16"]

ResNetStyle = Literal["torchvision", "caffe"]

OUTPUT_STRIDES: Mapping[BackboneName, tuple[int, ...]] = {
    "resnet_small": (4, 8, 16),
    "resnet18": (8, 16),
    "resnet50": (8, 16),
    "resnet101": (8, 16),
    "vgg16": (8, 16),
}
"""Image pixels per feature pixel that a backbone can be built for."""

OURS = ("backbone", "output_stride", "aspp_dilations", "resnet_style")
"""Settings of our own networks alone."""

Level = Annotated[float, Field(ge=0.0, le=1.0)]
Spread = Annotated[float, Field(gt=0.0)]
Dilation = Annotated[int, Field(ge=1, strict=True)]


DottedName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]
IGNORED = 255
"""Target id of a class that the target does not have."""


class NetworkConfig(BaseModel):
    """DeepLabV2 on a backbone, or a network of the user's own; everything that is needed to build it anew.

    Attributes:
        factory: ``package.module:callable`` that returns a network of the user's own, images to scores: a tensor, a
            mapping with ``out``, or an object with ``logits``, at any stride. Of what follows, the settings of our own
            networks then have no meaning and are refused.
        arguments: keyword arguments of that callable. An object among them is given as what makes it, a mapping of a
            ``factory`` and perhaps ``arguments`` of its own.
        classifier: dotted name of its submodule that turns features into scores: frozen in align, faster later.
        divisor: its images are padded at the right and at the bottom to multiples of this many pixels; encoders with
            skip connections want 32.
        code: file or folder of the factory, if it is no installed package: what DVC watches. Of a black box's student
            also the folder of its weights, if a path is given for these.
        class_map: of a given model with other classes, the target's id for each of its own, 255 = none; None where its
            classes are the target's.
        backbone: ``resnet_small`` is ours, for small images on a CPU; the others are torchvision's.
        output_stride: image pixels per feature pixel; 8 is the authors' code's, 4 only ``resnet_small`` can.
        aspp_dilations: one branch of the classifier each. DeepLabV2 has four, 6 to 24.
        weights: before training: ``none``, the path of a state dict, or of our own backbones ``imagenet``.
        mean: of the training images' channels R, G, B, on the scale 0 to 1.
        std: the same channels' standard deviations.
        channels: order in which the backbone wants them; models with a Caffe ancestor want ``bgr``.
        resnet_style: ``caffe`` builds ResNet-50 and -101 as DeepLabV2's Caffe model and its PyTorch ports do
            (AdaptSegNet and its kin): they share names and shapes with torchvision's and compute something else.
            Their images are BGR, 0 to 255, minus a mean: channels bgr, mean (0.4811, 0.4575, 0.4079), std three times
            0.00392157.
        num_classes: C; 0 until the data's label space sets it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    factory: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    arguments: dict[str, Any] = {}
    classifier: DottedName | None = None
    divisor: Annotated[int, Field(ge=1, strict=True)] = 1
    code: Path = Path("atp/models/own.py")
    class_map: tuple[Annotated[int, Field(ge=0, le=IGNORED, strict=True)], ...] | None = None
    backbone: BackboneName = "resnet101"
    output_stride: Literal[4, 8, 16] = 8
    aspp_dilations: Annotated[tuple[Dilation, ...], Field(min_length=1)] = (6, 12, 18, 24)
    weights: str = "none"
    mean: tuple[Level, Level, Level] = (0.485, 0.456, 0.406)
    std: tuple[Spread, Spread, Spread] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"
    resnet_style: ResNetStyle = "torchvision"
    num_classes: Annotated[int, Field(ge=0, le=255, strict=True)] = 0

    @property
    def own_code(self) -> tuple[Path, ...]:
        """``code`` where it decides a result; of an installed package there is none to watch."""
        return (self.code,) if self.factory is not None and self.code.exists() else ()

    @property
    def callables(self) -> tuple[str, ...]:
        """All that has to be imported and called for the network: the factory, and those of its arguments."""
        return () if self.factory is None else (self.factory, *_factories_in(self.arguments))

    @property
    def num_scores(self) -> int:
        """Classes that the network itself tells apart, before ``class_map``."""
        return self.num_classes if self.class_map is None else len(self.class_map)

    @model_validator(mode="after")
    def _own_or_ours(self) -> Self:
        defaults = NetworkConfig.model_fields
        if self.factory is None:
            for name in ("arguments", "classifier", "divisor"):
                if getattr(self, name) != defaults[name].default:
                    raise ValueError(f"{name} is for a network of your own; give factory too, or leave {name} out")
            return self
        for name in OURS:
            if getattr(self, name) != defaults[name].default:
                raise ValueError(
                    f"{name} is for ATP's own networks; beside factory leave it out, or put it in arguments"
                )
        if self.weights == "imagenet":
            raise ValueError("weights: imagenet is for ATP's own backbones; a factory takes such things as arguments")
        return self

    @model_validator(mode="after")
    def _backbone_can(self) -> Self:
        strides = OUTPUT_STRIDES[self.backbone]
        if self.output_stride not in strides:
            known = ", ".join(map(str, strides))
            raise ValueError(f"output_stride {self.output_stride} is not for {self.backbone}; it has {known}")
        if self.weights == "imagenet" and self.backbone == "resnet_small":
            raise ValueError(f"weights: there are no ImageNet weights for {self.backbone}; give none or a path")
        if self.resnet_style == "caffe" and self.backbone not in ("resnet50", "resnet101"):
            raise ValueError(f"resnet_style: caffe is for resnet50 and resnet101, not {self.backbone}")
        return self


def is_made(argument: object) -> bool:
    """Whether an argument is no mapping of its own but says what makes an object."""
    return isinstance(argument, Mapping) and "factory" in argument and argument.keys() <= {"factory", "arguments"}


def _factories_in(argument: object) -> list[str]:
    if isinstance(argument, Mapping):
        mine = [str(argument["factory"])] if is_made(argument) else []
        return mine + [found for part in argument.values() for found in _factories_in(part)]
    if isinstance(argument, list | tuple):
        return [found for part in argument for found in _factories_in(part)]
    return []
