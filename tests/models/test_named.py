"""Networks by name: what a name brings along, every family from its folder to a reloaded file, one line for errors."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import atp
from atp.errors import InputError
from atp.export import export_state
from atp.models.checkpoint import load_into, load_user_state, network_from_checkpoint, save_checkpoint
from atp.models.config import NetworkConfig
from atp.models.named import callables, completed, load_named, named_network
from atp.models.network import build_network
from atp.models.queries import query_scores

NAMES = ("road", "car", "sky")
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2, "patch_size": 4, "image_size": 64}
DETR = {
    **{
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in {"layers": 1, "ffn_dim": 8}.items()
    },
    **{"d_model": 32, "num_queries": 5, "encoder_attention_heads": 1, "decoder_attention_heads": 1},
}
VIT = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
HALF = [0.5, 0.5, 0.5]


def segformer() -> nn.Module:
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(**sizes, decoder_hidden_size=16, **LABELS)
    )


def upernet() -> nn.Module:
    backbone = transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, out_features=STAGES)
    sizes = {"hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 16}
    return transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(backbone_config=backbone, **sizes, **LABELS)
    )


def dpt() -> nn.Module:
    sizes = {"num_hidden_layers": 4, "intermediate_size": 16, "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
    return transformers.DPTForSemanticSegmentation(
        transformers.DPTConfig(**VIT, **sizes, backbone_out_indices=[0, 1, 2, 3], **LABELS)
    )


def maskformer() -> nn.Module:
    parts = {
        "backbone_config": transformers.SwinConfig(**SWIN, out_features=STAGES),
        "decoder_config": transformers.DetrConfig(**DETR),
    }
    return transformers.MaskFormerForInstanceSegmentation(
        transformers.MaskFormerConfig(**parts, fpn_feature_size=32, mask_feature_size=32, **LABELS)
    )


def mask2former() -> nn.Module:
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_queries": 5, "num_attention_heads": 1}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_feedforward_dim": 8, "dim_feedforward": 8}
    backbone = transformers.SwinConfig(**SWIN, out_features=STAGES)
    return transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(backbone_config=backbone, **sizes, **layers, **LABELS)
    )


def eomt() -> nn.Module:
    sizes = {"num_hidden_layers": 2, "num_queries": 5, "num_blocks": 1, "num_upscale_blocks": 1}
    return transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**VIT, **sizes, mlp_ratio=1, **LABELS))


# The processor of each, and what must come of both.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "segformer": (
        segformer,
        lambda: transformers.SegformerImageProcessor(size={"height": 48, "width": 64}),
        {"classifier": "decode_head.classifier"},
        {"size": (64, 48), "shorter_side": None},
    ),
    "upernet": (
        upernet,
        lambda: transformers.SegformerImageProcessor(size={"shortest_edge": 64}, do_rescale=False),
        {"classifier": "decode_head.classifier", "mean": [v / 255 for v in (0.485, 0.456, 0.406)]},
        {"size": None, "shorter_side": 64},
    ),
    "dpt": (
        dpt,
        # Its class has another mean than ImageNet's.
        lambda: transformers.DPTImageProcessor(size={"height": 64, "width": 64}),
        {"classifier": "head.head.4", "mean": HALF, "std": HALF, "divisor": 16, "input_size": [64, 64]},
        {"size": (64, 64), "shorter_side": None},
    ),
    "maskformer": (
        maskformer,
        lambda: transformers.MaskFormerImageProcessor(size={"shortest_edge": 64}),
        {"classifier": "class_predictor", "divisor": 32},
        {"size": None, "shorter_side": 64},
    ),
    "mask2former": (
        mask2former,
        lambda: transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}, do_normalize=False),
        {"classifier": "class_predictor", "divisor": 32, "mean": [0.0] * 3, "std": [1.0] * 3},
        {"size": (64, 64), "shorter_side": None},
    ),
    "eomt": (
        eomt,
        lambda: transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}),
        {"classifier": "class_predictor", "divisor": 16, "input_size": [64, 64]},
        {"size": (64, 64), "shorter_side": 64},
    ),
}
QUICK = atp.AdaptSettings(
    size=(64, 48),
    align={"steps": 1, "batch_size": 2},
    dump={"flip": False, "scales": (1.0,)},
    teach={"steps": 1, "batch_size": 2},
    propagate=None,
)
IMAGES = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8) for seed in range(2)]
PIXELS = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES])


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, as ``save_pretrained`` writes it; not to be changed."""
    root = tmp_path_factory.mktemp("hf")
    for name, (make, processor, _, _) in FAMILIES.items():
        torch.manual_seed(0)
        make().save_pretrained(root / name)
        processor().save_pretrained(root / name)
    return root


@pytest.fixture
def folder(folders: Path, tmp_path: Path) -> Path:
    """A copy of SegFormer's."""
    return Path(shutil.copytree(folders / "segformer", tmp_path / "segformer"))


def theirs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Probabilities of every pixel at the resolution of the scores, as transformers computes them."""
    with torch.no_grad():
        output = model.eval()(pixel_values=images)
    if not hasattr(output, "masks_queries_logits"):
        return output.logits.softmax(1)
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    sums = torch.einsum("bqc, bqhw -> bchw", classes, output.masks_queries_logits.sigmoid())
    return sums / sums.sum(1, keepdim=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_is_adapted_saved_and_loaded_without_it(
    family: str, folders: Path, tmp_path: Path
) -> None:
    make, _, section, sizes = FAMILIES[family]
    folder = Path(shutil.copytree(folders / family, tmp_path / family))
    found = named_network(f"hf:{folder}")
    assert found.model["network"] == f"hf:{folder}"
    assert {
        key: pytest.approx(found.model[key]) if key in ("mean", "std") else found.model[key] for key in section
    } == section
    assert set(found.model) == {"network", "mean", "std", *section}
    assert (found.num_classes, found.classes, found.checkpoint, found.notes) == (3, NAMES, folder, ())
    assert {key: getattr(found, key) for key in sizes} == sizes

    network, config = load_named(found)
    assert callables(NetworkConfig(**found.model)) == config.callables
    shutil.rmtree(folder)
    model = make()
    model.load_state_dict(load_user_state(folders / family))
    normal = network.normalise(PIXELS)
    if config.input_size:
        normal = F.interpolate(normal, (64, 64), mode="bilinear")
    padded = F.pad(normal, (0, 0, 0, -normal.shape[-2] % config.divisor), mode="replicate")
    with torch.no_grad():
        scores = network._called(padded)
    torch.testing.assert_close(scores.softmax(1), theirs(model, padded))

    adapted = atp.adapt(network, IMAGES, QUICK, device="cpu", precision="fp32")
    learnt = {
        key for key, value in adapted.given.state_dict().items() if not torch.equal(value, model.state_dict()[key])
    }
    assert any(key.startswith(f"{section['classifier']}.") for key in learnt), "teach trains it"
    assert len(learnt) > 0.5 * len(model.state_dict())
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, adapted, config, network.label_space, {"precision": "fp32"})
    reloaded, space = network_from_checkpoint(path)
    assert space.names == NAMES
    # Adapted as channels-last, in which convolutions round differently.
    adapted.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        assert torch.equal(reloaded(PIXELS), adapted(PIXELS))
    for one, other in zip(atp.predict(adapted, IMAGES), atp.predict(reloaded, IMAGES), strict=True):
        assert np.array_equal(one[1], other[1])
    told = export_state(tmp_path / "out.safetensors", str(path))
    assert f"load: transformers.{type(model).__name__}(config=transformers." in told
    exported = load_user_state(tmp_path / "out.safetensors")
    model.load_state_dict(exported, strict=True)
    # It can take the place of the folder's own weights.
    shutil.copytree(folders / family, folder)
    shutil.copy(tmp_path / "out.safetensors", folder / "model.safetensors")
    assert all(torch.equal(value, exported[key]) for key, value in load_user_state(folder).items())


def test_networks_of_torchvision_and_smp_take_the_number_of_classes_from_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = smp.Unet("resnet18", encoder_weights=None, classes=4, encoder_depth=3, decoder_channels=(16, 8, 4))
    lraspp = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    name = "smp:Unet?encoder_name=resnet18&encoder_depth=3&decoder_channels=[16,8,4]"
    for module, given, classifier in (
        (unet, name, "segmentation_head"),
        (lraspp, "torchvision:lraspp_mobilenet_v3_large", "classifier"),
    ):
        torch.save(module.state_dict(), tmp_path / "given.pth")
        found = named_network(given, tmp_path / "given.pth")
        assert (found.num_classes, found.classes, found.model["classifier"]) == (4, None, classifier)
        network, _ = load_named(found)
        with torch.no_grad():
            scores = module.eval()(network.normalise(PIXELS))
            torch.testing.assert_close(network(PIXELS), scores["out"] if isinstance(scores, dict) else scores)
    with pytest.raises(InputError, match=r"given\.pth: 4 classes, but .* builds a network of 5; .*classes=4"):
        named_network("torchvision:lraspp_mobilenet_v3_large?num_classes=5", tmp_path / "given.pth")
    found = named_network(name.replace("Unet", "MAnet"))
    assert (found.num_classes, found.checkpoint, found.model["divisor"]) == (None, None, 8)


def test_an_auxiliary_classifier_in_the_checkpoint_is_built(tmp_path: Path) -> None:
    given = {"classifier.4.bias": torch.zeros(4), "aux_classifier.4.bias": torch.zeros(4)}
    torch.save(given, tmp_path / "given.pth")
    found = named_network("torchvision:deeplabv3_mobilenet_v3_large", tmp_path / "given.pth")
    assert (found.model["arguments"], found.num_classes) == ({"aux_loss": True}, 4)


def test_what_params_yaml_sets_is_kept(folder: Path) -> None:
    given = {"mean": (0.1, 0.2, 0.3), "classifier": "decode_head", "divisor": 8, "channels": "bgr"}
    config = completed(NetworkConfig(network=f"hf:{folder}", num_classes=3, **given))
    assert {key: getattr(config, key) for key in given} == given
    assert config.std == pytest.approx((0.229, 0.224, 0.225))
    mapped = completed(NetworkConfig(network=f"hf:{folder}", num_classes=2, class_map=(0, 1, 255)))
    assert (mapped.num_classes, mapped.num_scores, mapped.network) == (2, 3, None)
    assert NetworkConfig.model_validate_json(mapped.model_dump_json()) == mapped
    named = completed(
        NetworkConfig(network="tests.models.foreign:Small?stride=4", arguments={"aux": True}, num_classes=5)
    )
    assert named.arguments == {"classes": 5, "stride": 4, "aux": True}


def test_naming_a_network_leaves_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(3)
    completed(NetworkConfig(network=f"hf:{folder}", num_classes=3))
    load_user_state(folder)
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), after)


def test_a_folders_file_is_read_with_its_names_of_today(folder: Path) -> None:
    """transformers writes the names of its earlier versions."""
    network = build_network(completed(NetworkConfig(network=f"hf:{folder}", num_classes=3)))
    load_into(network, load_user_state(folder / "model.safetensors"), folder)
    assert all(torch.equal(value, network.given.state_dict()[key]) for key, value in load_user_state(folder).items())


def test_a_model_is_brought_into_a_project(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    found = named_network(f"hf:{folder}", into=tmp_path / "data/source")
    there = tmp_path / "data/source/segformer"
    assert (found.model["network"], found.checkpoint) == (f"hf:{there}", there)
    assert {path.name for path in there.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert named_network(f"hf:{folder}", into=tmp_path / "data/source") == found, "it is there already"
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("road", "street"))
    with pytest.raises(InputError, match=r"data/source/segformer: is not a copy of .*; rename one of them"):
        named_network(f"hf:{folder}", into=tmp_path / "data/source")


def test_a_model_of_the_hub_is_downloaded_without_pickles_and_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def snapshot_download(repository: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert repository == "somebody/segformer"
        for path in [*folder.iterdir(), folder / "pytorch_model.bin", folder / "modeling.py"]:
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = named_network("hf:somebody/segformer", into=tmp_path / "into")
    assert found == named_network(f"hf:{folder}", into=tmp_path / "into")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert named_network("hf:somebody/segformer", into=tmp_path / "into") == found, "it is there already"


# Scores from queries


def test_queries_worked_by_hand() -> None:
    # Two queries: one sure of class 0 on the left pixel, one of class 1, or no object, anywhere.
    classes = torch.tensor([[[30.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])
    masks = torch.tensor([[[[30.0, -30.0]], [[0.0, 0.0]]]])
    share = 1 / (2 + np.exp(-1))
    expected = torch.tensor(
        [[1 + 0.5 * share * np.exp(-1), 0.5 * share * np.exp(-1)], [0.5 * share, 0.5 * share]]
    ).log()
    torch.testing.assert_close(query_scores(classes, masks)[0, :, 0], expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", [1e3, -1e3])
def test_saturated_queries_have_finite_scores_and_gradients(level: float) -> None:
    classes = torch.full((1, 4, 3), level).requires_grad_()
    masks = torch.full((1, 4, 2, 2), level).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scores = query_scores(classes, masks)
    assert scores.dtype == torch.float32
    scores.softmax(1).square().sum().backward()
    assert scores.isfinite().all()
    assert classes.grad is not None
    assert masks.grad is not None
    assert classes.grad.isfinite().all()
    assert masks.grad.isfinite().all()


# One line for what is wrong


def message(name: str, *arguments: Any, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        named_network(name, *arguments, **more)
    assert len(caught.value.lines) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "deeplab",
            "network deeplab: unknown; name it hf:FOLDER, torchvision:deeplabv3_resnet50, "
            "smp:Unet?encoder_name=resnet18 or package.module:callable",
        ),
        (
            "torchvision:deeplabv3_resnet5",
            "network: torchvision.models.segmentation:deeplabv3_resnet5: torchvision.models.segmentation has no "
            "callable deeplabv3_resnet5; is it deeplabv3_resnet50?",
        ),
        ("smp:Unet?encoder_name", "network smp:Unet?encoder_name: encoder_name is not of the form argument=value&arg"),
        (
            "smp:Unet?encoder_name=resnet1",
            "model.factory: segmentation_models_pytorch:Unet cannot be called (KeyError: ",
        ),
        ("hf:no/such/folder", "no/such/folder: no such folder; pass one with config.json and model.safetensors"),
        ("hf:.?a=1", "contains no config.json"),
    ],
)
def test_a_name_that_means_nothing_is_told(name: str, expected: str) -> None:
    assert expected in message(name)


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        ("hf:.", "transformers", "transformers"),
        ("smp:Unet", "segmentation_models_pytorch", "segmentation-models-pytorch"),
    ],
)
def test_a_missing_package_is_named(
    kind: str, module: str, package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, module, None)
    assert message(kind) == f"network {kind}: {package} is not installed; pip install {package}"


def test_a_hub_name_without_a_connection_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    text = message("hf:nobody/nothing-here", into=tmp_path / "into")
    assert text.startswith(
        "network hf:nobody/nothing-here: no such folder, and no connection to the Hugging Face hub, "
    )
    assert list((tmp_path / "into").iterdir()) == []


def test_a_folder_without_safetensors_is_told(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert message(f"hf:{folder}") == (
        f"{folder}: contains no model.safetensors; ATP reads no pickled weights: load the model yourself and call "
        f"model.save_pretrained({str(folder)!r})"
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{", "[", "config.json: not a JSON file (JSONDecodeError: "),
        (
            "SegformerForSemanticSegmentation",
            "SegformerForImageClassification",
            "Classification does not assign classes",
        ),
        ('"segformer"', '"segfermor"', "has no model_type segfermor with architectures ['SegformerForSemanticSegmenta"),
        (
            '"architectures"',
            '"auto_map": {"AutoModel": "net.Net"}, "architectures"',
            "has code of its own, which ATP does",
        ),
        (
            "SegformerForSemanticSegmentation",
            "OneFormerForUniversalSegmentation",
            "also takes task_inputs; pass a model",
        ),
        ('"num_encoder_blocks": 4', '"num_encoder_blocks": "four"', "not accepted by transformers ("),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(folder: Path, old: str, new: str, expected: str) -> None:
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new, 1))
    assert expected in message(f"hf:{folder}")


def test_weights_of_another_model_are_told(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"decoder_hidden_size": 16', '"decoder_hidden_size": 24'))
    with pytest.raises(
        InputError, match=r"its weights do not fit its config.json: \d+ tensors are missing or of another"
    ):
        load_user_state(folder)
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"segformer: its weights cannot be loaded \(SafetensorError: "):
        load_user_state(folder)
    torch.save(nn.Conv2d(3, 4, 1).state_dict(), folder / "given.pth")
    assert message("tests.models.foreign:Small", folder / "given.pth") == (
        f"{folder}/given.pth: contains no decoder.3, where tests.models.foreign:Small computes the scores: another "
        "network"
    )


def test_another_number_of_classes_is_told(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        completed(NetworkConfig(network=f"hf:{folder}", num_classes=5))
    assert str(caught.value) == (
        f"network hf:{folder}: has 3 classes, and the data 5; list its classes, in its order, in data.classes, or map "
        "them with data.class_map"
    )


def test_without_a_processor_imagenets_normalisation_is_assumed(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    found = named_network(f"hf:{folder}")
    assert found.model["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert found.notes == (f"{folder}: contains no preprocessor_config.json: ImageNet's mean and std are assumed",)
