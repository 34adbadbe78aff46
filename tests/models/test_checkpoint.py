import json
import logging
import random
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from atp.data.labels import LabelSpace
from atp.data.reading import Reading
from atp.errors import InputError
from atp.models.checkpoint import (
    DIGEST,
    load_checkpoint,
    load_into,
    load_user_state,
    network_from_checkpoint,
    save_checkpoint,
)
from atp.models.network import NetworkConfig, build_network

SPACE = LabelSpace(("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))
SMALL = NetworkConfig(backbone="resnet_small", output_stride=4, aspp_dilations=(1, 3), num_classes=3)
MADE_BY = {"stage": "align", "atp": "0.1.0", "a": 1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(SMALL)


def test_round_trip(tmp_path, network):
    path = tmp_path / "model.safetensors"
    network.to(memory_format=torch.channels_last)
    save_checkpoint(path, network, SMALL, SPACE, MADE_BY)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.config, checkpoint.label_space, checkpoint.made_by) == (SMALL, SPACE, MADE_BY)
    again, space = network_from_checkpoint(path)
    assert space == SPACE
    assert not again.training
    expected = network.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())


def test_size_and_precision_go_with_the_weights(tmp_path, network):
    assert (network.reading, network.precision) == (Reading(), "fp32")
    for reading in (Reading((160, 80)), Reading(None, (32, 16)), Reading((160, 80), (32, 16))):
        network.reading = reading
        save_checkpoint(tmp_path / "model.safetensors", network, SMALL, SPACE, MADE_BY | {"precision": "bf16"})
        again, _ = network_from_checkpoint(tmp_path / "model.safetensors")
        assert (again.reading, again.precision) == (reading, "bf16")


def test_equal_contents_give_equal_bytes_and_nothing_else_is_left(tmp_path, network):
    for n in range(8):
        save_checkpoint(
            tmp_path / f"{n}.safetensors", network, SMALL, SPACE, dict(sorted(MADE_BY.items(), reverse=n % 2))
        )
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 8


def test_anyone_can_read_it(tmp_path, network):
    save_checkpoint(tmp_path / "model.safetensors", network, SMALL, SPACE, MADE_BY)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"format", "network", "classes", "made_by", "reading", "sha256"}
        assert torch.equal(file.get_tensor("backbone.conv1.weight"), network.backbone.conv1.weight)


def test_a_checkpoint_with_weights_from_elsewhere_needs_them_no_more(tmp_path, network):
    config = SMALL.model_copy(update={"weights": "/gone/weights.pth"})
    save_checkpoint(tmp_path / "model.safetensors", network, config, SPACE, {})
    network_from_checkpoint(tmp_path / "model.safetensors")


def test_checkpoints_that_are_none(tmp_path, network):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not written by ATP"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "atp", "network": "{}", "classes": "{}"})
    with pytest.raises(InputError, match="another version"):
        load_checkpoint(path)
    save_checkpoint(path, network, SMALL, SPACE, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("classes", {"names": ["road", "car"]}),
        ("classes", {"names": ["road", "car", "car"]}),
        ("classes", {"names": ["road", "car", 7]}),
        ("classes", {"names": 3}),
        ("classes", {"colors": [[0, 0, 0]] * 2}),
        ("classes", {"colors": [[0, 0, 0], [1, 2, 3], [4, 5, 256]]}),
        ("classes", {"colors": [[0, 0, 0], [1, 2, 3], [4, 5, 6.0]]}),
        ("classes", {"colors": [[0, 0, 0], [1, 2, 3], [4, 5]]}),
        ("network", {"num_classes": 10**6}),
        ("network", {"aspp_dilations": [1] * 100_000}),
        ("network", {"aspp_dilations": [10**9]}),
        ("network", {"mean": [float("nan")] * 3}),
        ("reading", {"size": [0, 16]}),
        ("reading", {"size": [1.5, 16]}),
        ("reading", {"size": 16}),
        ("made_by", None),
    ],
)
def test_metadata_that_lie_are_told_in_one_line(tmp_path, network, part, changes):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, SMALL, SPACE, MADE_BY)
    with safe_open(path, framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "sha256"}
    metadata[part] = json.dumps({**json.loads(metadata[part]), **changes}) if changes else "["
    save_file(network.state_dict(), path, metadata)
    with pytest.raises(InputError, match=r"model\.safetensors: written by another version of ATP"):
        load_checkpoint(path)


def test_any_flipped_bit_is_found(tmp_path, network):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, SMALL, SPACE, MADE_BY)
    blob = path.read_bytes()
    header = 8 + int.from_bytes(blob[:8], "little")
    chance = random.Random(0)
    ends = [8] * 20 + [header] * 150 + [len(blob)] * 150
    for place in map(chance.randrange, ends):
        damaged = bytearray(blob)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"model\.safetensors: (damaged|not a complete|not written by ATP|written by)"
        ):
            load_checkpoint(path)


def test_other_class_counts_are_told(network):
    for classes, word in ((19, "more"), (2, "fewer")):
        other = build_network(SMALL.model_copy(update={"num_classes": classes})).state_dict()
        with pytest.raises(
            InputError, match=rf"x\.pth: {word} classes in the checkpoint \({classes}\) than in the data \(3\)"
        ):
            load_into(network, other, Path("x.pth"))


def test_every_name_that_does_not_fit_is_told_in_one_line(network):
    state = network.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    other = {key: torch.ones_like(value) for key, value in state.items() if not key.startswith("backbone.layer4.")}
    del other["classifier.branches.0.bias"]
    other |= {"aux.0.weight": torch.zeros(1), "aux.0.bias": torch.zeros(1), "backbone.extra": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        load_into(network, other, Path("x.pth"))
    layer4 = sum(key.startswith("backbone.layer4.") for key in state if not key.endswith("num_batches_tracked"))
    assert str(caught.value) == (
        f"x.pth: does not fit the network: missing backbone.layer4.* ({layer4}), classifier.branches.0.bias; "
        "unexpected aux.* (2), backbone.extra; check the section model"
    )
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_other_shapes_are_told(network):
    state = network.state_dict() | {"backbone.conv1.weight": torch.zeros(24, 3, 7, 7)}
    with pytest.raises(InputError, match=r"shapes differ in backbone\.conv1.*is 24x3x7x7, not 24x3x3x3"):
        load_into(network, state, Path("x.pth"))


def public_state(config: NetworkConfig, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A state dict with the names of AdaptSegNet's DeepLabV2 and, with our names, what it should become."""
    ours = build_network(config).state_dict()
    theirs = {}
    for key, value in ours.items():
        # PyTorch 0.4, with which many of these were made, knew no counters.
        if not key.endswith("num_batches_tracked"):
            name = key.removeprefix("backbone.").replace("classifier.branches", "layer6.conv2d_list")
            theirs[prefix + name] = value
    return theirs, ours


@pytest.mark.parametrize(("prefix", "head"), [("", "layer6"), ("Scale.", "layer5")])
def test_public_deeplabs_are_understood(caplog, prefix, head):
    config = SMALL.model_copy(update={"backbone": "resnet50", "output_stride": 8, "resnet_style": "caffe"})
    theirs, ours = public_state(config, prefix)
    if head == "layer5":
        theirs = {key.replace("layer6", "layer5"): value for key, value in theirs.items()}
    else:
        theirs[f"{prefix}layer5.conv2d_list.0.weight"] = torch.zeros(3, 1024, 3, 3)
    network = build_network(config)
    with caplog.at_level(logging.WARNING):
        load_into(network, theirs, Path("gta5.pth"))
    assert all(torch.equal(value, ours[key]) for key, value in network.state_dict().items())
    assert not caplog.records


def test_a_public_deeplab_in_the_other_style_is_warned_of(caplog, network):
    with caplog.at_level(logging.WARNING):
        load_into(network, public_state(SMALL)[0], Path("gta5.pth"))
    assert "resnet_style: caffe" in caplog.text


def test_user_files_load_into_a_network(tmp_path, network):
    other = build_network(SMALL)
    torch.save({"epoch": 3, "state_dict": other.state_dict()}, tmp_path / "x.pth")
    load_into(network, load_user_state(tmp_path / "x.pth"), tmp_path / "x.pth")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("reading", ["null", "[1]"])
def test_what_a_file_states_of_its_reading_is_checked(tmp_path: Path, reading: str) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build_network(SMALL), SMALL, SPACE, {"stage": "align"})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {"reading": reading}
    del metadata[DIGEST]
    save_file(load_file(path), path, metadata)
    with pytest.raises(InputError, match="written by another version of ATP"):
        load_checkpoint(path)


def test_a_torch_file_with_any_damage_is_incomplete(tmp_path: Path) -> None:
    """PyTorch has an error of its own for each: here for the entry that names the order of bytes."""
    good = tmp_path / "good.pth"
    torch.save({"weight": torch.ones(2)}, good)
    path = tmp_path / "model.pth"
    with ZipFile(good) as before, ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, b"l" if name.endswith("byteorder") else before.read(name))
    with pytest.raises(InputError, match="not a complete PyTorch or safetensors file; copy it again"):
        load_user_state(path)
