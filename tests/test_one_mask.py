"""One image has one mask, bit for bit, on whatever route it is predicted."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from atp import AdaptSettings, adapt, load_model, predict, wrap
from atp.cli import app
from atp.data.folder import list_samples
from atp.data.reading import Reading
from atp.evaluation.evaluate import evaluate
from atp.evaluation.evidence.measure import measure
from atp.export import export_state
from atp.models.checkpoint import load_checkpoint, save_checkpoint
from atp.models.network import build_network
from atp.registry.images import decode_image, encode_image
from atp.registry.package import LIMITS
from atp.training.runtime import runtime_of
from tests.test_cli import CONFIG, SPACE

SIZES = [(64, 32), (32, 16), (128, 64), (256, 128), (96, 50), (33, 71)]
"""Those of the adaptation, its half, 2 and 4 times as large, and of other aspects."""

ADAPTED = Reading((64, 32))
PAGE = (Path(__file__).parents[1] / "docs/how-to/own-model.md").read_text()

Masks = dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(reading, precision)`` writes a model."""

    def written(reading: Reading, precision: str = "fp32") -> Path:
        torch.manual_seed(1)
        network = build_network(CONFIG)
        network.reading = reading
        save_checkpoint(tmp_path / "model.safetensors", network, CONFIG, SPACE, {"precision": precision})
        return tmp_path / "model.safetensors"

    return written


def from_files(folder: Path) -> Masks:
    masks = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as file:
            masks[path.stem] = np.array(file)
    return masks


def by_command(model: Path, images: Path, *options: str) -> Masks:
    out = model.parent / "out"
    result = CliRunner().invoke(app, ["predict", str(images), str(out), "--model", str(model), *options])
    assert result.exit_code == 0, result.output
    return from_files(out / "masks")


def by_evaluate(model: Path, images: Path, reading: Reading) -> Masks:
    """As the stage evaluates at ``data.size`` and ``data.window``."""
    network = load_model(model)
    runtime = runtime_of(network.precision, torch.device("cpu"))
    folder = model.parent / "evaluated"
    evaluate(
        network,
        list_samples(images),
        reading.size,
        runtime,
        window=reading.window,
        predictions=folder,
        label_space=SPACE,
    )
    return from_files(folder)


def registered(model: Path) -> Callable[[Any], Any]:
    """The registered model's code with this checkpoint."""
    with warnings.catch_warnings():
        # MLflow's import warns about its own type hints.
        warnings.simplefilter("ignore")
        from atp.registry.model import AdaptedModel
    made = AdaptedModel()
    context: Any = SimpleNamespace(artifacts={"model": str(model)}, model_config=LIMITS)
    made.load_context(context)
    return partial(made.predict, context)


def by_registered_arrays(model: Path, images: Path) -> Masks:
    answer = registered(model)
    return {path.stem: answer(np.array(Image.open(path))[None])[0] for path in images.glob("*.png")}


def by_registered_files(model: Path, images: Path) -> Masks:
    """What a server gets and answers."""
    answer = registered(model)
    masks = {}
    for path in images.glob("*.png"):
        (maps,) = answer(np.array([encode_image(np.array(Image.open(path)))], dtype=object))
        masks[path.stem] = np.asarray(decode_image(maps["mask"], 2**20))
    palette = np.frombuffer(SPACE.palette, np.uint8).reshape(256, 3)[: SPACE.num_classes]
    return {name: (mask[:, :, None] == palette).all(-1).argmax(-1).astype(np.uint8) for name, mask in masks.items()}


def by_exported_weights(model: Path, images: Path) -> Masks:
    """The recipe of docs/how-to/own-model.md, without ATP."""
    (block,) = re.findall(r"```python\n(import numpy as np\n.*?)```", PAGE, re.DOTALL)
    export_state(model.parent / "weights.pth", str(model))
    network = build_network(CONFIG).eval()
    network.load_state_dict(torch.load(model.parent / "weights.pth", weights_only=True))
    masks = {}
    for path in images.glob("*.png"):
        recipe = block.replace('"image.png"', repr(str(path))).replace("(1024, 512)", "(64, 32)")
        assert recipe.count("(64, 32)") == 1
        names: dict[str, Any] = {"network": network.scores}
        exec(recipe, names)
        masks[path.stem] = names["mask"].numpy().astype(np.uint8)
    return masks


def check(one: Masks, other: Masks) -> None:
    assert one.keys() == other.keys() == {str(index) for index in range(len(SIZES))}
    for name, mask in one.items():
        assert mask.shape == SIZES[int(name)][::-1]
        assert np.array_equal(mask, other[name]), name
    assert len(np.unique(np.concatenate([mask.ravel() for mask in one.values()]))) > 1, "else any constant would pass"


READINGS = [ADAPTED, Reading((64, 32), (24, 16)), Reading(), Reading(None, (24, 16))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_every_route_gives_the_same_mask(
    images: Path, write: Callable[..., Path], reading: Reading, precision: str
) -> None:
    model = write(reading, precision)
    masks = by_evaluate(model, images, reading)
    check(masks, by_command(model, images))
    check(masks, dict(predict(load_model(model), images, device="cpu")))
    check(masks, by_registered_arrays(model, images))
    check(masks, by_registered_files(model, images))


def test_the_recipe_for_exported_weights_gives_it_too(images: Path, write: Callable[..., Path]) -> None:
    model = write(ADAPTED)
    check(by_command(model, images), by_exported_weights(model, images))
    line = export_state(model.parent / "weights.pth", str(model))
    assert "3 classes, for images of this size: 64x32; load: " in line


@pytest.mark.parametrize("reading", [ADAPTED, Reading((64, 32), (24, 16))], ids=str)
def test_evidence_is_of_the_same_predictions(images: Path, write: Callable[..., Path], reading: Reading) -> None:
    """Its shares are of the classes at the size at which they are predicted: an image of this size has them itself."""
    network = load_model(write(reading))
    samples = [sample for sample in list_samples(images) if sample.name == "0"]
    measured = measure(
        network, samples, reading.size, runtime_of("fp32", torch.device("cpu")), window=reading.window, name="test"
    )
    ((_, mask),) = predict(network, images / "0.png", device="cpu")
    assert measured.shares.tolist() == pytest.approx((np.bincount(mask.ravel(), minlength=3) / mask.size).tolist())


def test_windows_and_sizes_change_it(images: Path, write: Callable[..., Path]) -> None:
    """So that equal masks above do not mean that no route looks."""
    predictions = [by_command(write(reading), images) for reading in READINGS]
    for index, one in enumerate(predictions):
        for other in predictions[index + 1 :]:
            assert any(not np.array_equal(mask, other[name]) for name, mask in one.items())


def told(model: Path, images: Path, *options: str) -> str:
    arguments = ["predict", str(images / "0.png"), str(model.parent / "out"), "--model", str(model), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stderr.splitlines()[1]


def test_the_command_says_which_size_it_takes(images: Path, write: Callable[..., Path]) -> None:
    model = write(ADAPTED)
    assert told(model, images) == "size: 64x32, as the model was adapted"
    assert told(model, images, "--size", "native") == "size: each image's own"
    assert told(model, images, "--size", "80x40") == "size: 80x40"
    sliding = ["--inference", "sliding"]
    assert told(model, images, "--size", "80x40", *sliding) == "size: 80x40, in windows of 64x32"
    model = write(Reading((64, 32), (24, 16)))
    assert told(model, images) == "size: 64x32, in windows of 24x16, as the model was adapted"
    assert told(model, images, "--inference", "whole") == "size: 64x32, as the model was adapted"


def test_another_size_or_way_is_a_choice(images: Path, write: Callable[..., Path]) -> None:
    model = write(ADAPTED)
    network = load_model(model)
    chosen: list[tuple[list[str], dict[str, Any], Reading]] = [
        (["--size", "native"], {"size": "native"}, Reading()),
        (["--size", "80x40"], {"size": (80, 40)}, Reading((80, 40))),
        (
            ["--size", "80x40", "--inference", "sliding"],
            {"size": (80, 40), "inference": "sliding"},
            Reading((80, 40), (64, 32)),
        ),
    ]
    for options, changes, reading in chosen:
        masks = by_command(model, images, *options)
        check(masks, by_evaluate(model, images, reading))
        check(masks, dict(predict(network, images, device="cpu", **changes)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0x10"], "--size 0x10: must be WIDTHxHEIGHT, as in 1024x512, or native"),
        (["--size", "160"], "--size 160: must be WIDTHxHEIGHT, as in 1024x512, or native"),
        (["--size", "-4x8"], "--size -4x8: must be WIDTHxHEIGHT, as in 1024x512, or native"),
        (["--inference", "tiles"], "inference tiles: must be whole or sliding"),
        (["--inference", "sliding"], "inference sliding: also give the size at which images are read in windows of"),
        (
            ["--inference", "sliding", "--size", "63x32"],
            "size 63x32: smaller than the windows of 64x32; read it larger",
        ),
    ],
)
def test_bad_values_end_the_command_before_anything_is_written(
    images: Path, write: Callable[..., Path], options: list[str], message: str
) -> None:
    model = write(ADAPTED)
    arguments = ["predict", str(images), str(model.parent / "out"), "--model", str(model), *options]
    result = CliRunner().invoke(app, arguments)
    assert str(result.exception).startswith(message)
    assert "\n" not in str(result.exception)
    assert not (model.parent / "out").exists()


def test_images_smaller_than_the_windows_are_named_and_the_others_are_done(
    images: Path, write: Callable[..., Path]
) -> None:
    model = write(ADAPTED)
    out = model.parent / "out"
    options = ["--size", "native", "--inference", "sliding"]
    result = CliRunner().invoke(app, ["predict", str(images), str(out), "--model", str(model), *options])
    small = f"{images / '1.png'}: 32x16: smaller than the windows of 64x32; read it larger, or predict it as a whole"
    assert str(result.exception) == f"2 of the inputs could not be predicted in full: {small}"
    assert sorted(from_files(out / "masks")) == ["0", "2", "3", "4"]
    with pytest.raises(Exception, match="image 1, 32x16: smaller than the windows of 64x32"):
        list(predict(load_model(model), images / "1.png", size="native", inference="sliding"))


def test_a_file_of_an_earlier_version_keeps_the_images_own_size(images: Path, write: Callable[..., Path]) -> None:
    model = write(ADAPTED)
    with safe_open(model, framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name not in ("reading", "sha256")}
    earlier = model.with_name("earlier.safetensors")
    save_file(load_checkpoint(model).state, earlier, metadata)
    assert load_checkpoint(earlier).reading == load_model(earlier).reading == Reading()
    assert told(earlier, images) == "size: each image's own; the model's file states no other"
    check(by_command(earlier, images), by_evaluate(earlier, images, Reading()))
    check(by_command(earlier, images), by_registered_arrays(earlier, images))


@pytest.mark.parametrize("stated", ['{"size": [0, 4]}', '{"size": 4}', '{"scale": 2}', "no JSON"])
def test_a_file_that_states_no_size_that_can_be(write: Callable[..., Path], stated: str) -> None:
    model = write(ADAPTED)
    with safe_open(model, framework="pt") as file:
        metadata = {**{name: text for name, text in file.metadata().items() if name != "sha256"}, "reading": stated}
    save_file(load_checkpoint(model).state, model, metadata)
    with pytest.raises(Exception, match="written by another version of ATP"):
        load_checkpoint(model)


def test_an_adapted_network_knows_its_size(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = AdaptSettings(size=(64, 32), align={"epochs": 1, "batch_size": 2}, rounds=0, propagate=None)
    source = build_network(CONFIG)
    adapted = adapt(source, images, settings, device="cpu", precision="bf16")
    assert (adapted.reading, adapted.precision, source.reading) == (ADAPTED, "bf16", Reading())
    settings = AdaptSettings(size=(64, 32), window=(24, 16), align=None, rounds=0, propagate=None)
    windows = adapt(adapted, images, settings)
    assert windows.reading == Reading((64, 32), (24, 16))
    save_checkpoint(tmp_path / "model.safetensors", adapted, CONFIG, SPACE, {"precision": "bf16"})
    check(by_command(tmp_path / "model.safetensors", images), dict(predict(adapted, images, device="cpu")))


def test_a_wrapped_module_takes_the_size_that_it_is_given(images: Path) -> None:
    torch.manual_seed(1)
    made = wrap(build_network(CONFIG).given, classes=SPACE, classifier="classifier", size=(64, 32))
    assert made.reading == ADAPTED
    given = dict(predict(made, images, device="cpu"))
    check(given, dict(predict(made, images, size=(64, 32), device="cpu")))
    native = dict(predict(made, images, size="native", device="cpu"))
    assert any(not np.array_equal(mask, native[name]) for name, mask in given.items())
