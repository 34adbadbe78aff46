"""ClassMix: which classes are cut out, and where they land."""

from collections import Counter

import pytest
import torch

from atp.training.mixing import class_mix_masks, mix


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shown", "unlabelled", "chosen"),
    [(0, 5, 0), (1, 0, 1), (1, 5, 1), (2, 5, 1), (3, 0, 2), (3, 5, 2), (6, 5, 3), (255, 5, 128)],
)
def test_half_of_the_classes_rounded_up(shown: int, unlabelled: int, chosen: int) -> None:
    # Ids from the end of the range, each class three times.
    ids = [*range(255 - shown, 255)] * 3 + [255] * unlabelled
    labels = torch.tensor(ids).reshape(1, 1, -1)
    mask = class_mix_masks(labels, _generator())
    assert mask.shape == labels.shape
    assert mask.dtype == torch.bool
    assert len(labels[mask].unique()) == chosen
    assert (labels[mask] != 255).all()


def test_a_class_is_cut_out_whole_in_its_image_alone() -> None:
    labels = torch.randint(7, (4, 9, 11), generator=_generator(1))
    labels[:, 0] = 255
    masks = class_mix_masks(labels, _generator())
    for mask, ids in zip(masks, labels, strict=True):
        taken = ids[mask].unique()
        assert len(taken) == 4
        assert torch.equal(mask, torch.isin(ids, taken))
    # Images are drawn for themselves: four equal images do not all lose the same classes.
    same = class_mix_masks(labels[:1].expand(4, -1, -1), _generator())
    assert any(not torch.equal(same[0], other) for other in same[1:])


def test_every_choice_is_equally_likely() -> None:
    labels = torch.tensor([3, 50, 200, 254, 255]).expand(6000, 1, 5)
    masks = class_mix_masks(labels, _generator())
    counts = Counter(tuple(mask) for mask in masks.flatten(1).tolist())
    assert len(counts) == 6  # 2 of 4
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_the_generator_decides() -> None:
    labels = torch.arange(20).reshape(1, 4, 5)
    first = class_mix_masks(labels, _generator(3))
    assert torch.equal(first, class_mix_masks(labels, _generator(3)))
    assert not torch.equal(first, class_mix_masks(labels, _generator(4)))
    # Without one PyTorch's own seed decides, and with one it is left alone.
    torch.manual_seed(3)
    assert torch.equal(first, class_mix_masks(labels))
    state = torch.get_rng_state()
    class_mix_masks(labels, _generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64, torch.bool])
def test_mix_pastes_where_the_mask_is(dtype: torch.dtype) -> None:
    mask = torch.tensor([[[True, False, True]], [[False, False, False]]])
    pasted, onto = torch.ones(2, 1, 3, dtype=dtype), torch.zeros(2, 1, 3, dtype=dtype)
    mixed = mix(mask, pasted, onto)
    assert mixed.dtype == dtype
    assert mixed.tolist() == [[[1, 0, 1]], [[0, 0, 0]]]
    # The same for every channel, of which there may be none (no negative labels).
    assert mix(mask, pasted[:, None].expand(-1, 3, -1, -1), onto[:, None].expand(-1, 3, -1, -1)).tolist() == [
        [[[1, 0, 1]]] * 3,
        [[[0, 0, 0]]] * 3,
    ]
    assert mix(mask, pasted[:, None][:, :0], onto[:, None][:, :0]).shape == (2, 0, 1, 3)


def test_mix_keeps_the_memory_format() -> None:
    images = torch.randint(255, (2, 3, 4, 5), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    mixed = mix(torch.ones(2, 4, 5, dtype=torch.bool), images, images.roll(1, 0))
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixed, images)
