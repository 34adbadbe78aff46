"""Views of the hard images on which the student of propagate learns to agree with its teacher."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from atp.data.loading import Batch
from atp.training.mixing import hide, mix


@dataclass(frozen=True)
class View:
    """A view of the hard images and what the teacher says about it.

    Attributes:
        image: uint8, (N, 3, H, W).
        labels: the teacher's classes, 255 = none, int64, (N, H, W).
        reliable: ``labels`` without those of which the teacher is not certain.
        confidence: weight of each label, float, (N, H, W).
        weight: weight of the view in the consistency loss.
        dropout: share of the channels that the classifier's input loses, in [0, 1).
    """

    image: Tensor
    labels: Tensor
    reliable: Tensor
    confidence: Tensor
    weight: float = 1.0
    dropout: float = 0.0

    def pasted(self, masks: Tensor | None, easy: Batch) -> Self:
        """Paste the easy images, with their pseudo labels, where masks (N, H, W) are True; None pastes nothing."""
        if masks is None:
            return self
        masks = masks.to(self.labels.device)
        return replace(
            self,
            image=mix(masks, easy.strong, self.image),
            labels=mix(masks, easy.labels, self.labels),
            reliable=mix(masks, easy.labels, self.reliable),
            # Pasted pixels have the easy image's pseudo labels, which have full weight.
            confidence=mix(masks, torch.ones_like(self.confidence), self.confidence),
        )

    def hidden(self, masks: Tensor, mean: Tensor) -> Self:
        """Cover the image with its mean color where masks (N, H, W) are True; the labels stay.

        Args:
            mean: as in ``Seen``.
        """
        return replace(self, image=hide(masks, self.image, mean))


@dataclass(frozen=True)
class Seen:
    """What a variant makes its views from.

    Attributes:
        easy: the easy images.
        weak: the hard images as the teacher sees them.
        strong: the hard images with photometric augmentation.
        second: the same with other random numbers, if the variant has ``SECOND_VIEW``.
        mean: the mean color by which the network normalises, in [0, 1], (1, 3, 1, 1).
    """

    easy: Batch
    weak: View
    strong: View
    second: View
    mean: Tensor
