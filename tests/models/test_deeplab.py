import pytest
import torch

from atp.models.deeplab import DeepLabV2Head


def test_scores_are_the_sum_of_four_dilated_convolutions():
    head = DeepLabV2Head(8, 5)
    features = torch.rand(2, 8, 9, 11)
    weights = [branch.weight for branch in head.branches]
    expected = sum(
        torch.nn.functional.conv2d(features, w, padding=d, dilation=d)
        for w, d in zip(weights, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head(features), expected)


def test_all_four_branches_receive_gradient():
    head = DeepLabV2Head(4, 3)
    head(torch.rand(1, 4, 6, 6)).square().sum().backward()
    assert [bool(branch.weight.grad.abs().sum() > 0) for branch in head.branches] == [True] * 4
    assert [bool(branch.bias.grad.abs().sum() > 0) for branch in head.branches] == [True] * 4


def test_initial_weights_are_small_gaussian_noise():
    torch.manual_seed(0)
    head = DeepLabV2Head(256, 19)
    for branch in head.branches:
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not branch.bias.any()
