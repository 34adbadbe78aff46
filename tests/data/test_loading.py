"""Batches: one order whatever the workers and restarts, labels that move with their image, padding that is known."""

import os
import pickle
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from atp.data.folder import Sample, list_samples
from atp.data.labels import IGNORE
from atp.data.loading import (
    Batch,
    FolderLabels,
    Labels,
    PairedImages,
    TrainingImages,
    TrainingOrder,
    mix_seed,
    training_loader,
)
from atp.data.settings import Augmentation
from atp.errors import InputError


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Six 12x8 images whose red channel equals their label, pixel by pixel."""
    generator = torch.Generator().manual_seed(0)
    for index in range(6):
        ids = torch.randint(0, 3, (8, 12), generator=generator, dtype=torch.uint8)
        image = torch.stack([ids, torch.full_like(ids, 100), torch.full_like(ids, index)], dim=2)
        for kind, array in (("images", image), ("labels", ids)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array.numpy()).save(tmp_path / kind / f"{index}.png")
    return list_samples(tmp_path / "images", tmp_path / "labels")


def all_batches(images: TrainingImages, order: TrainingOrder, workers: int = 0) -> list[Batch]:
    return list(training_loader(images, order, workers=workers, pin_memory=False))


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def labelled(samples: list[Sample], augmentation: Augmentation, crop: tuple[int, int] | None = None) -> TrainingImages:
    return TrainingImages(samples, augmentation, crop=crop, labels=FolderLabels(3))


def test_labels_move_with_their_image(samples: list[Sample]) -> None:
    images = labelled(samples, Augmentation(flip=True), crop=(7, 5))
    for batch in all_batches(images, TrainingOrder(6, 3, 4, seed=1)):
        assert torch.equal(batch.weak[:, 0].long(), batch.labels)
        assert batch.valid.all()


def test_padding_is_not_valid_and_has_no_label(samples: list[Sample]) -> None:
    (batch,) = all_batches(labelled(samples, Augmentation(flip=False), crop=(20, 16)), TrainingOrder(6, 6, 1, seed=1))
    assert batch.weak.shape == (6, 3, 16, 20)
    assert (batch.labels[~batch.valid] == IGNORE).all()
    assert batch.valid.sum() == 6 * 8 * 12


def test_zoom_keeps_image_and_label_together(samples: list[Sample]) -> None:
    constant = [sample for sample in samples if sample.name == "0"]
    images = TrainingImages(
        constant,
        Augmentation(flip=False, scale=(2.0, 2.0)),
        crop=(24, 16),
        labels=lambda sample: Labels(torch.ones(8, 12, dtype=torch.uint8)),
    )
    (batch,) = all_batches(images, TrainingOrder(1, 1, 1, seed=1))
    assert batch.valid.all()
    assert (batch.labels == 1).all()


def test_a_restart_continues_the_same_batches(samples: list[Sample]) -> None:
    images = labelled(samples, Augmentation(flip=True, jitter=0.3, blur=True), crop=(7, 5))
    whole = all_batches(images, TrainingOrder(6, 2, 3, seed=5))
    rest = all_batches(images, TrainingOrder(6, 2, 3, seed=5, start=4))
    assert len(whole) == 9
    assert len(rest) == 5
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_steps_take_the_place_of_epochs() -> None:
    whole, part = TrainingOrder(6, 2, 3, seed=5), TrainingOrder(6, 2, None, seed=5, steps=7)
    assert (len(whole), len(part), part.steps, part.steps_per_epoch) == (9, 7, 7, 3)
    assert list(part) == list(whole)[:7]
    assert list(TrainingOrder(6, 2, None, seed=5, steps=7, start=5)) == list(whole)[5:7]
    with pytest.raises(ValueError, match="needs epochs or steps"):
        TrainingOrder(6, 2, None, seed=5)


def test_workers_change_nothing(samples: list[Sample]) -> None:
    images = labelled(samples, Augmentation(flip=True, jitter=0.3), crop=(7, 5))
    order = TrainingOrder(6, 2, 2, seed=5)
    assert all(same(a, b) for a, b in zip(all_batches(images, order), all_batches(images, order, 2), strict=True))


def test_spawned_workers_can_be_given_what_a_stage_has(samples: list[Sample]) -> None:
    images = pickle.loads(pickle.dumps(labelled(samples, Augmentation(flip=True))))
    assert len(all_batches(images, TrainingOrder(6, 2, 1, seed=5))) == 3


class EndsWorker:
    """Kills the worker that handed it over, when the receiving process comes to it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.kill, (os.getpid(), signal.SIGKILL)


class Torn(TrainingImages):
    """Batches whose worker is killed before their pixels are fetched from it."""

    @staticmethod
    def collate(items: list[Any]) -> Any:
        return EndsWorker(), *(torch.zeros(1000) for _ in range(1000))


def test_a_worker_killed_while_it_hands_over_a_batch_is_said_to_be(samples: list[Sample]) -> None:
    images = Torn(samples, Augmentation(flip=True))
    # PyTorch's own handler would notice it first, as it does in the middle of a step.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            all_batches(images, TrainingOrder(6, 2, 1, seed=5), workers=1)
    finally:
        with suppress(RuntimeError):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_stays_one_line_whichever_process_meets_it(samples: list[Sample], workers: int) -> None:
    samples[2].image.write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        all_batches(labelled(samples, Augmentation(flip=True)), TrainingOrder(6, 2, 1, seed=5), workers)
    assert str(caught.value).startswith(f"{samples[2].image}: cannot be read as an image")
    assert "\n" not in str(caught.value)


def test_processes_share_a_batch(samples: list[Sample]) -> None:
    whole = list(TrainingOrder(6, 4, 2, seed=3))
    shares = [list(TrainingOrder(6, 4, 2, seed=3, rank=rank, world_size=2)) for rank in (0, 1)]
    for step, keys in enumerate(whole):
        assert sorted(shares[0][step] + shares[1][step]) == sorted(keys)


def test_every_epoch_visits_every_image_once_in_another_order() -> None:
    epochs = list(TrainingOrder(6, 6, 2, seed=3))
    orders = [[index for index, _ in epoch] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
    assert orders[0] != orders[1]


def test_fewer_images_than_a_batch_are_repeated() -> None:
    (keys,) = TrainingOrder(3, 4, 1, seed=3)
    assert sorted({index for index, _ in keys}) == [0, 1, 2]
    assert len({seed for _, seed in keys}) == 4, "a repeated image is augmented differently"


def test_weights_draw_by_their_size() -> None:
    order = TrainingOrder(2, 10, 100, seed=3, weights=torch.tensor([1.0, 3.0]))
    drawn = torch.tensor([index for keys in order for index, _ in keys])
    assert drawn.float().mean() == pytest.approx(0.75, abs=0.05)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size 3: must be a multiple of the 2 processes"):
        TrainingOrder(6, 3, 1, seed=0, world_size=2)


def test_only_the_strong_view_changes_colour(samples: list[Sample]) -> None:
    plain = all_batches(labelled(samples, Augmentation(flip=False)), TrainingOrder(6, 6, 1, seed=1))[0]
    jittered = all_batches(labelled(samples, Augmentation(flip=False, jitter=0.5)), TrainingOrder(6, 6, 1, seed=1))[0]
    assert plain.strong is plain.weak
    assert torch.equal(plain.weak, jittered.weak)
    assert not torch.equal(jittered.weak, jittered.strong)


def test_a_second_strong_view_has_other_colours_and_changes_nothing_else(samples: list[Sample]) -> None:
    augmentation = Augmentation(flip=True, jitter=0.5)
    one, two = (
        all_batches(TrainingImages(samples, augmentation, second=second), TrainingOrder(6, 6, 1, seed=1))[0]
        for second in (False, True)
    )
    assert one.second.shape == (6, 0, 8, 12)
    assert two.second.shape == two.strong.shape
    for image in range(6):
        assert not torch.equal(two.second[image], two.strong[image])
        assert not torch.equal(two.second[image], two.weak[image])
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in vars(one) if name != "second")
    moved = two.to(torch.device("cpu"), torch.channels_last)
    assert torch.equal(moved.second, two.second)
    assert moved.second.is_contiguous(memory_format=torch.channels_last)
    plain = TrainingImages(samples, Augmentation(flip=False), second=True)
    (batch,) = all_batches(plain, TrainingOrder(6, 6, 1, seed=1))
    assert torch.equal(batch.second, batch.weak)


def test_mixed_sizes_need_a_crop(samples: list[Sample], tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "images/0.png")
    images = TrainingImages(samples, Augmentation(flip=False))
    with pytest.raises(InputError, match=r"in a batch differ in size \(12x8, 5x5\); set data.size or data.crop"):
        all_batches(images, TrainingOrder(6, 6, 1, seed=1))


def test_negatives_travel_along(samples: list[Sample]) -> None:
    def negatives(sample: Sample) -> Labels:
        ids = torch.zeros(8, 12, dtype=torch.uint8)
        ids[:, :6] = 1
        return Labels(ids, torch.stack([ids == 1, ids == 0]))

    images = TrainingImages(samples, Augmentation(flip=True), labels=negatives)
    for batch in all_batches(images, TrainingOrder(6, 6, 3, seed=1)):
        assert torch.equal(batch.negatives[:, 0], batch.labels == 1)
        assert torch.equal(batch.negatives[:, 1], batch.labels == 0)


def test_pairs_hold_as_many_hard_images_as_easy_ones(samples: list[Sample]) -> None:
    easy = TrainingImages(samples[:2], Augmentation(flip=False))
    hard = TrainingImages(samples[2:], Augmentation(flip=False))
    pairs = PairedImages(easy, hard)
    batches = list(training_loader(pairs, TrainingOrder(len(pairs), 2, 8, seed=1), workers=0, pin_memory=False))

    def which(images: Tensor) -> set[int]:
        return set(images[:, 2, 0, 0].tolist())

    assert {i for b in batches for i in which(b.easy.weak)} == {0, 1}
    assert {i for b in batches for i in which(b.hard.weak)} == {2, 3, 4, 5}


def test_seeds_depend_on_every_part_and_on_their_order() -> None:
    seeds = {mix_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_soft_answers_move_with_their_image(samples: list[Sample], zoom: float) -> None:
    """Flipped, zoomed, cropped and padded: each pixel keeps the classes and probabilities that its label says."""

    def soft(sample: Sample) -> Labels:
        ids = FolderLabels(3)(sample).ids
        first = (ids.float() + 1) / 4
        # Images may name more or fewer classes a pixel.
        planes = 2 if sample.name < "3" else 1
        classes, probabilities = torch.stack([ids, (ids + 1) % 3]), torch.stack([first, (1 - first) / 2])
        return Labels(ids, classes=classes[:planes], probabilities=probabilities[:planes])

    images = TrainingImages(samples, Augmentation(flip=True, scale=(zoom, zoom)), crop=(20, 10), labels=soft)
    (batch,) = all_batches(images, TrainingOrder(6, 6, 1, seed=1))
    assert batch.classes.shape == batch.probabilities.shape == (6, 2, 10, 20)
    assert (batch.classes.dtype, batch.probabilities.dtype) == (torch.uint8, torch.float32)
    inside = batch.valid
    assert (zoom == 2) == bool(inside.all())
    assert torch.equal(batch.classes[:, 0].long(), batch.labels)
    assert torch.equal(batch.probabilities[:, 0][inside], (batch.labels[inside].float() + 1) / 4)
    second = batch.classes[:, 1] != IGNORE
    assert {bool(each.any()) for each in second} == {True, False}
    assert torch.equal(batch.classes[:, 1][second].long(), (batch.labels[second] + 1) % 3)
    assert torch.equal(batch.probabilities[:, 1][second], (1 - batch.probabilities[:, 0][second]) / 2)
    assert (batch.probabilities[batch.classes == IGNORE] == 0).all()
    if zoom == 1:
        assert torch.equal(batch.weak[:, 0].long()[inside], batch.labels[inside])
