"""``mlflow models serve`` on the registered model, behind the guard that the model brings along."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from atp import load_model, predict
from atp.black_box.boxes import Question
from atp.black_box.endpoint import open_endpoint
from atp.black_box.settings import QuerySettings
from atp.cli import app
from atp.data.folder import Sample
from atp.errors import InputError
from atp.models.segmentation import SegmentationNetwork
from atp.training.prediction import predictor_of

ROOT = Path(__file__).parents[2]
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def port(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server of MLflow's own command, started once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    arguments = ["--env-manager", "local", "-m", "models:/atp@champion", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        # MLflow starts uvicorn by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{registered}/mlflow.db",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps({"max_pixels": 100_000, "max_images": 3}),
        "UVICORN_HTTP": "atp.registry.guard:GuardedProtocol",
        "ATP_MAX_BODY_MB": "1",
        "OMP_NUM_THREADS": "1",
    }
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "mlflow", "models", "serve", *arguments]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while not alive(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def alive(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> str:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def post(port: int, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def ask(port: int, *images: object, **params: object) -> tuple[int, Any]:
    return post(port, json.dumps({"inputs": images, "params": params}))


def said(network: SegmentationNetwork) -> torch.Tensor:
    """Probabilities of the image, read at the size at which the model was adapted."""
    return predictor_of(network, torch.device("cpu"), None).image(Image.fromarray(IMAGE), (24, 16))


def test_an_image_in_and_its_mask_out(port: int, registered: Path) -> None:
    status, answer = ask(port, encoded(IMAGE), confidence=True)
    assert status == 200, answer
    ((mask, confidence),) = [(decoded(maps["mask"]), decoded(maps["confidence"])) for maps in answer["predictions"]]
    assert (mask.mode, confidence.mode) == ("P", "L")
    assert mask.getpalette()[:9] == [0, 0, 200, 90, 90, 90, 200, 0, 0]  # type: ignore[index]
    network = load_model(registered / "second/runs/propagate")
    ((_, expected),) = predict(network, [IMAGE])
    assert np.array_equal(np.array(mask), expected)
    probabilities = said(network)
    assert np.abs(np.array(confidence) - 255 * probabilities.amax(0).numpy()).max() < 1


@pytest.mark.parametrize(("size", "same"), [("", "24x16"), ("24x16", "24x16"), ("native", "40x24"), ("32x32", "32x32")])
def test_the_size_at_which_it_reads_images_can_be_asked_for(port: int, registered: Path, size: str, same: str) -> None:
    status, answer = ask(port, encoded(IMAGE), size=size)
    assert status == 200, answer
    width, height = map(int, same.split("x"))
    ((_, expected),) = predict(load_model(registered / "second/runs/propagate"), [IMAGE], size=(width, height))
    assert np.array_equal(np.array(decoded(answer["predictions"][0]["mask"])), expected)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ("large", "size large: must be WIDTHxHEIGHT, as in 1024x512, or native"),
        ("999x999", "size 999x999: more than the 100000 pixels that this server accepts"),
    ],
)
def test_a_size_that_cannot_be(port: int, size: str, sentence: str) -> None:
    assert ask(port, encoded(IMAGE), size=size) == (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": sentence})


def test_a_served_model_is_a_soft_black_box(port: int, registered: Path, tmp_path: Path) -> None:
    """What the stage ``query`` gets from it is what the network says."""
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    address = f"http://127.0.0.1:{port}/invocations"
    section = QuerySettings.model_validate({"box": "endpoint", "endpoint": address, "keep": 2})
    answer = open_endpoint(section, 3).ask(Question("target", Sample("a", tmp_path / "a.png", None), None))
    expected = said(load_model(registered / "second/runs/propagate"))
    assert answer.classes.shape == (2, 24, 40)
    assert (answer.probabilities - expected.topk(2, 0).values).abs().max() < 0.01, "of 255ths"
    assert (answer.dense(3) - expected).abs().max() < 0.01
    assert len(answer.classes.unique()) > 1


def test_several_images_of_several_kinds(port: int) -> None:
    grey = Image.fromarray(IMAGE).convert("L")
    status, answer = ask(port, encoded(IMAGE, "JPEG"), encoded(grey), encoded(Image.fromarray(IMAGE[:9]).convert("P")))
    assert status == 200, answer
    assert [decoded(maps["mask"]).size for maps in answer["predictions"]] == [(40, 24), (40, 24), (40, 9)]
    assert all(list(maps) == ["mask"] for maps in answer["predictions"])


def half(text: str) -> str:
    content = base64.b64decode(text)
    return base64.b64encode(content[: len(content) // 2]).decode()


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (lambda: [half(encoded(IMAGE))], "image 0: the image cannot be decoded"),
        (lambda: [encoded(IMAGE), base64.b64encode(b"words").decode()], "image 1: the string is base64, but not of"),
        (lambda: ["words, no base64"], "image 0: the string is not base64"),
        (lambda: [7], "image 0: an image must be a string"),
        (lambda: [encoded(Image.new("I;16", (4, 4)))], "image 0: the image's mode is I;16"),
        (lambda: [encoded(Image.new("1", (9000, 9000)))], "image 0: the image has 9000x9000 pixels"),
        (lambda: [encoded(Image.new("L", (300, 300)))] * 2, "image 1: the image has 300x300 pixels, and with the oth"),
        (lambda: [encoded(IMAGE)] * 4, "4 images in a request; this server accepts 3"),
        (lambda: IMAGE[None, :2, :2].tolist(), "the input must be uint8 images (N, H, W, 3), or a list of PNG or"),
        (lambda: IMAGE[None].tolist(), "the body must be JSON"),
        (lambda: [], "the body must be JSON"),
    ],
)
def test_wrong_input_is_400_and_one_sentence(port: int, images: Callable[[], list[object]], sentence: str) -> None:
    status, answer = ask(port, *images())
    assert status == 400
    assert answer["message"].startswith(sentence)
    assert "\n" not in answer["message"]
    assert len(answer["message"]) < 300


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"no JSON", "application/json", 400),
        (b"\x89PNG\xff\xfe", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"inputs": {"a": "b"}}', "application/json", 400),
        (b'{"inputs": ["x"], "params": {"confidence": "perhaps"}}', "application/json", 400),
        (b'{"messages": ["x"]}', "application/json", 400),
        (b"image\nx\n", "text/csv", 415),
        (b"a" * (2**20 + 1), "application/json", 413),
        (iter([b"a" * 2**19] * 3), "application/json", 413),
    ],
)
def test_other_bodies_are_refused(port: int, body: Any, kind: str, expected: int) -> None:
    status, answer = post(port, body, kind)
    assert status == expected
    assert "\n" not in answer["message"]
    assert len(answer["message"]) < 400


def test_many_at_once_are_all_answered(port: int) -> None:
    text = encoded(IMAGE)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(port, text), range(40)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["predictions"][0]["mask"] for _, answer in answers}) == 1


def test_the_client_of_the_docs(port: int, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    (tmp_path / "text.png").write_text("words")
    command = [sys.executable, str(ROOT / "docs/serve_client.py"), "--url", f"http://127.0.0.1:{port}"]
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, "image.png", "mask.png", "--confidence", "sure.png"], **run)
    assert done.returncode == 0, done.stderr
    for name, mode in (("mask.png", "P"), ("sure.png", "L")):
        with Image.open(tmp_path / name) as file:
            assert (file.mode, file.size) == (mode, (40, 24))
    refused = subprocess.run([*command, "text.png", "mask.png"], **run)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: 400: image 0: the string is base64, but not of a PNG or JPEG file")


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_atp_serve_starts_mlflows_application_guarded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, object] = {}
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.update(options, app=app))
    before = dict(os.environ)
    try:
        result = CliRunner().invoke(app, ["serve", "models:/atp@champion", "--port", "5999", "--max-body-mb", "7"])
        assert result.exit_code == 0, result.output
        assert "size: 24x16; a request can name another\n" in result.output
        assert os.environ["ATP_MAX_BODY_MB"] == "7"
        assert "__pyfunc_model_path__" in os.environ
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert started == {
        "app": "mlflow.pyfunc.scoring_server.app:app",
        "host": "127.0.0.1",
        "port": 5999,
        "workers": 1,
        "http": "atp.registry.guard:GuardedProtocol",
    }


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_a_stages_folder_is_served_without_a_registry(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server would load is there while it runs, answers as the network does, and is gone afterwards."""
    served: list[Path] = []

    def run(application: str, **options: object) -> None:
        served.append(Path(os.environ["__pyfunc_model_path__"]))  # noqa: SIM112 - MLflow's name
        (mask,) = mlflow.pyfunc.load_model(str(served[0])).predict(IMAGE[None])
        ((_, expected),) = predict(load_model("runs/source"), [IMAGE])
        assert np.array_equal(mask, expected)

    monkeypatch.setattr("uvicorn.run", run)
    before = dict(os.environ)
    try:
        result = CliRunner().invoke(app, ["serve", "runs/source"])
        assert result.exit_code == 0, result.exception
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert served
    assert not served[0].exists()


@pytest.mark.parametrize("address", ["models:/atp@nobody", "models:/other/1", "nowhere"])
def test_no_such_model_is_one_line(copy: Path, address: str) -> None:
    result = CliRunner().invoke(app, ["serve", address])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(address)
    assert "\n" not in str(result.exception)
