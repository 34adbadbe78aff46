"""The settings of each part of the method, one class a section of params.yaml.

Without PyTorch, whose import takes seconds: bad parameters are reported before that. dvc.yaml tracks the defaults of
each class as parameters of the stages that use it, so that changing one makes exactly these run again.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from atp.data.settings import Augmentation
from atp.settings import Count, Decay, Flag, NonNegative, Positive, Section, Share, Whole
from atp.training.settings import Optimisation

ALIGN = "method/align"
"""The paper's own, among the methods that can take its place."""


def align_methods() -> list[str]:
    """What ``align.method`` can name: modules below ``atp``. The listing of atp/baselines is the only list of them."""
    return [ALIGN, *(f"baselines/{name}" for name in _modules("baselines"))]


def module_named(name: str) -> str:
    """The dotted name of the module that ``align.method`` names."""
    return f"atp.{name.replace('/', '.')}"


def mixes() -> list[str]:
    """What ``propagate.mix`` can name: the files of atp/mixing, whose listing is the only list of them."""
    return _modules("mixing")


def _modules(room: str) -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parents[1] / room).glob("[!_]*.py"))


def _unknown(what: str, value: str, known: Sequence[str]) -> ValueError:
    names = {name.rpartition("/")[2]: name for name in known}
    near = difflib.get_close_matches(value.rpartition("/")[2], names, n=1)
    hint = f"is it {names[near[0]]}?" if near else f"there are {', '.join(known)}"
    return ValueError(f"{what} {value}: no such {what}; {hint}")


STRONG = Augmentation(flip=True, jitter=0.3, blur=True)


class SourceSettings(Optimisation):
    """The source model: given, or trained here with cross-entropy (Eq. 1).

    Attributes:
        checkpoint: a given model; training is skipped.
    """

    checkpoint: Path | None = None


class DistillSettings(Optimisation):
    """A student that learns what the source model predicted (Eq. 11); its network is the section ``model``.

    Attributes:
        answers: ``soft`` learns all that is known of each pixel, ``hard`` the most probable class alone.
    """

    answers: Literal["soft", "hard"] = "soft"


class AlignSettings(Optimisation):
    """Implicit feature alignment (Sec. 3.1), or another method in its place.

    Attributes:
        method: ``method/align``, the paper's, or a baseline in its place: ``baselines/tent``, a module below ``atp``.
        baseline: the baseline's settings, where they differ from the published ones: see ``Settings`` in its module.
        alpha: weight of the curriculum entropy (Eq. 2).
        gamma: its exponent.
        weight_grad: whether the gradient passes through its weight (1 - h) ** gamma.
        diversity: weight of the diversity loss (Eq. 3).
        sharpness: lambda in Eq. 3's weight exp(-lambda h).
        weighted: False gives every pixel the weight 1, the paper's L*_div.
        per_image: class distribution of each image (Eq. 3) rather than of the batch (authors' code).
        freeze_classifier: keep g fixed, parameters and buffers, as the paper does.
    """

    method: str = "method/align"
    baseline: dict[str, Any] = Field(default={})
    alpha: NonNegative = 1.0
    gamma: NonNegative = 3.0
    weight_grad: Literal["detach", "full"] = "detach"
    diversity: NonNegative = 0.3
    sharpness: NonNegative = 3.0
    weighted: Flag = True
    per_image: Flag = False
    freeze_classifier: Flag = True

    @property
    def module(self) -> str:
        return module_named(self.method)

    @model_validator(mode="after")
    def _method_exists(self) -> Self:
        methods = align_methods()
        if self.method not in methods:
            raise _unknown("method", self.method, methods)
        if self.method == ALIGN and self.baseline:
            raise ValueError(f"baseline is for a baseline's settings; method is {ALIGN}, whose are beside it")
        return self


class Round(Section):
    """One round of dump and teach.

    Attributes:
        model: folder of the model that labels and is then taught: ``runs/align`` (``runs/distill`` of a black box), or
            an earlier ``runs/teach/rNN``.
    """

    model: Path


class DumpSettings(Section):
    """Pseudo labels on disk (Sec. 3.2), written by one pass over the target images.

    Attributes:
        keep_ratio: K of Eq. 4, the share of each class's pixels that become positive labels.
        negative_threshold: lambda_neg of Eq. 6.
        flip: average the prediction with that of the mirrored image.
        scales: average predictions over these zooms.
        source_weight: share of the source model's prediction in the average.
    """

    keep_ratio: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] = 0.65
    negative_threshold: Share = 0.05
    flip: Flag = False
    # A list: DVC reads the defaults here, and would not find a tuple again in its lock file.
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = [1.0]  # type: ignore[assignment]
    source_weight: Annotated[float, Field(ge=0.0, lt=1.0, strict=True)] = 0.0


class TeachSettings(Optimisation):
    """Bidirectional self-training (Eq. 8).

    Attributes:
        positive: weight of Eq. 5.
        negative: weight of Eq. 7.
        negatives: ``dumped`` with the positives, in each round anew (Algorithm 1, where a round is an epoch), or
            ``online`` from the network as it learns (authors' code).
        class_mix: paste half of the classes of one image, labels and all, onto the next of this process's batch.
        ema: decay of an average of the weights, which is then what the stage hands on; None hands on the weights.
    """

    positive: NonNegative = 1.0
    negative: NonNegative = 1.0
    negatives: Literal["dumped", "online"] = "dumped"
    class_mix: Flag = False
    ema: Decay | None = None


class SplitSettings(Section):
    """Easy and hard target images by mean entropy (Eq. 9).

    Attributes:
        model: folder of the model that ranks and labels: the last round's ``runs/teach/rNN``, or that of the first
            round's beginning.
        easy_ratio: share of the images that count as easy.
    """

    model: Path
    easy_ratio: Decay = 0.5


class PropagateSettings(Optimisation):
    """From easy to hard images, as semi-supervised learning does (Eq. 10).

    Attributes:
        mix: how an easy and a hard image become one training image, a file of atp/mixing: ``class_mix`` pastes half of
            the easy one's classes, ``cut_mix`` a box; ``reco`` is ``class_mix`` with regional contrast; ``none`` asks
            for consistency on the hard one alone, strongly augmented.
        ema: decay of the teacher's weights (authors' code, ClassMix); None takes the network itself, as the paper does.
        confidence: the consistency loss weighs as much as the share of pixels above it (ClassMix, authors' code; the
            paper prints none).
        consistency: weight of Eq. 10.
        contrast: weight of the loss that a mix such as ``reco`` brings.
        negative: weight of Eq. 7 on the easy images.
        balance: 0 draws easy images evenly, 1 by the rarity of the classes that they show.
        hand_on: the ``ema`` teacher or the trained ``student`` becomes the adapted model.
    """

    mix: str = "class_mix"
    ema: Decay | None = 0.99
    confidence: Share = 0.968
    consistency: NonNegative = 1.0
    contrast: NonNegative = 1.0
    negative: NonNegative = 0.0
    balance: Share = 0.0
    hand_on: Literal["ema", "student"] = "ema"

    @property
    def module(self) -> str:
        return f"atp.mixing.{self.mix}"

    @model_validator(mode="after")
    def _mix_exists(self) -> Self:
        if self.mix not in mixes():
            raise _unknown("mix", self.mix, mixes())
        return self

    @model_validator(mode="after")
    def _ema_exists(self) -> Self:
        if self.hand_on == "ema" and self.ema is None:
            raise ValueError("hand_on is ema but ema is null; set ema or hand_on: student")
        return self


class MethodSections(Section):
    """The sections of params.yaml that the method reads, each of the stage of its name."""

    source: SourceSettings | None = None
    align: AlignSettings | None = None
    distill: DistillSettings | None = None
    rounds: dict[str, Round]
    dump: DumpSettings = DumpSettings()
    teach: TeachSettings
    split: SplitSettings
    propagate: PropagateSettings


class AdaptSettings(Section):
    """The whole of Algorithm 1, as ``atp.adapt`` takes it; the sections are those of params.yaml.

    A section can be a mapping of what shall differ from its default here: ``AdaptSettings(teach={"epochs": 2})``.

    Ours: learning rates for a network that comes trained, lower than those of params.yaml, whose small network is
    trained from nothing.

    Attributes:
        size: (width, height) to which every image is resized; None keeps each image's own.
        crop: (width, height) of random training crops; None trains on whole images, which then must be of one size.
        align, propagate: None leaves the part out.
        rounds: of dump and teach; 0 leaves them out.
        easy_ratio: share of the images that count as easy (Eq. 9).
        seed: of everything random.
    """

    size: tuple[Count, Count] | None = None
    crop: tuple[Count, Count] | None = None
    seed: Whole = 0
    align: AlignSettings | None = AlignSettings(epochs=4, batch_size=8, lr=0.001, augmentation=Augmentation(flip=True))
    rounds: Whole = 1
    dump: DumpSettings = DumpSettings(flip=True, scales=(1.0, 1.25))
    teach: TeachSettings = TeachSettings(
        epochs=4, batch_size=8, lr=0.002, warmup_steps=50, class_mix=True, ema=0.99, augmentation=STRONG
    )
    easy_ratio: Decay = 0.5
    propagate: PropagateSettings | None = PropagateSettings(
        epochs=10, batch_size=8, lr=0.002, confidence=0.9, balance=0.5, augmentation=STRONG
    )

    @model_validator(mode="before")
    @classmethod
    def _differences(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: _over(cls.model_fields[name].default, value) if name in cls.model_fields else value
            for name, value in values.items()
        }


def _over(default: object, value: object) -> object:
    """A section's values where a mapping changes some of them; any other value as it is."""
    if not (isinstance(default, Section) and isinstance(value, dict)):
        return value
    return dict(default) | {name: _over(getattr(default, name, None), changed) for name, changed in value.items()}
