"""What keeps the servers from starting is told in one line."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import serve, ui

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command's main function in an empty folder; its exit code, and what was said as errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def main(function: Callable[[], None], *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["flows", *arguments])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as ended:
                function()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return int(ended.value.code or 0), capsys.readouterr().err

    return main


def test_a_port_in_use_is_named(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run(ui.main, "--mlflow-port", str(port), "--prefect-port", "0")
    assert code == 2
    assert said == (
        f"error: 127.0.0.1:{port}: Address already in use; choose another with python -m flows.ui --mlflow-port PORT\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_tracking_server_is_not_started_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, said = run(ui.main, "--prefect-port", "0", "--mlflow-port", "0")
    assert code == 2
    assert said == "error: MLFLOW_TRACKING_URI=http://127.0.0.1:9 is already a server; unset it to start one here\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "error: http://127.0.0.1:9/api: no Prefect server answers"),
        (("--cron", "at night"), 'error: --cron "at night": not a schedule as in crontab, such as "0 3 * * *"'),
    ],
)
def test_what_keeps_a_deployment_from_being_served(run: Run, arguments: tuple[str, ...], line: str) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        code, said = run(serve.main, *arguments)
    assert code == 2
    assert said.startswith(line)
    assert len(said.splitlines()) == 1


def test_the_page_asks_the_server_that_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another project, in whose terminal it may be started."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.delenv("PREFECT_UI_API_URL", raising=False)
    found = ui.variables("http://127.0.0.1:4311")
    assert found["PREFECT_UI_API_URL"] == found["PREFECT_API_URL"] == "http://127.0.0.1:4311/api"
    # As behind a proxy.
    monkeypatch.setenv("PREFECT_UI_API_URL", "https://prefect.example.org/api")
    assert ui.variables("http://127.0.0.1:4311")["PREFECT_UI_API_URL"] == "https://prefect.example.org/api"
