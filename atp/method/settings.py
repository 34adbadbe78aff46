"""Settings of each part of the method, one class per section of params.yaml.

This module does not import PyTorch, which takes seconds, so that bad parameters are reported at once. dvc.yaml tracks
each class's defaults as parameters of the stages that use it: changing one reruns exactly these stages.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from atp.data.settings import Augmentation, check_reading
from atp.errors import InputError
from atp.settings import Count, Decay, Flag, NonNegative, Positive, Section, Share, Size, Whole, problems
from atp.training.settings import Optimisation, with_length

ALIGN = "method/align"
"""The paper's method, the default of ``align.method``."""


def align_methods() -> list[str]:
    """Valid values of ``align.method``: modules below ``atp``. Baselines are the files in atp/baselines."""
    return [ALIGN, *(f"baselines/{name}" for name in _modules("baselines"))]


def module_named(name: str) -> str:
    """The dotted name of the module that ``align.method`` names."""
    return f"atp.{name.replace('/', '.')}"


def mixes() -> list[str]:
    """Valid values of ``propagate.mix``: the files in atp/mixing."""
    return _modules("mixing")


def _modules(room: str) -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parents[1] / room).glob("[!_]*.py"))


def _unknown(what: str, value: str, known: Sequence[str]) -> ValueError:
    names = {name.rpartition("/")[2]: name for name in known}
    near = difflib.get_close_matches(value.rpartition("/")[2], names, n=1)
    hint = f"is it {names[near[0]]}?" if near else f"choose from {', '.join(known)}"
    return ValueError(f"{what} {value}: no such {what}; {hint}")


STRONG = Augmentation(flip=True, jitter=0.3, blur=True)


class SourceSettings(Optimisation):
    """The source model: given, or trained with cross-entropy (Eq. 1).

    Attributes:
        checkpoint: a given model; if set, nothing is trained.
    """

    checkpoint: Path | None = None


class DistillSettings(Optimisation):
    """Distillation of the source model's predictions into a student (Eq. 11), whose network is the section ``model``.

    Attributes:
        answers: ``soft`` learns all stored probabilities of a pixel, ``hard`` only the most probable class.
    """

    answers: Literal["soft", "hard"] = "soft"


class AlignSettings(Optimisation):
    """Implicit feature alignment (Sec. 3.1), or a baseline in its place.

    Attributes:
        method: a module below ``atp``: ``method/align``, the paper's, or a baseline such as ``baselines/tent``.
        baseline: a baseline's settings that differ from the published ones: see ``Settings`` in its module.
        alpha: weight of the curriculum entropy loss (Eq. 2).
        gamma: exponent of the curriculum weight (1 - h) ** gamma.
        weight_grad: whether the gradient passes through the curriculum weight (``full``) or not (``detach``).
        diversity: weight of the diversity loss (Eq. 3).
        sharpness: lambda in Eq. 3's weight exp(-lambda h), of the entropy h divided by log C; the paper's is in nats.
        weighted: False gives every pixel the weight 1, the paper's L*_div.
        diversity_grad: whether the gradient passes through Eq. 3's weight (``full``) or not (``detach``, authors'
            code).
        per_image: use each image's class distribution (Eq. 3) instead of the batch's (authors' code).
        freeze_classifier: keep the classifier g fixed, parameters and buffers, as in the paper.
    """

    method: str = "method/align"
    baseline: dict[str, Any] = Field(default={})
    alpha: NonNegative = 1.0
    gamma: NonNegative = 3.0
    weight_grad: Literal["detach", "full"] = "detach"
    diversity: NonNegative = 0.3
    sharpness: NonNegative = 3.0
    weighted: Flag = True
    diversity_grad: Literal["detach", "full"] = "detach"
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
            raise ValueError(f"baseline: only for a baseline's settings, but method is {ALIGN}; leave it out")
        return self


class Round(Section):
    """One round of dump and teach.

    Attributes:
        model: folder of the model that writes the pseudo labels and then trains on them: ``runs/align`` (black box:
            ``runs/distill``), or an earlier ``runs/teach/rNN``.
    """

    model: Path


class DumpSettings(Section):
    """Pseudo labels on disk (Sec. 3.2), written in one pass over the target images.

    Attributes:
        keep_ratio: K of Eq. 4, the share of each class's pixels that become positive labels.
        negative_threshold: lambda_neg of Eq. 6.
        negative_cap: limit ``negative_threshold`` to 1/C, for C classes. False is Eq. 6 as printed, except that the
            most probable class is never negative.
        flip: average the prediction with that of the mirrored image.
        scales: average predictions over the image at these scales (multi-scale test-time augmentation).
        source_weight: share of the source model's prediction in the average.
    """

    keep_ratio: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] = 0.65
    negative_threshold: Share = 0.05
    negative_cap: Flag = True
    flip: Flag = False
    # A list, because DVC reads this default and its lock file does not preserve tuples.
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = [1.0]  # type: ignore[assignment]
    source_weight: Annotated[float, Field(ge=0.0, lt=1.0, strict=True)] = 0.0


class TeachSettings(Optimisation):
    """Bidirectional self-training (Eq. 8).

    Attributes:
        positive: weight of Eq. 5.
        negative: weight of Eq. 7.
        negatives: ``dumped`` with the positives in each round (Algorithm 1, where a round is an epoch), or ``online``,
            recomputed at every step (authors' code).
        class_mix: paste half of an image's classes, with their labels, onto the next image of this process's batch.
        ema: decay of an exponential moving average of the weights, which becomes the stage's model; None keeps the
            trained weights.
        rounds_per_schedule: number of consecutive rounds that are one training with renewed pseudo labels: momentum,
            the poly schedule, the trained weights and their average go on from round to round, and the next round
            starts anew. 1 starts every round anew, from the previous round's model. A round after one that
            ``evidence.on_collapse`` reverted, and one that starts from another model than a round's, also start anew.
    """

    positive: NonNegative = 1.0
    negative: NonNegative = 1.0
    negatives: Literal["dumped", "online"] = "dumped"
    class_mix: Flag = False
    ema: Decay | None = None
    rounds_per_schedule: Count = 1


class SplitSettings(Section):
    """Easy and hard target images by mean entropy (Eq. 9).

    Attributes:
        model: folder of the model that ranks and labels the images: a round's ``runs/teach/rNN``, or the model from
            which the first round starts.
        easy_ratio: share of the images that count as easy.
    """

    model: Path
    easy_ratio: Decay = 0.5


class PropagateSettings(Optimisation):
    """Semi-supervised learning from easy to hard images (Eq. 10).

    Attributes:
        mix: how an easy and a hard image are mixed, a file in atp/mixing: ``class_mix`` pastes half of the easy image's
            classes, ``cut_mix`` a box; ``reco`` is ``class_mix`` with regional contrast; ``none`` uses the strongly
            augmented hard image alone; ``uni_match`` has two strong views with boxes and one with feature dropout;
            ``mic`` is ``class_mix`` and a view with most of its blocks hidden.
        ema: decay of the teacher's weights (authors' code, ClassMix); None uses the network itself, as in the paper.
        confidence: probability threshold; the consistency loss is weighted by the share of pixels above it (ClassMix,
            authors' code; not in the paper), or with ``uni_match`` counts only these pixels (published: .95).
        consistency: weight of Eq. 10.
        contrast: weight of the loss that a mix such as ``reco`` adds.
        negative: weight of Eq. 7 on the easy images.
        balance: 0 samples easy images uniformly, 1 by the rarity of their classes.
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
            raise ValueError("hand_on is ema but ema is null; set ema, or hand_on: student")
        return self


class MethodSections(Section):
    """The sections of params.yaml that the method reads, each named after its stage."""

    source: SourceSettings | None = None
    align: AlignSettings | None = None
    distill: DistillSettings | None = None
    rounds: dict[str, Round]
    dump: DumpSettings = DumpSettings()
    teach: TeachSettings
    split: SplitSettings
    propagate: PropagateSettings


class AdaptSettings(Section):
    """Settings of Algorithm 1 for ``atp.adapt``; the sections are those of params.yaml.

    A section can be a mapping that overrides some of its defaults here: ``AdaptSettings(teach={"epochs": 2})``.

    Ours: learning rates for a pretrained network, lower than those in params.yaml, whose small network is trained from
    scratch.

    Attributes:
        size: (width, height) to which every image is resized; None keeps each image's own.
        crop: (width, height) of random training crops; None trains on whole images, which must then have one size.
        window: (width, height) of overlapping windows in which labels are dumped and the adapted network predicts, for
            images larger than it can take; None predicts whole images.
        align, propagate: None skips the part.
        rounds: number of rounds of dump and teach; 0 skips them.
        easy_ratio: share of the images that count as easy (Eq. 9).
        seed: random seed.

    Raises:
        InputError: if a setting is unknown, of the wrong type or out of range.
    """

    size: Size | None = None
    crop: Size | None = None
    window: Size | None = None
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

    # Before the next one, which tells this one's errors.
    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        check_reading(self.size, self.window)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _told_in_one_line(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            # Without its cause: a script would end with pydantic's lines as well.
            raise InputError(
                *(f"{cls.__name__}: {line}" for line in problems(error, cls, unknown="no such setting"))
            ) from None

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
    """Merge a mapping into a section's default values; return any other value unchanged."""
    if not (isinstance(default, Section) and isinstance(value, dict)):
        return value
    changes = with_length(value) if isinstance(default, Optimisation) else value
    return dict(default) | {name: _over(getattr(default, name, None), changed) for name, changed in changes.items()}
