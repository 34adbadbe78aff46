"""The input of any network's classifier."""

import copy

import pytest
import torch
from torch import Tensor, nn

from atp.errors import InputError
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.classifier_tap import ClassifierTap, feature_dropout

IMAGES = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Pyramid(SegmentationNetwork):
    """A classifier that takes several maps, some by name, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=2))
        self.stem = nn.Conv2d(3, 4, 1)
        self.classifier = PyramidHead()

    def scores(self, images: Tensor) -> Tensor:
        fine = self.stem(images)
        scores: Tensor = self.classifier([fine], rest={"coarse": fine[..., ::2, ::2]}, size=(1, 2))
        return scores


class PyramidHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 2, 1)

    def forward(self, maps: list[Tensor], rest: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        mixed: Tensor = self.mix(maps[0][..., ::2, ::2] + rest["coarse"])
        return mixed


class Flat(SegmentationNetwork):
    """A classifier that is given no feature map."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=2))
        self.classifier = nn.Linear(3, 2)

    def scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(images.mean((2, 3)))[:, :, None, None]
        return scores


@pytest.fixture
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3))


def test_it_holds_what_the_classifier_was_given(network: SegmentationNetwork) -> None:
    network.eval()
    with ClassifierTap(network) as tap:
        network(IMAGES)
        again = network.head(tap.features)
    assert torch.equal(again, tap.output)
    assert not network.head._forward_hooks


def test_several_maps_by_name() -> None:
    network = Pyramid()
    with ClassifierTap(network) as tap:
        network(IMAGES)
    assert tap.features.shape == (2, 4, 16, 24)
    same = tap.through(copy.deepcopy(network.head), lambda features: features)
    assert torch.equal(same, tap.output)
    doubled = tap.through(network.head, lambda features: 2 * features)
    assert not torch.equal(doubled, tap.output)


def test_a_classifier_without_a_feature_map_is_told() -> None:
    network = Flat()
    with ClassifierTap(network) as tap:
        network(IMAGES)
    with pytest.raises(InputError, match=r"model\.classifier: classifier does not take a feature map"):
        _ = tap.features


def test_a_probe_leaves_no_trace(network: SegmentationNetwork) -> None:
    network.train()
    before = copy.deepcopy(network.state_dict())
    with ClassifierTap(network) as tap:
        assert tap.probe(network, IMAGES).shape[0] == 2
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_channels_are_dropped_for_some_images_and_the_others_scaled(network: SegmentationNetwork) -> None:
    network.eval()
    with ClassifierTap(network) as tap:
        network(IMAGES)
        before = tap.features
        torch.manual_seed(0)
        with feature_dropout(network, torch.tensor([0.0, 0.75])):
            network(IMAGES)
        after = tap.features
    assert torch.equal(after[0], before[0])
    kept = (after[1] != 0).flatten(1).any(1)
    assert torch.equal(after[1], 4 * before[1] * kept[:, None, None])
    assert kept.float().mean().item() == pytest.approx(0.25, abs=0.15)
    assert not network.head._forward_pre_hooks


def test_dropout_of_several_maps_draws_from_the_seed() -> None:
    network = Pyramid()
    answers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with feature_dropout(network, torch.tensor([0.5, 0.5])):
            answers.append(network(IMAGES))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


class Placed(Pyramid):
    """Its classifier is also given where the pixels are, a map that all images share."""

    def scores(self, images: Tensor) -> Tensor:
        fine = self.stem(images)
        scores: Tensor = self.classifier([fine, torch.ones(1, 1, 2, 2)], rest={"coarse": fine[..., ::2, ::2]}, size=())
        return scores


def test_a_map_that_images_share_is_left_alone() -> None:
    network = Placed()
    with ClassifierTap(network) as tap, feature_dropout(network, torch.tensor([0.5, 0.5])):
        network(IMAGES)
        maps: list[Tensor] = []
        tap._mapped(maps.append)
    assert [len(each) for each in maps] == [2, 1, 2]
    assert torch.equal(maps[1], torch.ones(1, 1, 2, 2))
    assert (maps[0] == 0).flatten(2).all(2).any()


def test_no_dropout_draws_no_number_and_asks_for_no_map() -> None:
    network, state = Flat(), torch.get_rng_state()
    with feature_dropout(network, torch.zeros(2)):
        network(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_of_a_classifier_without_a_feature_map_is_told() -> None:
    network = Flat()
    message = r"model\.classifier: classifier does not take a feature map .*choose another propagate\.mix"
    with pytest.raises(InputError, match=message), feature_dropout(network, torch.tensor([0.5, 0.5])):
        network(IMAGES)
    assert not network.head._forward_pre_hooks
