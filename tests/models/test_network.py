import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from atp.models.network import NetworkConfig, SegmentationNetwork, build_network, parameter_groups
from atp.models.segmentation import BatchNorm

SMALL = NetworkConfig(backbone="resnet_small", output_stride=4, aspp_dilations=(1, 3, 6), num_classes=11)


def images(n: int = 2, height: int = 33, width: int = 65) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["resnet_small", "resnet18", "resnet50", "resnet101", "vgg16"])
def test_logits_have_the_size_of_the_images(backbone):
    network = build_network(NetworkConfig(backbone=backbone, num_classes=3)).eval()
    with torch.no_grad():
        logits = network(images(1))
    assert logits.shape == (1, 3, 33, 65)
    assert logits.isfinite().all()


def test_the_small_network_has_half_a_million_parameters():
    assert sum(p.numel() for p in build_network(SMALL).parameters()) == pytest.approx(0.49e6, rel=0.03)


def test_bytes_and_floats_are_the_same_image():
    network = build_network(SMALL).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images()), network(images().float() / 255))


def test_images_are_normalised_by_mean_and_std():
    network = build_network(SMALL.model_copy(update={"mean": (0.1, 0.2, 0.4), "std": (0.5, 1.0, 0.25)}))
    pixel = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(network.normalise(pixel).flatten(), torch.tensor([0.2, 0.2, 1.6]))
    network.channels = "bgr"
    torch.testing.assert_close(network.normalise(pixel).flatten(), torch.tensor([1.6, 0.2, 0.2]))


def test_channels_last_and_autocast():
    network = build_network(SMALL).eval()
    with torch.no_grad():
        expected = network(images())
        network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            network(images().to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-4
        )
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images())
    assert half.is_floating_point()
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.05)


def train_a_little(network: SegmentationNetwork, steps: int = 3) -> None:
    groups = parameter_groups(network, 0.05, 10)
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        network(images()).square().mean().backward()
        optimizer.step()


def with_batchnorm_in_the_classifier() -> SegmentationNetwork:
    network = build_network(SMALL)
    network.classifier = nn.Sequential(nn.BatchNorm2d(96), nn.Dropout(0.5), network.classifier)
    return network


def test_a_frozen_classifier_keeps_parameters_and_buffers_under_train():
    network = with_batchnorm_in_the_classifier()
    network.freeze_classifier()
    before = copy.deepcopy(network.state_dict())
    train_a_little(network)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("classifier."))
    assert not any(
        torch.equal(before[key], after[key]) for key in before if key.startswith("backbone.layer4") and "conv" in key
    )
    assert not torch.equal(before["backbone.bn1.running_mean"], after["backbone.bn1.running_mean"])
    assert network.training
    assert not network.classifier[1].training


def test_freezing_while_training_acts_at_once():
    network = with_batchnorm_in_the_classifier().train()
    network.freeze_classifier()
    network.hold_batchnorm()
    assert not network.classifier.training
    assert not network.backbone.bn1.training


def test_held_batchnorm_keeps_its_statistics_and_learns_its_scale():
    network = build_network(SMALL)
    network.hold_batchnorm()
    before = copy.deepcopy(network.state_dict())
    train_a_little(network)
    after = network.state_dict()
    running = [key for key in before if "running" in key or "num_batches" in key]
    assert running
    assert all(torch.equal(before[key], after[key]) for key in running)
    assert not torch.equal(before["backbone.bn1.weight"], after["backbone.bn1.weight"])


def test_unfreeze_undoes_both():
    network = with_batchnorm_in_the_classifier()
    network.freeze_classifier()
    network.hold_batchnorm()
    network.unfreeze()
    network.train()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_frozen_and_held_survive_a_deep_copy():
    network = with_batchnorm_in_the_classifier()
    network.freeze_classifier()
    network.hold_batchnorm()
    twin = copy.deepcopy(network).train()
    assert not twin.classifier.training
    assert not any(module.training for module in twin.modules() if isinstance(module, BatchNorm))


def test_parameter_groups():
    network = build_network(SMALL)
    backbone, classifier = parameter_groups(network, 0.1, 10)
    assert (backbone["lr"], classifier["lr"]) == (0.1, 1.0)
    assert len(backbone["params"]) + len(classifier["params"]) == len(list(network.parameters()))
    network.freeze_classifier()
    (only,) = parameter_groups(network, 0.1, 10)
    assert {id(p) for p in only["params"]} == {id(p) for p in network.backbone.parameters()}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"backbone": "resnet18", "output_stride": 4}, "output_stride 4: not available for resnet18; use 8, 16"),
        ({"backbone": "resnet_small", "weights": "imagenet"}, "resnet_small has no ImageNet weights"),
        ({"backbone": "vgg16", "resnet_style": "caffe"}, "caffe is only for resnet50 and resnet101"),
        ({"aspp_dilations": ()}, "aspp_dilations"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"num_classes": 256}, "num_classes"),
        ({"backbones": "resnet18"}, "backbones"),
    ],
)
def test_configurations_that_cannot_be(update, message):
    with pytest.raises(ValidationError, match=message):
        NetworkConfig(**update)


def test_a_network_needs_classes():
    with pytest.raises(ValueError, match="num_classes"):
        build_network(SMALL.model_copy(update={"num_classes": 0}))


def test_the_seed_decides_the_weights():
    first, second = (torch.manual_seed(7) and build_network(SMALL).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
