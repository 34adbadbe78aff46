"""The stage ``query`` as a process of its own: nothing asked twice, nothing lost, no secret told."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from atp.black_box.answers import AnswerStore
from atp.data.folder import open_image
from tests.black_box.server import BoxServer, ids_of, npy, png, query_process, shares_of
from tests.stages.launch import Ended, forkserver, set_params

SECRETS = {"ATP_QUERY_TOKEN": "tok-3n-very/s3cret==", "MY_KEY": "k3y-of-somebody"}

RunQuery = Callable[..., Ended]


@pytest.fixture(scope="session", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all, since a new one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def query(database: str) -> RunQuery:
    """``query(project, NAME="value")`` runs the stage with these environment variables."""

    def run(project: Path, **environment: str) -> Ended:
        process = start(project, database, environment)
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, (project / "output.txt").read_text())

    return run


def start(project: Path, database: str, environment: dict[str, str]) -> ForkServerProcess:
    environment = {"MLFLOW_TRACKING_URI": database, **environment}
    process = forkserver().Process(target=query_process, args=(project, environment))
    process.start()
    return process


@pytest.fixture
def boxed(project: Path) -> Path:
    """The tiny project as that of a black box; the source model's classes are the target's."""
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    distill = tree.pop("align")
    tree["distill"] = {name: distill[name] for name in ("epochs", "batch_size", "lr")}
    del tree["source"]
    tree["rounds"] = {"r01": {"model": "runs/distill"}}
    tree["split"]["model"] = "runs/teach/r01"
    tree["query"] = {"box": "endpoint", "endpoint": "http://127.0.0.1:1/", "attempts": 3, "backoff_s": 0.001}
    yaml.dump(tree, project / "params.yaml")
    return project


def pixels(project: Path, part: str, size: tuple[int, int] = (32, 24)) -> dict[str, np.ndarray]:
    return {
        path.stem: np.array(open_image(path, size)) for path in sorted((project / "data" / part / "images").iterdir())
    }


def check_stored(project: Path, part: str) -> None:
    store = AnswerStore(project / "runs/query" / part)
    images = pixels(project, part)
    assert store.names == tuple(images)
    for name, image in images.items():
        assert np.abs(store.answer(name).dense(3).numpy() - shares_of(image)).max() < 0.02


def test_all_images_are_asked_once_ever(boxed: Path, query: RunQuery) -> None:
    with BoxServer() as box:
        set_params(boxed, "query", endpoint=box.address)
        ended = query(boxed)
        assert ended.code == 0, ended.output
        for part in ("target", "test"):
            check_stored(boxed, part)
        table = AnswerStore(boxed / "runs/query/target").table
        assert (table["classes"], table["soft"]) == (["sky", "road", "car"], True)
        first = {path: path.read_bytes() for path in (boxed / "runs/query").rglob("*") if path.is_file()}
        # As DVC does before a rerun.
        for path in first:
            path.unlink()
        ended = query(boxed)
        assert ended.code == 0, ended.output
        assert {path: path.read_bytes() for path in first} == first
        assert "12 answered before, 0 now, in 0 requests" in ended.output
        assert box.requests == 12
        # Another map asks nothing anew.
        set_params(boxed, "data", class_map=[{"sky": "road"}, {"road": "sky"}, {"car": "car"}])
        ended = query(boxed)
        assert ended.code == 0, ended.output
        set_params(boxed, "query", version="2")
        query(boxed)
        assert box.requests == 24, "another version asks all anew"


class Stop:
    """Lets no request from the given one on be answered before it is over.

    Attributes:
        reached: one waits.
        over: none waits any longer.
    """

    def __init__(self, box: BoxServer, at: int) -> None:
        self.reached, self.over = threading.Event(), threading.Event()

        def before() -> None:
            if box.requests >= at and not self.over.is_set():
                self.reached.set()
                self.over.wait(60)

        box.before = before


def test_killed_again_and_again_it_asks_for_what_is_missing_alone(boxed: Path, query: RunQuery, database: str) -> None:
    """kill -9 at every sixth request; an answer that was kept is never asked for again."""
    for index in range(8, 30):
        generator = np.random.default_rng(index)
        image = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        image.save(boxed / f"data/target/images/{index:02}.png")
    images = pixels(boxed, "target")
    with BoxServer() as box:
        set_params(boxed, "query", endpoint=box.address, concurrency=2, test=False)
        kept: set[Path] = set()
        kills = doubled = 0
        for _ in range(4):
            stop = Stop(box, box.requests + 6)
            process = start(boxed, database, {})
            assert process.pid is not None
            assert stop.reached.wait(60), (boxed / "output.txt").read_text()
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            stop.over.set()
            kills += process.exitcode == -signal.SIGKILL
            assert not (boxed / "runs/query").exists(), "whole or not at all"
            now = set((boxed / ".atp/answers").rglob("*.npy.zst"))
            assert kept <= {path for path in now if not path.name.startswith(".")}
            kept = {path for path in now if not path.name.startswith(".")}
        ended = query(boxed)
        assert ended.code == 0, ended.output
        check_stored(boxed, "target")
        doubled = sum(box.good.values()) - len(images)
    assert kills == 4
    # Six began, of which two threads had one each under way.
    assert len(kept) >= 4 * 4
    assert set(box.good) == {image.tobytes() for image in images.values()}
    # Only what was on its way back when the process was killed: two threads, four kills.
    assert 0 <= doubled <= 2 * 4
    assert f"{len(kept)} answered before" in ended.output


def test_wrong_answers_are_named_and_the_others_kept(boxed: Path, query: RunQuery) -> None:
    bad = pixels(boxed, "target")["05"].tobytes()

    def answer(image: np.ndarray) -> bytes:
        return npy(shares_of(image)[:, 1:] if image.tobytes() == bad and not mended else shares_of(image))

    mended: list[bool] = []
    with BoxServer(answer) as box:
        set_params(boxed, "query", endpoint=box.address, protocol="plain", test=False)
        ended = query(boxed)
        assert ended.code == 2
        last = ended.output.splitlines()[-1]
        assert last.startswith("error: query: no valid answer for 1 of 8 images: target/05 (the answer has the shape")
        assert "Traceback" not in ended.output
        assert not (boxed / "runs/query").exists()
        assert box.requests == 7 + 3
        mended.append(True)
        ended = query(boxed)
        assert ended.code == 0, ended.output
        assert box.requests == 7 + 3 + 1
    check_stored(boxed, "target")


def test_a_damaged_answer_is_asked_for_again(boxed: Path, query: RunQuery) -> None:
    with BoxServer() as box:
        set_params(boxed, "query", endpoint=box.address, test=False)
        query(boxed)
        path = next((boxed / ".atp/answers").rglob("*.npy.zst"))
        path.write_bytes(path.read_bytes()[:-5])
        ended = query(boxed)
        assert (ended.code, box.requests) == (0, 9)
    check_stored(boxed, "target")


def test_one_picture_under_two_names_is_one_question(boxed: Path, query: RunQuery) -> None:
    images = boxed / "data/target/images"
    (images / "copy.png").write_bytes((images / "00.png").read_bytes())
    with BoxServer() as box:
        set_params(boxed, "query", endpoint=box.address, test=False)
        assert query(boxed).code == 0
    assert box.requests == 8
    check_stored(boxed, "target")


def test_secrets_are_written_nowhere(boxed: Path, query: RunQuery, database: str) -> None:
    """Neither into output, answers and cache nor into MLflow, though the server quotes them in its errors."""
    said = " ".join(SECRETS.values()).encode()
    with BoxServer() as box:
        set_params(boxed, "query", endpoint=box.address, headers={"X-Key": "MY_KEY"}, attempts=1, concurrency=1)
        box.faults = [None, (500, {}, said), (400, {}, said), (200, {}, said)]
        ended = query(boxed, **SECRETS)
        assert ended.code == 2
        assert "***" in ended.output
        assert box.headers["Authorization"] == f"Bearer {SECRETS['ATP_QUERY_TOKEN']}"
        assert box.headers["X-Key"] == SECRETS["MY_KEY"]
        assert query(boxed, **SECRETS).code == 0
    tracked = Path(database.removeprefix("sqlite:///")).parent
    assert b"query.endpoint" in (tracked / "mlflow.db").read_bytes()
    for path in [*boxed.rglob("*"), *tracked.rglob("*")]:
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret.encode() in data for secret in SECRETS.values()), path


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"token": "sk-Abc123"}, "token: must name an environment variable"),
        ({"headers": {"X-Key": "Abc123"}}, "X-Key: must name an environment variable"),
        ({"headers": {"X-Key": "NOT_SET_HERE"}}, "NOT_SET_HERE is not set"),
        ({"endpoint": "http://u:Abc123@127.0.0.1/"}, "endpoint contains a user or a password"),
        ({"endpoint": "http://127.0.0.1/?api_key=Abc123"}, "api_key, which looks like a secret"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_told(
    boxed: Path, query: RunQuery, changes: dict[str, Any], line: str
) -> None:
    set_params(boxed, "query", **changes)
    ended = query(boxed)
    assert ended.code == 2
    assert line in ended.output
    assert "Abc123" not in ended.output
    assert "Traceback" not in ended.output


def test_a_folder_with_a_class_map(boxed: Path, query: RunQuery) -> None:
    """Five classes of the source model, of which two become one and one is ignored."""
    class_map = [{"air": "sky"}, {"lane": "road"}, {"path": "road"}, {"rest": "ignore"}, {"van": "car"}]
    set_params(boxed, "data", class_map=class_map)
    set_params(boxed, "query", box="folder", folder="data/source/predictions", keep=2)
    folder = boxed / "data/source/predictions"
    for part in ("target", "test"):
        (folder / part).mkdir(parents=True)
        for name in pixels(boxed, part):
            shares = np.zeros((5, 24, 32))
            shares[:, :, :10] = np.array([0.3, 0.2, 0.2, 0.1, 0.2])[:, None, None]
            shares[3, :, 10:] = 1
            (folder / part / f"{name}.npy").write_bytes(npy(shares))
    (folder / "test/00.npy").unlink()
    (folder / "test/00.png").write_bytes(png(np.full((24, 32), 4, np.uint8)))
    set_params(boxed, "query", keep=5)
    ended = query(boxed)
    assert ended.code == 0, ended.output
    answer = AnswerStore(boxed / "runs/query/target").answer("00")
    assert answer.classes[:, 0, 0].tolist() == [1, 0, 2], "neither of the two roads was the most probable class"
    assert answer.probabilities[:, 0, 0].tolist() == pytest.approx([0.4 / 0.9, 0.3 / 0.9, 0.2 / 0.9], abs=0.01)
    assert (answer.classes[0, :, 10:] == 255).all()
    assert (AnswerStore(boxed / "runs/query/test").answer("00").classes == 2).all()


def test_a_callable_below_the_source(boxed: Path, query: RunQuery) -> None:
    (boxed / "data/source/model.py").write_text("def ids(image):\n    return image.argmax(2)\n")
    set_params(boxed, "query", box="callable", callable="data.source.model:ids")
    ended = query(boxed)
    assert ended.code == 0, ended.output
    store = AnswerStore(boxed / "runs/query/target")
    for name, image in pixels(boxed, "target").items():
        assert np.array_equal(store.answer(name).classes.numpy(), ids_of(image)[None])
    assert not store.table["soft"]


@pytest.mark.parametrize("part", ["target", "test", "validation"])
def test_a_box_cannot_see_labels(boxed: Path, query: RunQuery, part: str) -> None:
    code = f"def ids(image):\n    open('data/{part}/labels/00.png', 'rb')\n"
    (boxed / "data/source/model.py").write_text(code)
    set_params(boxed, "query", box="callable", callable="data.source.model:ids", attempts=1, test=False)
    ended = query(boxed)
    assert ended.code == 2
    assert "sealed: this stage must not read source data or target labels" in ended.output


def test_figures_are_tracked(boxed: Path, query: RunQuery, database: str, mlflow_imported: None) -> None:
    with BoxServer() as box:
        set_params(boxed, "query", endpoint=box.address)
        begin = time.monotonic()
        assert query(boxed).code == 0
        took = time.monotonic() - begin
    from mlflow import MlflowClient

    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("atp")
    assert experiment is not None
    wanted = f"tags.`atp.stage` = 'query' and params.`query.endpoint` = '{box.address}'"
    (run,) = client.search_runs([experiment.experiment_id], wanted)
    figures = run.data.metrics
    assert (figures["images"], figures["requests"], figures["without_answer"]) == (12, 12, 0)
    assert 0 < figures["seconds"] < took
    assert run.data.params["query.endpoint"] == box.address
    assert json.loads((next((boxed / ".atp/answers").iterdir()) / "box.json").read_text())["protocol"] == "mlflow"
