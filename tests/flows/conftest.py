"""Real servers, and a tiny pipeline served to them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clone import PATH, ROOT, make_clone
from tests.flows.prefect_api import Prefect


@dataclass(frozen=True)
class Servers:
    """What `make ui` started.

    Attributes:
        environment: in which a command finds both.
        said: the command's output.
    """

    prefect: Prefect
    mlflow: str
    environment: dict[str, str]
    said: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str], cwd: Path, environment: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends by Ctrl-C when the test does, with all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that runs the tests in the background has Ctrl-C ignored, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Prefect's and MLflow's servers, by the command behind `make ui`."""
    home = tmp_path_factory.mktemp("servers")
    ports = [free_port(), free_port()]
    environment = {
        **os.environ,
        "PATH": PATH,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{ports[0]}/api",
        "OMP_NUM_THREADS": "1",
        # Not Bash, which becomes the stage that DVC starts by it: others stay between, as where there is no SHELL.
        "SHELL": "/bin/sh",
    }
    ui = [sys.executable, "-m", "flows.ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    # MLflow's server is told its database in the variable that later names the server, and Prefect's page must find its
    # own port.
    starting = {**environment, "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    del starting["PREFECT_API_URL"]
    log = home / "ui.log"
    with running(ui, home, starting, log) as process:
        prefect = Prefect(environment["PREFECT_API_URL"])

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return "Ctrl-C stops both" in log.read_text()

        prefect.until(ready, 240, "both servers")
        mlflow = f"http://127.0.0.1:{ports[1]}"
        yield Servers(
            prefect, mlflow, {**environment, "PYTHONPATH": "", "MLFLOW_TRACKING_URI": mlflow}, log.read_text()
        )


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone on tiny data where nothing has run."""
    clone = tmp_path_factory.mktemp("flow") / "clone"
    make_clone(clone)
    return clone


class Serving:
    """The clone's flow as a deployment, by the command behind `make serve`.

    Attributes:
        process: of the command.
        log: its output.
    """

    def __init__(self, clone: Path, servers: Servers) -> None:
        self.clone, self.servers, self.log = clone, servers, clone.with_suffix(".log")
        self.start()

    def start(self) -> None:
        self._running = running([sys.executable, "-m", "flows.serve"], self.clone, self.servers.environment, self.log)
        self.process = self._running.__enter__()

        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "is served from" in self.log.read_text()

        self.servers.prefect.until(ready, 120, "the deployment")

    def end(self) -> int:
        """End it by Ctrl-C; returns its exit code."""
        self._running.__exit__(None, None, None)
        return self.process.returncode


@pytest.fixture(scope="session")
def serving(clone: Path, servers: Servers) -> Iterator[Serving]:
    serving = Serving(clone, servers)
    yield serving
    serving.end()


@pytest.fixture(scope="session")
def served(serving: Serving) -> Prefect:
    return serving.servers.prefect


@pytest.fixture(scope="session")
def full_run(served: Prefect, clone: Path) -> str:
    """A run of the whole pipeline, from nothing; its id. What it made is kept for ``finished``."""
    run = served.start()
    state = served.ended(run, 900)
    assert state["name"] == "Completed", served.lines(run)
    shutil.copytree(clone, clone.with_name("finished"), symlinks=True)
    return run


@pytest.fixture(scope="session")
def finished(clone: Path, full_run: str) -> Path:
    """A copy of the clone as the full run left it."""
    return clone.with_name("finished")


@pytest.fixture(scope="session")
def project(clone: Path, full_run: str) -> Path:
    """The clone after the full run."""
    return clone


def processes(project: Path, pattern: str) -> list[int]:
    """Processes that run in this project or a run's copy of it, and whose command line matches."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            inside = (entry / "cwd").resolve().is_relative_to(project.resolve())
        except OSError:
            continue
        if inside and re.search(pattern, command):
            found.append(int(entry.name))
    return found


@contextmanager
def bad_input(project: Path) -> Iterator[None]:
    """A device that is not there, as somebody might write it into params.yaml, and a change for ``align`` to run."""
    params = project / "params.yaml"
    text = params.read_text()
    changed = text.replace("device: auto", "device: tpu9").replace("lr: 0.002", "lr: 0.003")
    assert changed != text
    params.write_text(changed)
    try:
        yield
    finally:
        params.write_text(text)
