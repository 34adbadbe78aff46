"""The front door in Python: networks of anyone's, images in any form, and what the README and the page show."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, lraspp_mobilenet_v3_large
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import atp
from atp import AdaptSettings, InputError, LabelSpace, adapt, load_model, predict, wrap
from atp.models.checkpoint import save_checkpoint
from atp.models.network import build_network
from tests.models import foreign
from tests.test_cli import CONFIG, SPACE, write_project

ROOT = Path(__file__).parents[1]
ALIGN = AdaptSettings(align={"epochs": 1, "batch_size": 4}, rounds=0, propagate=None)
REST = AdaptSettings(
    align=None,
    dump={"flip": False, "scales": (1.0,)},
    teach={"epochs": 1, "batch_size": 4},
    propagate={"epochs": 1, "batch_size": 4},
)
SEGFORMER = {
    "num_labels": 5,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}


def drawn(count: int, width: int = 64, height: int = 32) -> list[NDArray[np.uint8]]:
    """Images with a sky, a road and a box."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(count):
        ids = np.zeros((height, width), dtype=np.uint8)
        ids[height // 2 :] = 1
        left = int(generator.integers(0, width // 2))
        ids[height // 3 : 2 * height // 3, left : left + width // 3] = 2
        colours = np.array([[60, 120, 200], [90, 80, 90], [200, 60, 40]])[ids]
        images.append(np.clip(colours + generator.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8))
    return images


def write(folder: Path, images: list[NDArray[np.uint8]]) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:06}.png")
    return folder


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


@pytest.mark.parametrize(
    ("make", "classifier", "more"),
    [
        (lambda: lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5), "classifier", {}),
        (
            lambda: deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5, aux_loss=True),
            "classifier",
            {"classifier": "classifier"},
        ),
        (lambda: smp.Unet("resnet18", encoder_weights=None, classes=5), "segmentation_head", {"divisor": 32}),
        (lambda: SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMER)), "decode_head.classifier", {}),
    ],
    ids=["lraspp", "deeplabv3", "unet", "segformer"],
)
def test_a_network_that_nobody_here_wrote(make: Callable[[], nn.Module], classifier: str, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, images = make(), drawn(20, 64, 48)
    model.train()
    before = state(model)
    aligned = adapt(model, images, ALIGN, device="cpu", precision="fp32", **more)
    frozen = [name for name in before if name.startswith(f"{classifier}.")]
    changed = differing(before, state(aligned.given))
    assert frozen
    assert not set(frozen) & set(changed), "the classifier stays, parameters and buffers"
    learnt = {name for name, _ in model.named_parameters() if not name.startswith(("classifier.", "aux_"))} - set(
        frozen
    )
    assert len(set(changed) & learnt) > 0.9 * len(learnt)
    result = adapt(aligned, images, REST, device="cpu", precision="fp32")
    assert set(frozen) & set(differing(before, state(result.given))), "the classifier learns after align"
    assert type(result.given) is type(model)
    assert (result.num_classes, result.head_name, result.training) == (5, classifier, False)
    assert not differing(before, state(model)), "the module given is not changed"
    assert all(part.training for part in model.modules())
    ((name, ids),) = predict(result, images[:1], device="cpu")
    assert (name, ids.shape, ids.dtype) == ("000000", (48, 64), np.uint8)


def small() -> nn.Module:
    torch.manual_seed(0)
    return foreign.Small()


def test_images_in_any_form_give_the_same_bits(tmp_path: Path) -> None:
    images = drawn(4)
    folder = write(tmp_path / "images", images)
    forms: dict[str, Any] = {
        "a folder": folder,
        "its name": str(folder),
        "PIL": (Image.fromarray(image) for image in images),
        "an array of all": np.stack(images),
        "tensors": [torch.from_numpy(image).permute(2, 0, 1) for image in images],
        "a tensor of all": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        "files": sorted(folder.iterdir()),
    }
    states = [state(adapt(small(), form, ALIGN, device="cpu", precision="fp32")) for form in forms.values()]
    for name, other in zip(forms, states, strict=True):
        assert not differing(states[0], other), name


def test_the_folder_keeps_images_and_labels(tmp_path: Path) -> None:
    images = drawn(4)
    for folder in (tmp_path / "labels", None):
        adapt(small(), images, REST, device="cpu", folder=folder)
    (tmp_path / "labels/dump/r01/positives/000003.png").stat()
    (tmp_path / "labels/split/table.json").stat()
    with Image.open(tmp_path / "labels/images/000003.png") as file:
        assert np.array_equal(np.array(file), images[3])
    with pytest.raises(InputError, match="labels: not empty; pass a new folder to adapt"):
        adapt(small(), images, REST, device="cpu", folder=tmp_path / "labels")


def test_predict_says_what_the_network_says_at_the_images_own_size(tmp_path: Path) -> None:
    images = [*drawn(2), *drawn(1, 40, 24)]
    network = wrap(small())
    with torch.no_grad():
        expected = [network(torch.from_numpy(x).permute(2, 0, 1)[None]).argmax(1)[0].numpy() for x in images]
    folder = write(tmp_path / "images", images)
    for form in (folder, images):
        for (name, ids), own in zip(predict(network, form, device="cpu"), expected, strict=True):
            assert name in ("000000", "000001", "000002")
            assert np.array_equal(ids, own)
    ((name, ids),) = predict(network, folder / "000002.png", device="cpu")
    assert name == "000002"
    assert np.array_equal(ids, expected[2])
    ((_, larger),) = predict(network, folder / "000002.png", size=(80, 48), device="cpu")
    assert larger.shape == (24, 40)
    seen = torch.from_numpy(np.array(Image.fromarray(images[2]).resize((80, 48), Image.Resampling.BICUBIC)))
    with torch.no_grad():
        scores = network(seen.permute(2, 0, 1)[None]).softmax(1)
    assert np.array_equal(larger, nn.functional.interpolate(scores, (24, 40), mode="bilinear").argmax(1)[0].numpy())


def test_predict_reads_one_image_at_a_time() -> None:
    taken = []

    def stream() -> Any:
        for image in drawn(3):
            taken.append(1)
            yield image

    found = predict(wrap(small()), stream(), device="cpu")
    assert not taken
    next(found)
    assert len(taken) == 1


def test_a_model_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    made = build_network(CONFIG)
    save_checkpoint(tmp_path / "model.safetensors", made, CONFIG, SPACE, {})
    for where in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        network = load_model(where)
        assert not differing(state(made), state(network))
        assert (network.label_space, network.training) == (SPACE, False)
    adapted = adapt(network, drawn(4), ALIGN, device="cpu")
    assert adapted.label_space == SPACE
    with pytest.raises(InputError, match="nowhere: no such model"):
        load_model("nowhere")


def test_classes() -> None:
    assert wrap(small()).label_space == LabelSpace(("0", "1", "2"), ((0, 0, 0), (128, 0, 0), (0, 128, 0)))
    assert wrap(small(), classes=["a", "b", "c"]).label_space.names == ("a", "b", "c")
    assert wrap(small(), classes=SPACE).label_space is SPACE
    # VOC's own table.
    assert [LabelSpace.numbered(21).colors[index] for index in (5, 8, 20)] == [(128, 0, 128), (64, 0, 0), (0, 64, 128)]


def test_what_describes_a_module_reaches_it() -> None:
    seen: list[Tensor] = []
    module = small()
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network = wrap(
        module, mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 0.25), channels="bgr", divisor=16, classifier="decoder"
    )
    image = torch.full((1, 3, 24, 40), 255, dtype=torch.uint8)
    assert network(image).shape == (1, 3, 24, 40)
    assert seen[-1].shape == (1, 3, 32, 48)
    assert seen[-1][0, :, 0, 0].tolist() == [4.0, 1.5, 0.5]
    assert network.head is module.get_submodule("decoder")


class Bare(nn.Module):
    """Scores that no submodule makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.weight = nn.Parameter(torch.ones(3, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(self.stem(images), self.weight)


def with_classifier(network: nn.Module) -> nn.Module:
    return wrap(network)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (
            lambda: foreign.Small(output="flat"),
            {},
            r"foreign:Small returns logits of shape \(1, 3, 1024\), not \(N, C, h, w\)",
        ),
        (Bare, {}, "Bare: no single submodule computes all logits; set classifier, one of: stem"),
        (small, {"classifier": "decode"}, "Small has no decode with parameters; is it decoder"),
        (small, {"classes": ["a", "b"]}, "Small: has 3 classes, but classes lists 2"),
        (small, {"mean": (123.0, 116.0, 104.0)}, "mean.0: must be at most 1, not 123.0"),
        (lambda: nn.Conv2d(4, 3, 1), {}, "the trial run on a 64x64 image fails .RuntimeError: Given groups=1"),
        (
            lambda: wrap(small()),
            {"divisor": 32, "std": (1, 1, 1)},
            "std, divisor: only for a plain module; this network",
        ),
        (small, {"device": "tpu9"}, "no such device 'tpu9'"),
        (small, {"images": "nowhere"}, "nowhere: no such file or folder of images"),
        (small, {"images": drawn(1)}, "only one image: propagate needs at least two"),
        (small, {"images": []}, "images: empty"),
        (small, {"images": 3}, "images: int; pass a folder, or an iterable of images"),
        (small, {"images": [(drawn(1)[0], 0)]}, "image 000000: tuple; pass a file, a PIL image, an array uint8"),
        (small, {"images": [torch.rand(3, 8, 8)]}, r"image 000000: Tensor torch.float32 \(3, 8, 8\); pass"),
        (small, {"images": [Image.new("I;16", (8, 8))]}, "000000: has mode I;16; convert"),
        (
            small,
            {"images": [*drawn(2), *drawn(2, 40, 24)]},
            r"the images have 2 sizes \(40x24, 64x32\); set size",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    network: Callable[[], nn.Module], arguments: dict[str, Any], message: str
) -> None:
    arguments = {"images": drawn(4), "device": "cpu"} | arguments
    with pytest.raises(InputError, match=message) as caught:
        adapt(network(), arguments.pop("images"), **arguments)
    assert "\n" not in str(caught.value)


def test_several_sizes_with_a_crop_or_a_size() -> None:
    images = [*drawn(2), *drawn(2, 40, 24)]
    for more in ({"size": (32, 16)}, {"crop": (32, 16)}):
        adapt(small(), images, ALIGN.model_copy(update=more), device="cpu")


def test_predict_wants_a_network_that_knows_its_normalisation() -> None:
    with pytest.raises(InputError, match=r"Small is a plain module; pass atp.wrap\(module\)"):
        predict(small(), drawn(1))  # type: ignore[arg-type]


SCRIPT = """
import logging, sys
import atp
assert "torch" not in sys.modules
assert {"adapt", "AdaptSettings", "__version__"} <= set(dir(atp))
from atp import AdaptSettings, InputError
assert "torch" not in sys.modules, "settings need none"
import numpy as np
from atp import adapt
import atp.masks
assert atp.predict.__module__ == "atp.api"
from tests.models.foreign import Small
settings = AdaptSettings(align={"epochs": 1}, rounds=0, propagate=None)
images = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
print("unset", file=sys.stderr)
adapt(Small(), images, settings, device="cpu")
assert not logging.getLogger("atp").handlers
assert logging.getLogger("atp").level == logging.NOTSET
print("set", file=sys.stderr)
logging.basicConfig(level=logging.INFO, format="mine %(message)s")
adapt(Small(), images, settings, device="cpu")
"""


def test_a_script_is_quick_to_import_and_sees_progress_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    unset, with_logging = done.stderr.removeprefix("unset\n").split("\nset\n")
    lines = [re.sub(r"in \d+ s.*", "", line) for line in unset.splitlines()]
    assert lines == [
        "tests.models.foreign:Small: the classifier is decoder.3",
        "adapt: 2 images, fp32 on cpu" if "fp32" in unset else "adapt: 2 images, bf16 on cpu",
        "align: 1 steps ",
    ]
    assert [re.sub(r"in \d+ s.*", "", line) for line in with_logging.splitlines()] == [f"mine {x}" for x in lines]


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'atp' has no attribute 'adept'"):
        atp.adept  # noqa: B018
    assert set(atp.__all__) <= set(dir(atp))
    assert all(getattr(atp, name).__name__ == name for name in atp.__all__)


def blocks(text: str) -> list[str]:
    return [dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)]


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a trained model of torchvision's for 19 classes, and images of its new domain."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
    torch.save(model.state_dict(), "source.pth")
    write(tmp_path / "target/images", drawn(8))
    return tmp_path


def test_the_block_in_the_readme(somewhere: Path) -> None:
    section = (ROOT / "README.md").read_text().split("\n## From Python\n")[1].split("\n## ")[0]
    (block,) = blocks(section)
    shown: dict[str, Any] = {}
    exec(block, shown)
    source, adapted = (torch.load(f"{name}.pth", weights_only=True) for name in ("source", "adapted"))
    assert len(differing(source, adapted)) > 0.9 * len(source)
    assert not differing(adapted, state(shown["adapted"].given))
    assert {name: ids.shape for name, ids in shown["masks"].items()} == {f"{n:06}": (32, 64) for n in range(8)}


def test_the_blocks_of_the_page(somewhere: Path) -> None:
    text = (ROOT / "docs/how-to/python.md").read_text()
    write_project(somewhere)
    for seed, stage in enumerate(("source", "propagate")):
        torch.manual_seed(seed)
        save_checkpoint(somewhere / f"runs/{stage}/model.safetensors", build_network(CONFIG), CONFIG, SPACE, {})
    shown: dict[str, Any] = {}
    for name in range(4, 8):
        Path(f"target/images/{name:06}.png").unlink()
    for block in blocks(text):
        # The same at a size and with as many images as do not take one core minutes.
        for there, here in (("(1024, 512)", "(32, 16)"), ("(128, 64)", "(32, 16)"), ("range(8)", "range(4)")):
            block = block.replace(there, here)
        exec(block, shown)
    assert len(list(Path("labels/split/positives").glob("*.png"))) == 4
    assert len(list(Path("masks").glob("*.png"))) == 4
    assert not differing(state(shown["adapted"].given), state(shown["reloaded"].given))
