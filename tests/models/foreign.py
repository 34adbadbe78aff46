"""Networks as somebody else could have written them."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """A stem with BatchNorm, a classifier with BatchNorm and dropout, and an auxiliary classifier."""

    def __init__(self, classes: int = 3, output: str = "tensor", stride: int = 2, aux: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=stride, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Conv2d(6, classes, 3, padding=1),
            nn.BatchNorm2d(classes),
            nn.Dropout(0.5),
            nn.Conv2d(classes, classes, 1),
        )
        self.aux = nn.Conv2d(6, classes, 1) if aux else None
        self.output = output

    def forward(self, images: Tensor) -> object:
        features = self.stem(images)
        scores = self.decoder(features)
        if self.output == "mapping":
            found = {"out": scores}
            # As torchvision's do, in training alone.
            return found | ({"aux": self.aux(features)} if self.aux and self.training else {})
        if self.output == "object":
            return SimpleNamespace(logits=scores)
        if self.output == "tuple in training" and self.training:
            return scores, scores
        if self.output == "flat":
            return scores.flatten(2)
        return scores


class Skips(nn.Module):
    """Halves and doubles without a look at the size, so that only multiples of 32 come back as they were."""

    def __init__(self, classes: int = 3, strict: bool = False) -> None:
        super().__init__()
        self.down = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 4, 4, 3, stride=2, padding=1) for i in range(5)])
        self.up = nn.Upsample(scale_factor=32)
        self.head = nn.Conv2d(4, classes, 1)
        self.strict = strict

    def forward(self, images: Tensor) -> Tensor:
        if self.strict and (images.shape[-1] % 32 or images.shape[-2] % 32):
            raise RuntimeError("sizes must be multiples of 32\nand more lines")
        return self.head(self.up(self.down(images)))


class Limited(nn.Module):
    """Takes images up to a width, and those of a trial."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 3, 1)
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] > self.most and tuple(images.shape[-2:]) != (64, 64):
            raise RuntimeError("too wide")
        return self.head(self.stem(images))


class Pooled(nn.Module):
    """Normalises features that are pooled over the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.head(features + self.pooled(features))


class Tied(nn.Module):
    """One tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.head = nn.Conv2d(3, 3, 1)
        self.head.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images))


def bare() -> object:
    return torch.zeros(1)


def broken() -> nn.Module:
    raise KeyError("it needs\nmore")
