"""ClassMix: which classes are cut out, and where they land; MIC: which blocks are hidden."""

from collections import Counter

import pytest
import torch

from atp.models.network import NetworkConfig, build_network
from atp.training.mixing import class_mix_masks, hidden_blocks, hide, mix


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


# As many pixels as in the authors' crops, and in our images.
@pytest.mark.parametrize(("height", "width", "block"), [(1024, 1024, 64), (512, 512, 32), (80, 160, 5), (8, 12, 1)])
def test_seven_of_ten_blocks_are_hidden(height: int, width: int, block: int) -> None:
    labels = torch.zeros(1, 1, 1, dtype=torch.int64).expand(40, height, width)
    found = hidden_blocks(labels, generator=_generator())
    assert (found.shape, found.dtype) == (labels.shape, torch.bool)
    corners = found[:, ::block, ::block]
    assert corners.float().mean().item() == pytest.approx(0.7, abs=0.02)
    # Each block is all hidden or not at all.
    whole = corners.repeat_interleave(block, 1).repeat_interleave(block, 2)
    assert torch.equal(found, whole)


def test_images_and_seeds_have_blocks_of_their_own() -> None:
    labels = torch.zeros(2, 32, 64, dtype=torch.int64)
    found = hidden_blocks(labels, generator=_generator())
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, hidden_blocks(labels, generator=_generator(1)))
    torch.manual_seed(0)
    assert torch.equal(found, hidden_blocks(labels))


def test_sides_that_are_no_multiple_of_a_block_are_covered() -> None:
    found = hidden_blocks(torch.zeros(50, 45, 77, dtype=torch.int64), generator=_generator())
    assert found[:, -1, -1].float().mean().item() == pytest.approx(0.7, abs=0.2)


def test_share_and_side_of_hidden_blocks() -> None:
    labels = torch.zeros(8, 64, 128, dtype=torch.int64)
    assert not hidden_blocks(labels, share=0.0).any()
    assert hidden_blocks(labels, share=1.0).all()
    assert hidden_blocks(labels, side=4.0, share=0.5).flatten(1).float().var(1).eq(0).all(), (
        "no block is above the image"
    )


def test_what_is_hidden_is_zero_for_the_network() -> None:
    network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=2))
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    hidden = hide(torch.tensor([[[True, False], [False, False]]]), images, network.mean)
    normal = network.normalise(hidden)
    # Up to the rounding of the color.
    assert normal[..., 0, 0].abs().max() < 0.01
    assert torch.equal(normal[..., 1, 1], network.normalise(images)[..., 1, 1])
