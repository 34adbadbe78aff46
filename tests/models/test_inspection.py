import torch
from torch.nn import functional as F

from atp.models.deeplab import DeepLabV2Head
from atp.models.inspection import live_aspp_branches
from atp.models.network import NetworkConfig

CONFIG = NetworkConfig(backbone="resnet_small", aspp_dilations=(1, 2, 3, 4), num_classes=5)


def trained_head(live: int, seed: int = 0) -> DeepLabV2Head:
    """A head of which only the first ``live`` branches were used, as public code does."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    head = DeepLabV2Head(48, 5, CONFIG.aspp_dilations)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9)
    labels = F.interpolate(torch.rand(4, 5, 3, 5, generator=generator), (16, 32), mode="bilinear").argmax(1)
    looks = torch.rand(5, 48, generator=generator)
    features = looks[labels].permute(0, 3, 1, 2) + 0.1 * torch.rand(4, 48, 16, 32, generator=generator)
    for _ in range(30):
        scores = sum(branch(features) for branch in head.branches[:live])
        optimizer.zero_grad()
        F.cross_entropy(scores, labels).backward()
        optimizer.step()
    return head


def state(head: DeepLabV2Head, names: str = "classifier.branches") -> dict[str, torch.Tensor]:
    return {key.replace("branches", names): value for key, value in head.state_dict().items()}


def test_two_live_branches_are_seen():
    assert live_aspp_branches(state(trained_head(2)), CONFIG) == [0, 1]


def test_four_live_branches_are_seen():
    assert live_aspp_branches(state(trained_head(4)), CONFIG) == [0, 1, 2, 3]


def test_noise_is_dead_whatever_its_size_and_shape():
    torch.manual_seed(0)
    for _ in range(20):
        head = DeepLabV2Head(48, 5, CONFIG.aspp_dilations)
        head.branches[0].weight.data.mul_(0.3)
        head.branches[1].weight.data.uniform_(-0.05, 0.05)
        head.branches[2].weight.data.zero_()
        head.half()
        assert live_aspp_branches(state(head), CONFIG) == []


def test_public_names_are_understood():
    public = state(trained_head(2), "layer6.conv2d_list") | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    assert live_aspp_branches(public, CONFIG) == [0, 1]
