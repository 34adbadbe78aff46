"""Class-balanced pseudo labels by a network as it was when a round began (CBST)."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from atp.data.loading import Batch, TrainingImages, mix_seed
from atp.losses.class_balance import class_balanced_labels
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.thresholds import ConfidenceHistogram, confidence_codes, least_confidence
from atp.training.loop import History
from atp.training.prediction import Predictor, chunks, read_chunks
from atp.training.progress import Progress
from atp.training.run import Record, Run
from atp.training.runtime import Runtime


class ClassBalancedLabeller:
    """Labels a batch as the network of this moment does, whatever becomes of it.

    Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training (2018). Ours:
    each batch is labelled when it is drawn, by a copy of the network, where the published code writes all labels first.

    Attributes:
        thresholds: exp(-k_c) of each class, float32, (C,), > 0, as the most probable class's confidence is; infinite
            for a class that was never predicted.
    """

    def __init__(self, network: SegmentationNetwork, images: TrainingImages, portion: float, job: Run) -> None:
        """One pass over the images for the thresholds that ``portion`` of each class's pixels reach."""
        job.runtime.place(network)
        self._network = copy.deepcopy(network).eval().requires_grad_(False)
        job.runtime.share_buffers(self._network)
        histogram = _confidences(self._network, images, job.runtime, f"{job.name} labels")
        never = histogram.counts.shape[1]
        codes = [int(code) for code in histogram.thresholds(portion)]
        self.thresholds = torch.tensor(
            [np.inf if code == never else least_confidence(code) for code in codes], device=job.runtime.device
        )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Labels of the images as they are, before their colours change; (N, H, W), int64, 255 = none."""
        probabilities = self._network(batch.weak).float().softmax(1)
        return class_balanced_labels(probabilities, self.thresholds, batch.valid)


def _confidences(
    network: SegmentationNetwork, images: TrainingImages, runtime: Runtime, name: str
) -> ConfidenceHistogram:
    """Of all the images, shared among the processes."""
    histogram = ConfidenceHistogram(network.num_classes)
    predictor = Predictor([(network, 1.0)], runtime)
    mine = chunks(images.samples, images.size)[runtime.rank :: runtime.world_size]
    with Progress(name, sum(map(len, mine)), enabled=runtime.is_main) as progress:
        for part, pixels in read_chunks(mine, images.size):
            confidences, classes = predictor.probabilities(pixels).max(1)
            codes = confidence_codes(confidences)
            histogram.update(classes.to("cpu", torch.uint8).numpy(), codes.cpu().numpy())
            progress.advance(len(part))
    counts = torch.from_numpy(histogram.counts).to(runtime.device)
    histogram.counts = runtime.sum(counts).cpu().numpy()
    return histogram


def in_rounds(job: Run, rounds: int, train: Callable[[int, Run], History]) -> History:
    """Train in rounds, each with a seed and a training state of its own.

    A round that is finished is not trained again: its state, kept until the stage ends, has its last step.

    Args:
        train: from a round's number, from 0, and its execution to its history.

    Returns:
        The histories as one; there and where the execution records them the steps are counted on from round to round.
    """
    whole: History = {}
    for number in range(rounds):
        begun = int(whole["step"][-1]) if whole else 0
        path = job.resume.path if job.resume else None
        resume = replace(job.resume, path=path.with_stem(f"{path.stem}-{number}")) if job.resume and path else None
        record = _counted_on(job.record, begun) if job.record else None
        history = train(number, replace(job, seed=mix_seed(job.seed, number), resume=resume, record=record))
        for name, values in history.items():
            whole.setdefault(name, []).extend(value + begun if name == "step" else value for value in values)
    return whole


def _counted_on(record: Record, begun: int) -> Record:
    return lambda step, means: record(begun + step, means)
