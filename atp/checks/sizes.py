"""Check of the network at every size at which a stage uses it, with one or two images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from atp.checks.finding import Finding
from atp.data.folder import evenly_spread, image_size, list_samples
from atp.errors import InputError, first_line
from atp.evaluation.evidence.measure import SCALES
from atp.models.own import COARSEST, as_scores
from atp.params import Params

MOST_SIZES = 8
"""Maximum number of sizes to try of a folder whose images keep their own."""


@dataclass(frozen=True)
class Use:
    """A forward pass of a stage.

    Attributes:
        size: (width, height) of its images.
        images: their number; 0 in evaluation mode.
        stage: with the scale, if it has one.
    """

    size: tuple[int, int]
    images: int
    stage: str


@dataclass(frozen=True)
class Tried:
    """A network to try.

    Attributes:
        name: its setting in params.yaml, and its value.
        model: maps images to scores.
        divisor: images are padded to multiples of it.
        num_scores: number of its classes; None accepts any number.
        stride: image pixels per score; None if the scores have the images' size.
        shrink: try small images with the same remainder, for a network that takes every size above some.
    """

    name: str
    model: nn.Module
    divisor: int = 1
    num_scores: int | None = None
    stride: float | None = None
    shrink: bool = False
    found: dict[tuple[tuple[int, int], int, int], str] = field(default_factory=dict)

    def problem(self, use: Use, divisor: int = 0) -> str:
        """What is wrong with the network at the size of a use; empty if nothing is."""
        divisor = divisor or self.divisor
        key = use.size, use.images, divisor
        if key not in self.found:
            self.found[key] = self._try(use, divisor)
        return self.found[key]

    @torch.no_grad()
    def _try(self, use: Use, divisor: int) -> str:
        width, height = (side if not self.shrink or side <= 128 else 128 + side % 64 for side in use.size)
        image = F.pad(torch.zeros(1, 3, height, width), (0, -width % divisor, 0, -height % divisor))
        height, width = image.shape[-2:]
        model, problem = self.model.train(use.images > 0), ""
        # A second image costs memory, and is needed only where the first has no variance.
        for images in (image.expand(count, -1, -1, -1) for count in range(1, max(1, use.images) + 1)):
            try:
                scores = as_scores(model(images), self.name, self.num_scores)
            except Exception as error:  # A user's code may raise anything.
                what = str(error) if isinstance(error, InputError) else first_line(error)
                problem = f"fails at {_text(use.size)} ({what})"
            else:
                exact = self.stride is None or height % COARSEST == width % COARSEST == 0
                return "" if exact else self._cropped(scores, (height, width))
        return problem

    def _cropped(self, scores: Tensor, size: tuple[int, int]) -> str:
        found = tuple(scores.shape[-2:])
        assert self.stride is not None, "checked by the caller"
        if all(abs(own - side / self.stride) < 1 for own, side in zip(found, size, strict=True)):
            return ""
        return f"returns {_text(found[::-1])} scores for {_text(size[::-1])} pixels, so it crops or stretches"


def check_sizes(params: Params, tried: Tried) -> Iterator[Finding]:
    """Report in one line at which sizes the network does not work, which stages use them and what to do."""
    wrong: dict[tuple[int, int], list[Use]] = {}
    for use in tqdm(list(uses(params)), desc="sizes", unit="pass", disable=None, leave=False):
        if tried.problem(use):
            wrong.setdefault(use.size, []).append(use)
    if not wrong:
        return
    (first, *_), *others = wrong.values()
    also = "".join(f", at {_text(used[0].size)} in {_stages(used)}" for used in others)
    line = f"{tried.name} {tried.problem(first)} in {_stages(wrong[first.size])}{also}"
    yield Finding("error", f"{line}; {_remedy(tried, [use for used in wrong.values() for use in used])}")


def _remedy(tried: Tried, wrong: Sequence[Use]) -> str:
    if tried.stride is not None and not any(tried.problem(use, COARSEST) for use in wrong):
        return f"set model.divisor: {COARSEST}, at multiples of which it works"
    if all(use.images == 1 and not tried.problem(Use(use.size, 2, use.stage)) for use in wrong):
        return "set batch_size there to 2 or more images per process, with which it works"
    if all(use.images for use in wrong):
        return "set data.crop or data.size to a size that it takes"
    return "set data.size to a size that it takes, also at these scales, or change the network"


def uses(params: Params) -> Iterator[Use]:
    """All forward passes of the stages, by size."""
    data = params.data
    # No source images are read if the source model is given.
    trained = [] if params.source is None or params.source.checkpoint else ["source"]
    trained += ["distill" if params.black_box else "align", "teach", "propagate"]
    processes = max(1, params.runtime.processes)
    for stage in trained:
        section = getattr(params, stage)
        own = (data.source_size, data.source.images) if stage == "source" else (data.size, data.target.images)
        # BatchNorm has no variance of one image after global pooling.
        images = 1 if section.batch_size // processes <= 1 and section.batchnorm == "train" else 2
        yield from (Use(size, images, stage) for size in ([data.crop] if data.crop else _sizes(*own)))
    for size in _sizes(data.size, data.target.images):
        yield from (Use(_scaled(size, scale), 0, _at("evidence", scale)) for scale in (1.0, *SCALES.values()))
        yield from (Use(_scaled(size, scale), 0, _at("dump", scale)) for scale in params.dump.scales)
    for part in data.held_out:
        yield from (Use(size, 0, "evaluate") for size in _sizes(data.size, part.images))


def _sizes(size: tuple[int, int] | None, images: Path) -> list[tuple[int, int]]:
    """The size that params.yaml sets, or those of the images."""
    if size is not None or not images.is_dir():
        return [] if size is None else [size]
    found = set()
    for sample in list_samples(images):
        try:
            found.add(image_size(sample.image))
        except InputError:  # reported with all images
            continue
    return evenly_spread(sorted(found), MOST_SIZES)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    # As the predictor does it.
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _at(stage: str, scale: float) -> str:
    return stage if scale == 1 else f"{stage} at scale {scale:g}"


def _stages(used: Sequence[Use]) -> str:
    return ", ".join(dict.fromkeys(use.stage for use in used))


def _text(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
