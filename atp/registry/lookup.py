"""Which version an alias names, without importing MLflow: that takes longer than all else that a cached run does.

Read-only, and only for what can be read without doubt: any other answer is None, and then MLflow itself is asked.
"""

import json
import os
import sqlite3
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlencode

from atp.runner.tracking import sqlite_path, tracking_uri


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        run_id: of the run that it belongs to.
        tags: all of them.
    """

    name: str
    number: str
    run_id: str
    tags: dict[str, str]


def version_by_alias(name: str, alias: str) -> Version | None:
    """The version that carries the alias; None if there is none, or if it takes MLflow to tell."""
    if os.environ.get("MLFLOW_REGISTRY_URI"):
        return None
    uri = tracking_uri()
    try:
        if database := sqlite_path(uri):
            return _from_sqlite(database, name, alias)
        if uri.startswith(("http://", "https://")):
            return _from_server(uri, name, alias)
    except (sqlite3.Error, OSError, HTTPException, ValueError, KeyError):
        # No database, other tables than these, no answer, a login: MLflow knows, or tells what is wrong.
        pass
    return None


def _from_sqlite(database: Path, name: str, alias: str) -> Version | None:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        found = connection.execute(
            "SELECT version, run_id FROM model_versions JOIN registered_model_aliases USING (workspace, name, version)"
            " WHERE name = ? AND alias = ? AND current_stage != 'Deleted_Internal'",
            (name, alias),
        ).fetchall()
        if len(found) != 1:
            return None
        number, run_id = found[0]
        tags = connection.execute(
            "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", (name, number)
        ).fetchall()
    return Version(name, str(number), run_id or "", dict(tags))


def _from_server(uri: str, name: str, alias: str) -> Version | None:
    query = urlencode({"name": name, "alias": alias})
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}"
    with urllib.request.urlopen(address, timeout=3) as answer:
        found = json.load(answer)["model_version"]
    tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    return Version(name, str(found["version"]), found.get("run_id", ""), tags)
