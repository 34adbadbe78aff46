"""The quick look into the registry says what MLflow would say, or nothing."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from atp.registry.lookup import version_by_alias


@pytest.fixture
def database(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = registered / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return path


def test_it_agrees_with_mlflow(database: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    expected = client.get_model_version_by_alias("atp", "candidate")
    found = version_by_alias("atp", "candidate")
    assert found is not None
    assert (found.name, found.number, found.run_id) == ("atp", str(expected.version), expected.run_id)
    assert found.tags == expected.tags


@pytest.mark.parametrize(("name", "alias"), [("atp", "nobody"), ("other", "candidate"), ("x' OR '1'='1", "candidate")])
def test_no_such_version(database: Path, name: str, alias: str) -> None:
    assert version_by_alias(name, alias) is None


@pytest.mark.parametrize("content", [None, b"", b"no database at all"])
def test_without_a_database_it_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if content is not None:
        Path("mlflow.db").write_bytes(content)
    assert version_by_alias("atp", "candidate") is None
    assert Path("mlflow.db").exists() == (content is not None), "looking makes no database"


def test_other_tables_than_todays_are_left_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("CREATE TABLE model_versions (name TEXT, number INTEGER)")
    connection.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert version_by_alias("atp", "candidate") is None


def test_another_registry_is_left_to_mlflow(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////somewhere/else.db")
    assert version_by_alias("atp", "candidate") is None


VERSION = {"name": "atp", "version": "7", "run_id": "abc", "tags": [{"key": "atp.fingerprint", "value": "f"}]}


class Server(BaseHTTPRequestHandler):
    """Answers as MLflow's server does to a client that looks up an alias."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        known = parse_qs(address.query) == {"name": ["atp"], "alias": ["candidate"]}
        found = known and address.path == "/api/2.0/mlflow/registered-models/alias"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"model_version": VERSION} if found else {"error_code": "x"}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}/")
        yield
        server.shutdown()
        thread.join()


def test_a_server_is_asked(server: None) -> None:
    found = version_by_alias("atp", "candidate")
    assert found is not None
    assert (found.number, found.run_id, found.tags) == ("7", "abc", {"atp.fingerprint": "f"})
    assert version_by_alias("atp", "champion") is None


def test_no_server_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert version_by_alias("atp", "candidate") is None
