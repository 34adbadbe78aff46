"""Networks of the user's own: every form of output, padding, freezing, names, and one line for what is wrong."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.models.checkpoint import load_checkpoint, load_into, load_user_state, network_from_checkpoint, save_checkpoint
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network, parameter_groups
from atp.models.own import check_code
from atp.training.ema import AveragedNetwork
from tests.models import foreign

SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))


def config(maker: str = "Small", classifier: str = "decoder", **changes) -> NetworkConfig:
    arguments = changes.pop("arguments", {})
    values = {"factory": f"tests.models.foreign:{maker}", "classifier": classifier, "num_classes": 3}
    return NetworkConfig(arguments=arguments, **values | changes)


def build(*names: str, **changes) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(config(*names, **changes))


def images(height: int = 32, width: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("output", ["tensor", "mapping", "object"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_every_form_of_output_at_any_stride(output, stride):
    network = build(arguments={"output": output, "stride": stride}).eval()
    with torch.no_grad():
        scores = network.model.decoder(network.model.stem(network.normalise(images())))
        assert scores.shape[-1] == 64 // stride
        torch.testing.assert_close(network(images()), F.interpolate(scores, (32, 64), mode="bilinear"))


@pytest.mark.parametrize("mode", [True, False])
def test_auxiliary_scores_are_left_alone(mode):
    network = build(arguments={"output": "mapping", "aux": True}).train(mode)
    network(images()).sum().backward()
    assert network.model.aux.weight.grad is None
    assert network.model.decoder[0].weight.grad is not None
    assert not network.uses_all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "tuple in training"}, "returns tuple, not a tensor of logits, a mapping with out, or an"),
        ({"output": "flat"}, r"returns logits of shape \(2, 3, 512\), not \(N, 3, h, w\); check model.arguments"),
        ({"classes": 5}, r"returns logits of shape \(2, 5, 16, 32\), not \(N, 3, h, w\)"),
    ],
)
def test_other_outputs_are_told(arguments, message):
    with pytest.raises(InputError, match=message):
        build(arguments=arguments).train()(images())


def test_padding_is_cut_off_at_the_images_own_size():
    network = build("Skips", "head", arguments={"strict": True}, divisor=32).eval()
    with torch.no_grad():
        whole = F.pad(network.normalise(images(40, 50)), (0, 14, 0, 24), mode="replicate")
        torch.testing.assert_close(network(images(40, 50)), network.model(whole)[..., :40, :50])


def test_a_network_that_fails_at_a_size_is_told_with_the_divisor():
    network = build("Skips", "head", arguments={"strict": True})
    with pytest.raises(InputError) as caught:
        network(images(40, 50))
    assert str(caught.value) == (
        "model.factory: tests.models.foreign:Skips fails on images of 50x40 (RuntimeError: sizes must be multiples of "
        "32); if it needs multiples of 32, set model.divisor: 32"
    )


def test_memory_that_runs_out_is_no_matter_of_the_size(monkeypatch):
    def exhausted(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = build()
    monkeypatch.setattr(network.model, "forward", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        network(images(40, 50))


def train(network: SegmentationNetwork) -> None:
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1, 10), momentum=0.9, weight_decay=0.1)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(images()).square().mean()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("classifier", ["decoder", "decoder.3"])
def test_a_frozen_classifier_keeps_parameters_and_buffers(classifier):
    network = build("Small", classifier, arguments={"output": "mapping", "aux": True})
    network.to(memory_format=torch.channels_last)
    network.freeze_classifier()
    before = copy.deepcopy(network.given.state_dict())
    train(network)
    after = network.given.state_dict()
    for key, value in before.items():
        frozen = key.startswith(f"{classifier}.") or key.startswith("aux.")
        assert torch.equal(value, after[key]) == frozen, key


def test_groups_have_the_classifier_apart():
    backbone, classifier = parameter_groups(build(arguments={"aux": True}), 0.1, 10)
    assert (backbone["lr"], classifier["lr"]) == (0.1, 1.0)
    assert (len(backbone["params"]), len(classifier["params"])) == (6, 6)


def test_an_average_moves_a_tensor_with_two_names_once():
    network = build("Tied", "head")
    average = AveragedNetwork(network, 0.9)
    before = network.model.first.weight.clone()
    with torch.no_grad():
        network.model.first.weight += 1
    average.update(network)
    # A decay of 1 / 11 at the first step.
    torch.testing.assert_close(average.network.model.first.weight, before + 10 / 11)
    assert average.network.model.head.weight is average.network.model.first.weight


def test_a_checkpoint_has_the_authors_names_and_loads_into_their_class(tmp_path):
    network, path = build("Tied", "head"), tmp_path / "model.safetensors"
    save_checkpoint(path, network, config("Tied", "head"), SPACE, {})
    state = load_user_state(path)
    assert list(state) == ["first.bias", "first.weight", "head.bias", "head.weight"]
    theirs = foreign.Tied()
    theirs.load_state_dict(state, strict=True)
    again, _ = network_from_checkpoint(path)
    normal = again.normalise(images())
    assert torch.equal(again(images()), theirs(normal))
    assert load_checkpoint(path).config.callables == ("tests.models.foreign:Tied",)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model_state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
    ],
)
def test_usual_wrappings(tmp_path, wrapped):
    torch.manual_seed(1)
    theirs = foreign.Small()
    torch.save(wrapped(theirs.state_dict()), tmp_path / "model.pth")
    network = build()
    load_into(network, load_user_state(tmp_path / "model.pth"), tmp_path / "model.pth")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in network.given.state_dict().items())
    by_setting = build(weights=str(tmp_path / "model.pth"))
    assert torch.equal(by_setting.model.stem[0].weight, theirs.stem[0].weight)


def test_every_missing_and_unexpected_key_is_told_by_its_authors_name(tmp_path):
    state = foreign.Small(aux=True).state_dict()
    del state["stem.0.bias"]
    network = build()
    with pytest.raises(InputError, match=r"missing stem.0.bias; unexpected aux.\* \(2\)"):
        load_into(network, state, tmp_path / "model.pth")


def test_another_number_of_classes_is_told(tmp_path):
    network = build(arguments={"classes": 5}, class_map=(0, 1, 2, 2, 255))
    with pytest.raises(InputError, match=r"fewer classes in the checkpoint \(3\) than in data.class_map \(5\)"):
        load_into(network, foreign.Small().state_dict(), tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factory": "no_such:thing"}, r"no_such:thing cannot be imported \(ModuleNotFoundError: No module named"),
        ({"factory": "tests.models.foreign:Smal"}, "has no callable Smal; is it Small?"),
        (
            {"arguments": {"layers": 3}},
            "cannot be called .TypeError: .*unexpected keyword argument 'layers'.*check model",
        ),
        ({"factory": "tests.models.foreign:broken"}, r"cannot be called \(KeyError: 'it needs\\nmore'\)"),
        ({"factory": "tests.models.foreign:bare"}, "returns Tensor; it must return a torch.nn.Module"),
        ({"classifier": "decode"}, "has no decode with parameters; is it decoder?"),
        ({"classifier": "zzz"}, "has no zzz with parameters; it has stem, decoder"),
        ({"classifier": "decoder.2"}, "has no decoder.2 with parameters"),
        ({"classifier": None}, "model.classifier: missing; set the dotted name"),
        ({"arguments": {"classes": {"factory": "builtins:no"}}}, "builtins:no: builtins has no callable no"),
    ],
)
def test_what_is_wrong_is_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_an_argument_can_be_an_object():
    nested = {"factory": "builtins:int", "arguments": {}}
    network = build(arguments={"classes": 3, "aux": nested})
    assert network.model.aux is None
    assert network.num_scores == 3
    assert config(arguments={"aux": nested}).callables == ("tests.models.foreign:Small", "builtins:int")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factory": "torchvision.models"}, "factory"),
        ({"backbone": "resnet18"}, "backbone is only for ATP's own networks; beside network or factory, leave it"),
        ({"weights": "imagenet"}, "imagenet is only for ATP's own backbones"),
        ({"factory": None}, "classifier is only for your own network; set network too"),
        ({"divisor": 0}, "divisor"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_code_must_lie_where_dvc_watches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "watched_blocks.py").write_text("from torch import nn\n")
    (tmp_path / "watched_net.py").write_text("from watched_blocks import nn\nmake = nn.Identity\n")
    mine = NetworkConfig(factory="watched_net:make", classifier="head", code=Path("watched_net.py"))
    with pytest.raises(
        InputError, match=r"model.code: watched_blocks.py is part of watched_net:make's code and not the"
    ):
        check_code(mine)
    check_code(mine.model_copy(update={"code": Path()}))
    for name in ("watched_net", "watched_blocks"):
        del sys.modules[name]


def test_mapped_classes_have_the_sum_of_the_probabilities():
    own = build(arguments={"classes": 6})
    own.num_scores = 6
    mapped = build(arguments={"classes": 6}, class_map=(1, 0, 255, 1, 2, 255))
    with torch.no_grad():
        probabilities = own.eval()(images()).softmax(1)
        expected = torch.stack([probabilities[:, [1]].sum(1), probabilities[:, [0, 3]].sum(1), probabilities[:, 4]], 1)
        expected /= expected.sum(1, keepdim=True)
        torch.testing.assert_close(mapped.eval()(images()).softmax(1), expected)
    assert (mapped.num_classes, mapped.num_scores) == (3, 6)


def test_a_map_of_each_class_to_itself_changes_nothing():
    with torch.no_grad():
        plain, mapped = (build(class_map=given).eval()(images()) for given in (None, (0, 1, 2)))
    assert torch.equal(plain, mapped)


def test_mapped_classes_learn_in_half_precision():
    network = build(arguments={"classes": 6}, class_map=(1, 0, 255, 1, 2, 255)).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images())
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, torch.ones(2, 32, 64, dtype=torch.long)).backward()
    gradient = network.model.decoder[3].weight.grad
    assert gradient.isfinite().all()
    # The ignored ones have no part in it.
    assert gradient.flatten(1).ne(0).any(1).tolist() == [True, True, False, True, True, False]


def test_nothing_but_tensors_can_be_kept(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "get_extra_state", lambda self: {"a": 1}, raising=False)
    with pytest.raises(InputError, match=r"state_dict.. has entries that are not tensors"):
        build()
