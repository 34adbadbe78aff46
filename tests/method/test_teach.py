"""Teach's objective term by term, its variants, and what it hands on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from atp.data.loading import Batch, Images, TrainingImages
from atp.data.settings import Augmentation
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.method.settings import DumpSettings, TeachSettings
from atp.method.teach import taught_images, teach
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.pseudo_labels.negatives import negative_labels
from atp.training.ema import AveragedNetwork
from atp.training.loop import History
from atp.training.run import Run
from atp.training.runtime import Runtime
from tests.halves import halves
from tests.method.known import CPU, HISTORY, RUN, Captured, Known, batch, captured, drawn, logits, same, stored, written

AS_THEY_ARE = Augmentation(flip=False)


@pytest.fixture
def images(tmp_path: Path) -> TrainingImages:
    """Four images whose bright half is class 1, with positive labels and without negative ones."""
    return halves(tmp_path, AS_THEY_ARE, 3)


THRESHOLD = 0.2
DUMPED = DumpSettings()
DUMPING = DumpSettings(negative_threshold=THRESHOLD)


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3))


def taught(
    images: TrainingImages, dumping: DumpSettings = DUMPED, **changes: Any
) -> tuple[SegmentationNetwork, History]:
    """After a single step on all four images."""
    settings = {"epochs": 1, "batch_size": 4, "lr": 0.05, "augmentation": AS_THEY_ARE, **changes}
    return teach(fresh(), images, TeachSettings.model_validate(settings), dumping, Run("teach", 7, CPU))


def test_positives_only_need_no_negatives(images: TrainingImages) -> None:
    _, history = taught(images, negative=0.0)
    assert history.keys() == {"step", "loss", "positive"}
    assert history["loss"] == history["positive"]


# A network that has learned nothing is near 1/3 everywhere: some classes are below.
@pytest.mark.parametrize(("threshold", "cap"), [(0.33, True), (0.34, False)])
def test_online_negatives_are_those_of_the_network_as_it_learns(
    images: TrainingImages, threshold: float, cap: bool
) -> None:
    dumping = DumpSettings(negative_threshold=threshold, negative_cap=cap)
    _, history = taught(images, dumping, negatives="online")
    network = fresh().train()
    batch = images.collate([images[index, 0] for index in range(4)])
    logits = network(batch.strong)
    negatives = negative_labels(logits.softmax(1), threshold, cap=cap)
    assert negatives.any()
    assert cap or not torch.equal(negatives, negative_labels(logits.softmax(1), threshold))
    expected = negative_pseudo_label_loss(logits, negatives, batch.valid).item()
    assert history["negative"] == [pytest.approx(expected, rel=1e-4)]
    assert history["loss"] == [pytest.approx(history["positive"][0] + expected, rel=1e-4)]


def test_negatives_only_teach_too(images: TrainingImages) -> None:
    network, history = taught(
        images, DUMPING.model_copy(update={"negative_threshold": 0.33}), negatives="online", positive=0.0
    )
    assert history["loss"] == history["negative"]
    assert not torch.equal(network.head.branches[0].weight, fresh().head.branches[0].weight)


MASKS = torch.tensor([[[True, False, True, False], [False, False, True, False]], [[False, True, True, True]] * 2])


def captured_teach(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Captured:
    """With ClassMix cutting out ``MASKS``, whatever the labels."""
    settings = TeachSettings.model_validate({"epochs": 1, "batch_size": 2, "lr": 0.1, **changes})
    teaching = captured(monkeypatch, teach, Known(), "images", settings, DUMPING, RUN)

    def masks(labels: Tensor) -> Tensor:
        assert torch.equal(labels, batch(0).labels)
        return MASKS

    monkeypatch.setattr("atp.method.teach.class_mix_masks", masks)
    return teaching


def mixed(given: Batch) -> Batch:
    """Where the mask is, an image; elsewhere the other one of the two. With all that is known of its pixels."""

    def each(values: Tensor) -> Tensor:
        masks = MASKS if values.ndim == 3 else MASKS[:, None]
        return torch.where(masks, values, values[[1, 0]])

    names = ("strong", "labels", "negatives", "valid")
    changed = batch(0, **{name: each(getattr(given, name)) for name in names})
    assert all(not torch.equal(getattr(changed, name), getattr(given, name)) for name in names)
    return changed


@pytest.mark.parametrize("class_mix", [False, True])
@pytest.mark.parametrize("negatives", ["dumped", "online"])
@pytest.mark.parametrize(("positive", "negative"), [(1.0, 1.0), (0.5, 3.0), (0.0, 1.0), (2.0, 0.0)])
def test_each_term_by_its_settings(
    monkeypatch: pytest.MonkeyPatch, class_mix: bool, negatives: str, positive: float, negative: float
) -> None:
    given = mixed(batch(0)) if class_mix else batch(0)
    answers = logits(given.strong, training=True)
    absent = given.negatives if negatives == "dumped" else answers.softmax(1) < THRESHOLD
    expected = {"positive": positive_pseudo_label_loss(answers, given.labels, given.valid)}
    expected["loss"] = positive * expected["positive"]
    if negative:
        expected["negative"] = negative_pseudo_label_loss(answers, absent, given.valid)
        expected["loss"] = expected["loss"] + negative * expected["negative"]
    settings = {"class_mix": class_mix, "negatives": negatives, "positive": positive, "negative": negative}
    same(captured_teach(monkeypatch, **settings).losses(batch(0)), expected)


def test_online_negatives_are_float32_under_autocast(images: TrainingImages) -> None:
    """bfloat16 has eight bits: a probability near the threshold would be taken for another."""
    given, seen = batch(0), []
    teaching = TeachSettings(epochs=1, batch_size=2, lr=0.1, negatives="online")
    with pytest.MonkeyPatch.context() as patch:
        part = captured(patch, teach, Known(), "images", teaching, DUMPING, RUN)
        patch.setattr(
            "atp.method.teach.negative_labels",
            lambda probabilities, threshold, cap: seen.append(probabilities) or probabilities < threshold,
        )
        with torch.autocast("cpu", torch.bfloat16):
            part.losses(given)
    assert seen[0].dtype == torch.float32
    assert not seen[0].requires_grad


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_average_is_kept_and_handed_on_where_there_is_one(images: TrainingImages, ema: float | None) -> None:
    network = fresh()
    settings = TeachSettings(epochs=4, batch_size=2, lr=0.05, negative=0.0, ema=ema, augmentation=AS_THEY_ARE)
    handed_on, history = teach(network, images, settings, DUMPING, RUN)
    assert history["step"][-1] == 8
    assert (handed_on is network) == (ema is None)
    if ema:
        # The average of where the network has been is neither its beginning nor its end.
        ends = [part.head.branches[0].weight for part in (handed_on, network, fresh())]
        assert not torch.equal(ends[0], ends[1])
        assert not torch.equal(ends[0], ends[2])


def test_the_average_forgets_as_slowly_as_it_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    teaching = captured_teach(monkeypatch, ema=0.75)
    average = teaching.training.ema
    assert isinstance(average, AveragedNetwork)
    assert average._decay == 0.75
    assert teaching.returned == (average.network, HISTORY)
    assert captured_teach(monkeypatch).training.ema is None


def test_it_trains_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    training = captured_teach(monkeypatch, negative=0.125).training
    assert isinstance(training.network, Known)
    assert (training.images, training.job, training.settings.negative) == ("images", RUN, 0.125)


@pytest.mark.parametrize(
    ("rank", "world_size", "batch_size", "class_mix", "warned"),
    [
        (0, 1, 1, True, True),
        (0, 2, 2, True, True),
        (1, 2, 2, True, False),
        (0, 1, 2, True, False),
        (0, 2, 4, True, False),
        (0, 1, 1, False, False),
    ],
)
def test_class_mix_of_one_image_a_process_is_reported(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rank: int,
    world_size: int,
    batch_size: int,
    class_mix: bool,
    warned: bool,
) -> None:
    settings = TeachSettings(epochs=1, batch_size=batch_size, lr=0.1, class_mix=class_mix)
    runtime = Runtime(torch.device("cpu"), rank=rank, world_size=world_size)
    captured(monkeypatch, teach, Known(), "images", settings, DUMPING, Run("teach@r02", 7, runtime))
    line = "teach@r02: class_mix has no effect with one image per process; raise teach.batch_size"
    assert caplog.messages == [line] * warned


@pytest.mark.parametrize(
    ("negative", "negatives", "read"), [(1.0, "dumped", True), (1.0, "online", False), (0.0, "dumped", False)]
)
def test_negatives_are_read_from_disk_only_where_they_are_used(
    tmp_path: Path, negative: float, negatives: str, read: bool
) -> None:
    pixels = dict(zip("ab", drawn(2, 0), strict=True))
    store = stored(tmp_path, {name: logits(image, training=False).softmax(0) for name, image in pixels.items()})
    settings = TeachSettings(
        epochs=1, batch_size=2, lr=0.1, negative=negative, negatives=negatives, augmentation=Augmentation(jitter=0.5)
    )
    target = Images(written(tmp_path / "images", pixels))
    weak, strong, labels, _, negative_bits, *_ = taught_images(target, store, settings)[1, 3]
    assert not torch.equal(strong, weak), "augmented as the section says"
    image = pixels["b"] if torch.equal(weak, pixels["b"]) else pixels["b"].flip(-1)
    assert torch.equal(weak, image)
    assert torch.equal(labels, logits(image, training=False).argmax(0).byte())
    expected = logits(image, training=False).softmax(0) < THRESHOLD
    assert torch.equal(negative_bits, expected if read else expected[:0])
