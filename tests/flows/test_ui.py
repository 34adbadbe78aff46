"""What keeps the servers from starting is told in one line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.ui import variables


def run(folder: Path, module: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code, and what was said as errors."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run(tmp_path, "flows.ui", "--mlflow-port", str(port), "--prefect-port", "0")
    assert code == 2
    assert said == (
        f"error: 127.0.0.1:{port}: Address already in use; choose another with python -m flows.ui --mlflow-port PORT\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_tracking_server_is_not_started_twice(tmp_path: Path) -> None:
    ports = ("--prefect-port", "0", "--mlflow-port", "0")
    code, said = run(tmp_path, "flows.ui", *ports, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 2
    assert said == "error: MLFLOW_TRACKING_URI=http://127.0.0.1:9 is already a server; unset it to start one here\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "error: http://127.0.0.1:9/api: no Prefect server answers"),
        (("--cron", "at night"), 'error: --cron "at night": not a schedule as in crontab, such as "0 3 * * *"'),
    ],
)
def test_what_keeps_a_deployment_from_being_served(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    variables = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path)}
    code, said = run(tmp_path, "flows.serve", *arguments, **variables)
    assert code == 2
    assert said.startswith(line)
    assert len(said.splitlines()) == 1


def test_the_page_asks_the_server_that_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another project, in whose terminal it may be started."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.delenv("PREFECT_UI_API_URL", raising=False)
    found = variables("http://127.0.0.1:4311")
    assert found["PREFECT_UI_API_URL"] == found["PREFECT_API_URL"] == "http://127.0.0.1:4311/api"
    # As behind a proxy.
    monkeypatch.setenv("PREFECT_UI_API_URL", "https://prefect.example.org/api")
    assert variables("http://127.0.0.1:4311")["PREFECT_UI_API_URL"] == "https://prefect.example.org/api"
