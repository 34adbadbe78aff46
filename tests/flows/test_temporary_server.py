"""Prefect's temporary server, which a flow starts where no other is named."""

import signal
import subprocess
import sys

import pytest

from atp.errors import InputError
from flows.adapt import start_server

SERVER = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); print(flush=True); input()"


def test_one_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_client(sync_client: bool) -> None:
        raise RuntimeError("Ephemeral server process exited with code -15.")

    monkeypatch.setattr("flows.adapt.get_client", get_client)
    with pytest.raises(InputError, match=r"^Prefect's temporary server does not start \(.* code -15.\); run it again$"):
        start_server()


def test_ctrl_c_does_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a terminal sends it to all; a flow whose server has ended waits for it for minutes."""
    started: list[subprocess.Popen[bytes]] = []

    def get_client(sync_client: bool) -> None:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, stderr=pipe))

    monkeypatch.setattr("flows.adapt.get_client", get_client)
    start_server()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (server,) = started
    assert server.stdout is not None
    server.stdout.readline()
    server.send_signal(signal.SIGINT)
    _, said = server.communicate(b"\n", timeout=30)
    assert (server.returncode, said) == (0, b"")
