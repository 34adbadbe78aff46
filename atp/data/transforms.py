"""Augmentation of training images: geometric changes of images and labels, photometric changes of images only."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from atp.data.labels import IGNORE
from atp.data.settings import Augmentation


@dataclass(frozen=True)
class Views:
    """Augmented views of one image.

    Attributes:
        weak: with geometric changes only, uint8, (3, H, W).
        strong: ``weak`` with photometric changes, uint8, (3, H, W); the same tensor if there are none.
        second: the same with other random numbers; None if it was not asked for.
        masks: transformed with the image, (H, W) or (C, H, W), any type; padding is 255, or True for bool.
    """

    weak: Tensor
    strong: Tensor
    second: Tensor | None
    masks: tuple[Tensor, ...]


class Augment:
    """Apply an ``Augmentation`` with randomness from PyTorch's global generator."""

    def __init__(self, config: Augmentation, crop: tuple[int, int] | None, *, second: bool = False) -> None:
        """``crop`` is (width, height); smaller images are padded, and their labels with 255.

        ``second`` asks for ``Views.second``.
        """
        geometry: list[torch.nn.Module] = []
        if config.flip:
            geometry.append(v2.RandomHorizontalFlip())
        if crop is not None:
            size = (crop[1], crop[0])
            if config.scale != (1.0, 1.0):
                geometry.append(RandomZoom(config.scale))
            fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
            geometry.append(v2.RandomCrop(size, pad_if_needed=True, fill=fill))
        photometry: list[torch.nn.Module] = []
        if config.jitter > 0:
            j = config.jitter
            photometry.append(v2.ColorJitter(brightness=j, contrast=j, saturation=j, hue=j / 4))
        if config.blur:
            photometry.append(v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 1.5))], p=0.5))
        self._geometry = v2.Compose(geometry) if geometry else None
        self._photometry = v2.Compose(photometry) if photometry else None
        self._second = second

    def __call__(self, image: Tensor, masks: tuple[Tensor, ...] = ()) -> Views:
        """Transform an image, uint8 (3, H, W), and masks (H, W) or (C, H, W) of any type (nearest neighbour)."""
        if self._geometry is not None:
            moved = self._geometry(tv_tensors.Image(image), *(tv_tensors.Mask(mask) for mask in masks))
            image, *rest = moved if masks else (moved,)
            image, masks = image.as_subclass(Tensor), tuple(mask.as_subclass(Tensor) for mask in rest)
        strong = self._recolored(image)
        return Views(image, strong, self._recolored(image) if self._second else None, masks)

    def _recolored(self, image: Tensor) -> Tensor:
        return image if self._photometry is None else self._photometry(image)


class RandomZoom(v2.Transform):  # type: ignore[misc]
    """Resize image and masks by one random factor, uniform in a range."""

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self._scale = scale

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, tuple[int, int]]:
        factor = torch.empty(()).uniform_(*self._scale).item()
        height, width = flat_inputs[0].shape[-2:]
        return {"size": (max(1, round(height * factor)), max(1, round(width * factor)))}

    def transform(self, inpt: Tensor, params: dict[str, tuple[int, int]]) -> Tensor:
        # v2 resizes masks by nearest neighbour because of their type.
        resized: Tensor = v2.functional.resize(inpt, list(params["size"]), antialias=True)
        return resized
