"""Propagate's objective term by term, how often easy images are drawn, and what it hands on."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from atp.data.folder import list_samples
from atp.data.labels import IGNORE
from atp.data.loading import FolderLabels, Images, PairBatch, PairedImages, TrainingImages
from atp.data.settings import Augmentation
from atp.losses.consistency import consistency_loss
from atp.losses.pseudo_label import negative_pseudo_label_loss
from atp.losses.supervised import segmentation_cross_entropy
from atp.method.propagate import contrast_head, label_counts, paired_images, propagate, rarity_weights
from atp.method.settings import PropagateSettings, mixes
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.classifier_tap import ClassifierTap
from atp.training.contrast import RegionalContrast
from atp.training.ema import AveragedNetwork
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import Runtime
from tests.method.known import (
    HISTORY,
    RUN,
    Captured,
    Known,
    batch,
    captured,
    drawn,
    logits,
    same,
    stored,
    written,
)


def test_no_balance_draws_evenly() -> None:
    assert rarity_weights([torch.tensor([1, 2])], 0.0) is None


def test_rare_classes_come_up_more_often() -> None:
    common, rare = torch.tensor([90, 0]), torch.tensor([80, 10])
    weights = rarity_weights([common, common, rare], 1.0)
    assert weights is not None
    assert weights[2] > 2 * weights[0]
    assert weights.mean() == pytest.approx(1)


def test_worked_by_hand() -> None:
    # Shares overall: 3/4 and 1/4. Image 1: 1 / (3/4) = 4/3; image 2: (1/2) / (3/4) + (1/2) / (1/4) = 8/3; mean 2.
    weights = rarity_weights([torch.tensor([2, 0]), torch.tensor([1, 1])], 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 4 / 3])
    half = rarity_weights([torch.tensor([2, 0]), torch.tensor([1, 1])], 0.5)
    assert half is not None
    assert half.tolist() == pytest.approx([5 / 6, 7 / 6])


def test_it_is_the_share_in_the_image_that_counts_not_the_pixels() -> None:
    # Shares overall: 7/8 and 1/8. Image 1: 1 / (7/8) = 8/7; image 2: (1/2) / (7/8) + (1/2) / (1/8) = 32/7; mean 20/7.
    weights = rarity_weights([torch.tensor([6, 0]), torch.tensor([1, 1])], 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.4, 1.6])
    # A single labelled pixel is an image's whole share. Image 1: 1 / (1/2); image 2: (3/7 + 4/7) / (1/2).
    even = rarity_weights([torch.tensor([1, 0]), torch.tensor([3, 4])], 1.0)
    assert even is not None
    assert even.tolist() == pytest.approx([1, 1])


def test_an_image_without_labels_and_an_absent_class_are_no_trouble() -> None:
    weights = rarity_weights([torch.tensor([0, 0, 0]), torch.tensor([5, 5, 0])], 0.5)
    assert weights is not None
    assert weights.isfinite().all()
    assert (weights > 0).all()


CONFIG = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=2)
MIXES = tuple(mixes())
ONE_VIEW = ("class_mix", "cut_mix", "none", "reco")


class KillError(Exception):
    """Stands for kill -9 between two steps."""


@pytest.fixture
def pairs(tmp_path: Path) -> PairedImages:
    """Four easy and four hard images whose bright half is class 1."""
    for index in range(8):
        ids = torch.zeros(16, 24, dtype=torch.uint8)
        ids[:, 3 * index :] = 1
        for kind, array in (("images", (ids * 200)[..., None].expand(-1, -1, 3)), ("labels", ids)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array.numpy()).save(tmp_path / kind / f"{index}.png")
    samples = list_samples(tmp_path / "images", tmp_path / "labels")
    augmentation = Augmentation(jitter=0.2)
    easy = TrainingImages(samples[:4], augmentation, labels=FolderLabels(2))
    return PairedImages(easy, TrainingImages(samples[4:], augmentation, second=True))


def section(mix: str, ema: float | None) -> PropagateSettings:
    return PropagateSettings.model_validate(
        {"epochs": 3, "batch_size": 2, "lr": 0.05, "mix": mix, "ema": ema, "hand_on": "ema" if ema else "student"}
    )


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(CONFIG)


def run(state: Path | None = None) -> Run:
    resume = ResumeFile(state, "fingerprint", 0.0) if state else None
    return Run("propagate", 7, Runtime(torch.device("cpu")), resume)


def test_a_batch_of_any_size_is_an_easy_and_a_hard_half(pairs: PairedImages) -> None:
    """Three pairs: a batch of one, two or four would also be two parts when cut into three."""
    _, history = propagate(fresh(), pairs, section("class_mix", None).model_copy(update={"batch_size": 3}), run())
    assert all(math.isfinite(value) for value in history["loss"])


@pytest.mark.parametrize("ema", [0.9, None], ids=["ema", "itself"])
@pytest.mark.parametrize("mix", MIXES)
def test_every_variant_killed_ends_with_the_same_bits(
    pairs: PairedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str, ema: float | None
) -> None:
    undisturbed, history = propagate(fresh(), pairs, section(mix, ema), run())
    steps = 0
    step = Training._step

    def killed(self: Training[PairBatch], *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KillError
        return step(self, *args)

    state = tmp_path / "state.pt"
    monkeypatch.setattr(Training, "_step", killed)
    with pytest.raises(KillError):
        propagate(fresh(), pairs, section(mix, ema), run(state))
    monkeypatch.undo()
    assert state.exists()
    continued, history_continued = propagate(fresh(), pairs, section(mix, ema), run(state))
    assert history == history_continued
    for (name, mine), theirs in zip(undisturbed.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert ("contrast" in history) == (mix == "reco")
    assert not undisturbed.head._forward_hooks


def test_variants_differ(pairs: PairedImages) -> None:
    weights = [
        propagate(fresh(), pairs, section(mix, 0.9), run())[0].state_dict()["backbone.conv1.weight"] for mix in MIXES
    ]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(weights, 2))


def test_reco_s_head_learns_and_is_not_handed_on(pairs: PairedImages, tmp_path: Path) -> None:
    network, history = propagate(fresh(), pairs, section("reco", 0.9), run(tmp_path / "state.pt"))
    assert network.state_dict().keys() == fresh().state_dict().keys()
    assert all(math.isfinite(value) and value > 0 for value in history["contrast"])
    torch.manual_seed(7)
    initial = RegionalContrast(96).state_dict()
    learned = torch.load(tmp_path / "state.pt", weights_only=True)["extra"]
    assert learned["head.weight"].shape == initial["head.weight"].shape
    assert not torch.equal(learned["head.weight"], initial["head.weight"])


MASKS = torch.tensor([[[True, False, True, False], [False, False, True, False]], [[False, True, True, True]] * 2])


class Recorded(nn.Module):
    """In the place of ReCo's head: a loss of 7, and what it was given."""

    def forward(self, *given: Tensor) -> Tensor:
        self.given = given
        return torch.tensor(7.0)


def pair() -> PairBatch:
    """Two easy and two hard images; of the hard ones the last column of the second is padding."""
    return PairBatch(batch(0), batch(1, negatives=batch(1).negatives[:, :0], labels=torch.full((2, 2, 4), IGNORE)))


def captured_propagate(monkeypatch: pytest.MonkeyPatch, given: PairBatch | None = None, **changes: Any) -> Captured:
    """With ``MASKS``, whatever the labels, and a confidence of which the hard images' pixels have some."""
    settings = {"epochs": 1, "batch_size": 2, "lr": 0.1, "confidence": 0.8, "mix": "none", **changes}
    settings = {"ema": 0.75, "hand_on": "ema" if settings.get("ema", 0.75) else "student", **settings}

    def class_masks(labels: Tensor) -> Tensor:
        assert torch.equal(labels, batch(0).labels), "the easy images' classes are cut out"
        return MASKS

    def boxes(labels: Tensor) -> Tensor:
        assert labels.shape == (2, 2, 4)
        return MASKS.roll(1, 2)

    class_mixes, box_mixes = ("class_mix", "reco", "mic"), ("cut_mix", "uni_match")
    for mix in class_mixes + box_mixes:
        monkeypatch.setattr(f"atp.mixing.{mix}.masks", class_masks if mix in class_mixes else boxes)
    monkeypatch.setattr("atp.method.propagate.contrast_head", lambda *given: Recorded())
    part = PropagateSettings.model_validate(settings)
    return captured(monkeypatch, propagate, Known(), "images", part, RUN, "weights", given=given)


def pasted(mask: Tensor, easy: Tensor, hard: Tensor) -> Tensor:
    """Easy pixels where the mask is."""
    return torch.where(mask if easy.ndim == 3 else mask[:, None], easy, hard)


def expected_losses(mix: str, confidence: float = 0.8) -> dict[str, Any]:
    """Worked out anew from the logits that ``Known`` gives."""
    easy, hard = pair().easy, pair().hard
    teacher = logits(hard.weak, training=False).softmax(1)
    certain, answer = teacher.max(1)
    assert not torch.equal(answer, logits(hard.strong, training=False).argmax(1)), "the views differ"
    assert not torch.equal(answer, logits(hard.weak, training=True).argmax(1)), "the modes differ"
    answer[~hard.valid] = IGNORE
    weight = torch.stack([(certain[n][hard.valid[n]] >= confidence).float().mean() for n in range(2)])
    weight = weight[:, None, None].expand(2, 2, 4)
    image, reliable = hard.strong, torch.where(certain >= 0.7, answer, IGNORE)
    assert (reliable != answer).any()
    if mix != "none":
        mask = MASKS.roll(1, 2) if mix == "cut_mix" else MASKS
        image = pasted(mask, easy.strong, image)
        answer, reliable = pasted(mask, easy.labels, answer), pasted(mask, easy.labels, reliable)
        weight = pasted(mask, torch.ones(2, 2, 4), weight)
    student = logits(easy.strong, training=True), logits(image, training=True)
    losses = {
        "supervised": segmentation_cross_entropy(student[0], easy.labels),
        "consistency": consistency_loss(student[1], answer, weight),
    }
    if mix == "reco":
        losses["contrast"] = 7.0
    # What the contrastive head is to be given.
    return {"losses": losses, "student": torch.cat(student), "labels": torch.cat([easy.labels, reliable])}


@pytest.mark.parametrize("ema", [0.75, None], ids=["ema", "itself"])
@pytest.mark.parametrize("mix", ONE_VIEW)
@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_each_term_by_its_settings(monkeypatch: pytest.MonkeyPatch, mix: str, ema: float | None, weight: float) -> None:
    losses = expected_losses(mix)["losses"]
    losses["loss"] = losses["supervised"] + weight * losses["consistency"] + 0.5 * losses.get("contrast", 0)
    part = captured_propagate(monkeypatch, pair(), mix=mix, ema=ema, consistency=weight, contrast=0.5)
    same(part.meanwhile, losses)


def test_mic_s_hidden_view_learns_what_the_teacher_says_about_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside ClassMix's, with the same weight, and hidden by the mean color of the network."""
    blocks = MASKS.flip(0)
    part = captured_propagate(monkeypatch, mix="mic")
    monkeypatch.setattr("atp.mixing.mic.hidden_blocks", lambda labels: blocks)
    part.training.network.mean.copy_(torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1))
    easy, hard = pair().easy, pair().hard
    network = part.training.network

    def answers(images: Tensor, training: bool) -> Tensor:
        scores: Tensor = network.train(training)(images)
        return scores.detach()

    teacher = part.training.ema.network if part.training.ema else network
    with torch.no_grad():
        teacher.mean.copy_(network.mean)
        certain, answer = teacher.eval()(hard.weak).softmax(1).max(1)
    answer[~hard.valid] = IGNORE
    weight = torch.stack([(certain[n][hard.valid[n]] >= 0.8).float().mean() for n in range(2)])[:, None, None]
    weight = weight.expand(2, 2, 4)
    assert (weight > 0).all()
    hidden = torch.where(blocks[:, None], torch.tensor([51, 102, 153]).byte()[:, None, None], hard.strong)
    expected = consistency_loss(answers(hidden, True), answer, weight)
    mixed = answers(pasted(MASKS, easy.strong, hard.strong), True)
    labels, weights = pasted(MASKS, easy.labels, answer), pasted(MASKS, torch.ones(2, 2, 4), weight)
    expected = expected + consistency_loss(mixed, labels, weights)
    losses = part.losses(pair())
    torch.testing.assert_close(losses["consistency"], expected)
    torch.testing.assert_close(losses["loss"], losses["supervised"] + expected)


def test_uni_match_s_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strong ones with boxes and one with feature dropout, of which pixels above the threshold count."""
    kept = torch.rand(8, 3, generator=torch.Generator().manual_seed(3)) >= 0.5
    assert kept[6:].any()
    assert not kept[6:].all()
    part = captured_propagate(monkeypatch, mix="uni_match")
    easy, hard = pair().easy, pair().hard
    certain, answer = logits(hard.weak, training=False).softmax(1).max(1)
    answer[~hard.valid] = IGNORE
    sure = (certain >= 0.8).float()
    assert 0 < sure.mean() < 1
    boxes = MASKS.roll(1, 2)
    expected = torch.tensor(0.0)
    for strong in (hard.strong, hard.second):
        image, labels = pasted(boxes, easy.strong, strong), pasted(boxes, easy.labels, answer)
        weight = pasted(boxes, torch.ones(2, 2, 4), sure)
        expected += 0.25 * consistency_loss(logits(image, training=True), labels, weight)
    # Known's classifier multiplies each channel by a number, so that a lost channel's score is 0 and others double.
    dropped = 2 * kept[6:, :, None, None] * logits(hard.weak, training=True)
    expected += 0.5 * consistency_loss(dropped, answer, sure)
    torch.manual_seed(3)
    losses = part.losses(pair())
    torch.testing.assert_close(losses["consistency"], expected)
    torch.testing.assert_close(losses["supervised"], expected_losses("none")["losses"]["supervised"])
    assert not part.training.network.head._forward_pre_hooks


@pytest.mark.parametrize("mix", MIXES)
def test_a_second_view_is_read_for_those_that_use_it(tmp_path: Path, mix: str) -> None:
    pixels = dict(zip("ab", drawn(2, 0), strict=True))
    store = stored(tmp_path, {"a": logits(pixels["a"], training=False).softmax(0)})
    settings = PropagateSettings(epochs=1, batch_size=2, lr=0.1, mix=mix, augmentation=Augmentation(jitter=1))
    pairs, _ = paired_images(Images(written(tmp_path / "images", pixels)), ["a"], ["b"], store, settings)
    read = pairs.collate([pairs[0, 1]])
    assert read.easy.second.shape[1] == 0
    assert read.hard.second.shape[1] == (3 if mix == "uni_match" else 0)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.999])
def test_the_consistency_weighs_as_much_as_the_teacher_is_certain(
    monkeypatch: pytest.MonkeyPatch, confidence: float
) -> None:
    part = captured_propagate(monkeypatch, confidence=confidence)
    expected = expected_losses("none", confidence)["losses"]["consistency"]
    assert (expected == 0) == (confidence == 0.999)
    torch.testing.assert_close(part.losses(pair())["consistency"], expected)


@pytest.mark.parametrize("mix", ["none", "class_mix"])
def test_negatives_are_those_of_the_easy_images(monkeypatch: pytest.MonkeyPatch, mix: str) -> None:
    easy = pair().easy
    negative = negative_pseudo_label_loss(logits(easy.strong, training=True), easy.negatives, easy.valid)
    losses = captured_propagate(monkeypatch, mix=mix, negative=0.5).losses(pair())
    torch.testing.assert_close(losses["negative"], negative)
    torch.testing.assert_close(losses["loss"], losses["supervised"] + losses["consistency"] + 0.5 * negative)


@pytest.mark.parametrize("ema", [0.75, None], ids=["ema", "itself"])
def test_the_teacher_answers_in_evaluation_mode_without_gradient_and_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    part = captured_propagate(monkeypatch, ema=ema)
    network, average = part.training.network, part.training.ema
    assert isinstance(network, Known)
    teacher = network if average is None else average.network
    part.losses(pair())
    assert isinstance(teacher, Known)
    answered = teacher.calls[0]
    assert torch.equal(answered[0], pair().hard.weak.float() / 255)
    assert answered[1:] == (False, False)
    assert teacher.training == (ema is None)
    # The student in training mode with gradients, both halves in one pass.
    assert network.calls[-1][1:] == (True, True)
    assert len(network.calls[-1][0]) == 4
    assert len(network.calls) + len(getattr(average, "network", network).calls) == (2 if ema else 4)


def test_the_average_teaches_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    part = captured_propagate(monkeypatch)
    before = part.losses(pair())
    assert part.training.ema is not None
    with torch.no_grad():
        part.training.ema.network.head.weight.mul_(-1)
    after = part.losses(pair())
    assert torch.equal(before["supervised"], after["supervised"])
    assert not torch.equal(before["consistency"], after["consistency"])


def test_reco_contrasts_what_the_classifier_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    part = captured_propagate(monkeypatch, pair(), mix="reco")
    head, network = part.training.extra, part.training.network
    assert isinstance(head, Recorded)
    features, answers, labels = head.given
    expected = expected_losses("reco")
    torch.testing.assert_close(features, expected["student"] / Known.GAIN)
    torch.testing.assert_close(answers, expected["student"])
    assert torch.equal(labels, expected["labels"])
    assert not network.head._forward_hooks
    for mix in MIXES:
        assert (captured_propagate(monkeypatch, mix=mix).training.extra is not None) == (mix == "reco")


def test_it_trains_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    training = captured_propagate(monkeypatch, balance=0.125).training
    assert isinstance(training.network, Known)
    assert (training.images, training.job, training.weights) == ("images", RUN, "weights")
    assert training.settings.balance == 0.125


@pytest.mark.parametrize(
    ("ema", "hand_on", "average"), [(0.75, "ema", True), (0.75, "student", False), (None, "student", False)]
)
def test_what_is_handed_on(monkeypatch: pytest.MonkeyPatch, ema: float | None, hand_on: str, average: bool) -> None:
    part = captured_propagate(monkeypatch, ema=ema, hand_on=hand_on)
    network, mean = part.training.network, part.training.ema
    assert (mean is None) == (ema is None)
    if isinstance(mean, AveragedNetwork):
        assert mean._decay == 0.75
    handed_on, history = part.returned
    assert history is HISTORY
    assert handed_on is (mean.network if average and mean else network)


def test_the_average_is_neither_the_beginning_nor_the_student(pairs: PairedImages) -> None:
    network = fresh()
    handed_on, _ = propagate(network, pairs, section("none", 0.9), run())
    ends = [part.state_dict()["backbone.conv1.weight"] for part in (handed_on, network, fresh())]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(ends, 2))


def test_the_contrastive_head_fits_and_is_drawn_from_the_runs_seed(pairs: PairedImages) -> None:
    network = fresh().train()
    torch.manual_seed(1)
    heads = [
        contrast_head(RegionalContrast, network, pairs, ClassifierTap(network), job) for job in (run(), run(), RUN)
    ]
    assert network.training
    assert heads[0].head.weight.shape == (256, 96, 1, 1)
    torch.manual_seed(7)
    assert torch.equal(heads[0].head.weight, RegionalContrast(96).head.weight)
    assert torch.equal(heads[0].head.weight, heads[1].head.weight)
    assert not network.head._forward_hooks


def test_labels_are_counted_class_by_class(tmp_path: Path) -> None:
    probabilities = torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])[:, None]  # (3, 1, 3)
    store = stored(tmp_path, {"a": probabilities})
    assert label_counts(store, "a").tolist() == [3, 0, 0]
    (tmp_path / "half").mkdir()
    unlabelled = stored(tmp_path / "half", {"a": probabilities}, keep_ratio=0.5)
    assert label_counts(unlabelled, "a").tolist() == [2, 0, 0]


@pytest.mark.parametrize(("negative", "balance"), [(0.0, 0.0), (1.0, 0.5)])
def test_easy_images_have_labels_and_hard_ones_have_none(tmp_path: Path, negative: float, balance: float) -> None:
    pixels = dict(zip("abcd", drawn(4, 0), strict=True))
    easy, hard = ["d", "b"], ["a", "c"]
    store = stored(tmp_path, {name: logits(pixels[name], training=False).softmax(0) for name in easy})
    settings = PropagateSettings(
        epochs=1,
        batch_size=2,
        lr=0.1,
        negative=negative,
        balance=balance,
        augmentation=Augmentation(flip=False, jitter=1),
    )
    pairs, weights = paired_images(Images(written(tmp_path / "images", pixels)), easy, hard, store, settings)
    seen = set()
    for index, name in enumerate(easy):
        (weak, strong, labels, _, negatives, *_), other = pairs[index, 5 * index]
        assert torch.equal(weak, pixels[name])
        assert torch.equal(labels, store.positive(name))
        assert torch.equal(negatives, store.negatives(name) if negative else store.negatives(name)[:0])
        assert not torch.equal(strong, weak)
        assert not torch.equal(other[1], other[0])
        assert (other[2] == IGNORE).all()
        seen |= {key for key in hard if torch.equal(other[0], pixels[key])}
    assert seen
    if balance:
        expected = rarity_weights([label_counts(store, name) for name in easy], balance)
        assert weights is not None
        assert weights.tolist() == pytest.approx(expected.tolist() if expected is not None else [])
        assert weights[0] != weights[1]
    else:
        assert weights is None
