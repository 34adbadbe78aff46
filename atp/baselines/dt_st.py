"""DT-ST: online self-training whose teacher is updated when its student has improved, with rare classes pasted.

Zhao et al., Towards Better Stability and Adaptability: Improve Online Self-Training for Model Adaptation in Semantic
Segmentation (2023). Authors' code: github.com/DZhaoXd/DT-ST.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.baselines._teacher import hand_over, teacher_probabilities
from atp.data.loading import Batch, TrainingImages
from atp.evaluation.evidence.indicators import neighbourhood_density
from atp.losses.pixels import NO_LABEL, in_full_precision, mean_where
from atp.losses.supervised import pixel_cross_entropy
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import Count, Decay, NonNegative, Positive, Share
from atp.training.ema import AveragedNetwork
from atp.training.loop import History, Training
from atp.training.mixing import mix
from atp.training.prediction import Predictor, chunks, read_chunks
from atp.training.progress import Progress
from atp.training.run import Run

BETA = 0.001
"""Initial frequency of every class; classes as rare as this have a lower threshold. Authors' code."""

PRESENT = 50 / (1024 * 512)
"""Share of an image's pixels from which a class counts as present. Authors' code: 50 pixels."""

PIXELS = 100
"""Pixels of an image that its density is computed from. Authors' code."""


class Settings(BaselineSettings):
    """Authors' code: SGD at 2.5e-4, as in ATP's align, for the classifier 2.5e-3.

    Attributes:
        ema: decay of an update of the teacher. Authors' code: .99.
        peak, floor: a pixel is labelled if its probability is above this share of the image's highest one for the
            class, and above the floor. Authors' code: .8, .2.
        negative: weight of the negative labels. Authors' code: .5.
        first_check, check_every, update_after: steps since the teacher's update after which the student is first
            compared with its earlier self, steps between two such comparisons, and number of steps above which the
            next one updates the teacher in any case. Authors' code: 9, 3, 30.
        batchnorm: Authors' code: ``eval``.
    """

    classifier_lr_factor: Positive = 10.0
    ema: Decay = 0.99
    peak: Share = 0.8
    floor: Share = 0.2
    negative: NonNegative = 0.5
    first_check: Count = 9
    check_every: Count = 3
    update_after: Count = 30
    batchnorm: Literal["train", "eval"] = "eval"

    title = "DT-ST"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """A faster teacher, since the published one is for 20 000 steps, and a lower rate."""
        return ({"ema": 0.9}, {"lr_factor": 0.1}, {"ema": 0.9, "lr_factor": 0.1})


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the whole network; the teacher becomes the adapted model, as in the authors' code.

    Ours: images are sampled by the classes that the initial model finds in them, where the authors' code finds classes
    again every 3000 steps. Pasted is a class of the batch's next image, in place, where the authors' code pastes single
    objects, enlarged and moved, of images on which the teacher agrees with an earlier teacher.
    """
    teacher = DynamicTeacher(network, settings, run)
    weights = balancing_weights(class_presence(network, images, run))

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        teacher.watch(network, batch.weak[0])
        probabilities = teacher_probabilities(teacher, batch, run.runtime)
        teacher.count(probabilities, batch.valid)
        thresholds = class_thresholds(probabilities, teacher.frequencies, batch.valid, settings.peak, settings.floor)
        labels = confident_labels(probabilities, thresholds, batch.valid)
        # The images are pasted onto their predecessors.
        pasted = pasted_pixels(labels, teacher.frequencies)
        strong, labels, probabilities, valid = (
            mix(pasted, values, values.roll(1, 0)) for values in (batch.strong, labels, probabilities, batch.valid)
        )
        logits = model(strong)
        positive = mean_where(pixel_cross_entropy(logits, labels), valid)
        negative = negative_loss(logits, probabilities, valid)
        return {
            "loss": positive + settings.negative * negative,
            "positive": positive,
            "negative": negative,
            "labelled": mean_where((labels != NO_LABEL).float(), valid),
        }

    history = Training(network, settings, images, run, ema=teacher, weights=weights).run(objective)
    hand_over(teacher, network)
    return history


class DynamicTeacher(AveragedNetwork):
    """A teacher that is updated when the student's neighbourhood density has risen on most of the recent images.

    Ours: one image of each step, and with several processes those of the main one, which decides for all.

    Attributes:
        frequencies: moving average of each class's mean probability, float32, (C,).
    """

    def __init__(self, network: SegmentationNetwork, settings: Settings, run: Run) -> None:
        super().__init__(network, settings.ema, ramp=False)
        self._settings, self._runtime = settings, run.runtime
        self.frequencies = torch.full((network.num_classes,), BETA, device=run.runtime.device)
        # Images, pixels, and the densities that the student had there.
        self._watched: list[tuple[Tensor, Tensor, float]] = []

    def watch(self, network: SegmentationNetwork, image: Tensor) -> None:
        """Remember an image, uint8, (3, H, W), and the student's density at random pixels."""
        if self._runtime.is_main:
            pixels = torch.randperm(image[0].numel())[:PIXELS]
            self._watched.append((image.cpu(), pixels, self._density(network, image, pixels)))

    def count(self, probabilities: Tensor, valid: Tensor) -> None:
        """Update the frequencies with the probabilities of a batch, of all processes."""
        sums = self._runtime.sum(probabilities.mul(valid[:, None]).sum((0, 2, 3)))
        pixels = self._runtime.sum(valid.sum())
        self.frequencies = updated_frequencies(self.frequencies, sums / pixels.clamp_min(1))

    def update(self, network: SegmentationNetwork) -> None:
        if self._runtime.from_main(self._due(network)):
            super().update(network)
            self._watched.clear()

    def _due(self, network: SegmentationNetwork) -> bool:
        settings, steps = self._settings, len(self._watched)
        if steps < settings.first_check or (steps - settings.first_check) % settings.check_every:
            return False
        rose = [self._density(network, image, pixels) > before for image, pixels, before in self._watched]
        return sum(rose) > steps / 2 or steps > settings.update_after

    def _density(self, network: SegmentationNetwork, image: Tensor, pixels: Tensor) -> float:
        was_training = network.training
        probabilities = Predictor([(network, 1.0)], self._runtime).probabilities(image[None])[0]
        network.train(was_training)
        return neighbourhood_density(probabilities.flatten(1).T[pixels.to(probabilities.device)]).item()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"frequencies": self.frequencies, "watched": self._watched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.frequencies = state["frequencies"].to(self._runtime.device)
        self._watched = list(state["watched"])


def updated_frequencies(frequencies: Tensor, shares: Tensor) -> Tensor:
    """Moving average of the classes' mean probabilities, (C,), which begins with a class's first one."""
    first = (frequencies == BETA) & (shares > 1e-8)
    return 0.9 * frequencies.where(~first, shares) + 0.1 * shares


def class_thresholds(probabilities: Tensor, frequencies: Tensor, valid: Tensor, peak: float, floor: float) -> Tensor:
    """Threshold of each class in each image, (N, C): max(floor, peak * p_c * (1 - exp(-frequency_c / BETA))).

    Here p_c is the image's highest probability of a pixel at which class c is the most probable; 0 without such pixels.

    Args:
        probabilities: the teacher's prediction, (N, C, H, W).
        frequencies: of the classes, (C,).
        valid: False at padding, (N, H, W), bool.
    """
    confidence, classes = probabilities.max(1)
    ids = classes.flatten(1)
    highest = probabilities.new_zeros(probabilities.shape[:2])
    highest.scatter_reduce_(1, ids, confidence.where(valid, 0).flatten(1), "amax")
    return (peak * highest * (1 - torch.exp(-frequencies / BETA))).clamp_min(floor)


def confident_labels(probabilities: Tensor, thresholds: Tensor, valid: Tensor) -> Tensor:
    """The most probable classes where they exceed the image's thresholds, (N, C), else 255; (N, H, W), int64."""
    confidence, classes = probabilities.max(1)
    enough = confidence > thresholds.gather(1, classes.flatten(1)).view_as(confidence)
    return classes.masked_fill(~(enough & valid), NO_LABEL)


def pasted_pixels(labels: Tensor, frequencies: Tensor) -> Tensor:
    """Pixels of one rare class in each image, bool, (N, H, W), drawn with probability proportional to 1 - frequency.

    Ours: a class is rare if its frequency is below 1 / C, where the authors' code lists classes of Cityscapes.

    Args:
        labels: class ids below C, 255 = none, (N, H, W), int64.
        frequencies: of the classes, (C,).
    """
    count = len(frequencies)
    present = labels.new_zeros(len(labels), NO_LABEL + 1).scatter_(1, labels.flatten(1), 1)[:, :count]
    weights = present * (1 - frequencies) * (frequencies < 1 / count)
    # The first of independent exponential clocks: class c wins with probability weight_c / sum(weights).
    clocks = torch.empty(weights.shape).exponential_().to(weights.device) / weights
    chosen = clocks.argmin(1)
    some = weights.sum(1) > 0
    return (labels == chosen[:, None, None]) & some[:, None, None]


def negative_loss(logits: Tensor, probabilities: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy that lowers the scores of classes whose probability for the teacher is at most 1 / C.

    Args:
        logits: (N, C, H, W), any float dtype; computed in at least float32.
        probabilities: the teacher's prediction, (N, C, H, W).
        valid: False at padding, (N, H, W), bool.

    Returns:
        Scalar >= 0, the mean of log(1 + exp(logit)) over these classes and pixels, nats; 0 if there are none.
    """
    absent = (probabilities <= 1 / logits.shape[1]) & valid[:, None]
    return mean_where(F.softplus(in_full_precision(logits)), absent)


def class_presence(network: SegmentationNetwork, images: TrainingImages, run: Run) -> Tensor:
    """Which classes the network finds in each image, bool, (images, C), on the CPU; divided among the processes."""
    runtime, number = run.runtime, {sample: index for index, sample in enumerate(images.samples)}
    found = torch.zeros(len(number), network.num_classes, device=runtime.device)
    predictor = Predictor([(network, 1.0)], runtime)
    mine = chunks(images.samples, images.size)[runtime.rank :: runtime.world_size]
    with Progress(f"{run.name} classes", sum(map(len, mine)), enabled=runtime.is_main) as progress:
        for part, pixels in read_chunks(mine, images.pixels, runtime):
            classes = predictor.probabilities(pixels).argmax(1).flatten(1)
            for sample, ids in zip(part, classes, strict=True):
                found[number[sample]] = (torch.bincount(ids, minlength=found.shape[1]) >= PRESENT * len(ids)).float()
            progress.advance(len(part))
    return runtime.sum(found).cpu() > 0


def balancing_weights(present: Tensor) -> Tensor:
    """Sampling weights of images, float64, (images,), which favour rare classes.

    A class is drawn with probability proportional to 1 / log(1.01 + its share), and then one of its images. Ours: its
    share is that among the classes of all images, where the authors' code uses the images drawn so far.

    Args:
        present: classes of each image, bool, (images, C).
    """
    images = present.double().sum(0)
    chance = 1 / torch.log(1.01 + images / images.sum())
    return (present * chance / images.clamp_min(1)).sum(1)
