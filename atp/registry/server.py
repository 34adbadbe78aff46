"""``atp serve``: MLflow's model server behind our guard, in one process."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atp.errors import InputError
from atp.registry.guard import BODY_VARIABLE, GuardedProtocol
from atp.registry.package import download_model, find_checkpoint, local_checkpoint, save_model


def serve(model: str, host: str, port: int, workers: int, max_body_mb: int, tell: Callable[[str], None]) -> None:
    """Serve a model as ``mlflow models serve`` does, behind the guard, until the process is ended.

    Args:
        model: an address in MLflow's registry, a folder with an MLflow model, or a stage's folder or checkpoint.
        tell: is called with a line that says at which size the model reads images.

    Raises:
        InputError: there is no such model.
    """
    os.environ[BODY_VARIABLE] = str(max_body_mb)
    # Idle threads would otherwise spin and take the cores from those that compute.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with _folder(model) as folder:
        # Slow import; the server needs it as well.
        from atp.models.checkpoint import load_checkpoint

        tell(f"size: {load_checkpoint(find_checkpoint(folder, model)).reading}; a request can name another")
        _serve(folder, host, port, workers)


@contextmanager
def _folder(model: str) -> Iterator[Path]:
    """Folder of an MLflow model; for a checkpoint, a temporary one that is deleted when the server ends."""
    if ":/" in model or (Path(model) / "MLmodel").is_file():
        folder = download_model(model) if ":/" in model else Path(model).resolve()
        if not (folder / "MLmodel").is_file():
            raise InputError(f"{model}: not an MLflow model; pass models:/NAME@ALIAS or models:/NAME/VERSION")
        yield folder
        return
    checkpoint = local_checkpoint(model)
    with tempfile.TemporaryDirectory(prefix="atp-serve-") as workplace:
        save_model(checkpoint, Path(workplace) / "model")
        yield Path(workplace) / "model"


def _serve(folder: Path, host: str, port: int, workers: int) -> None:
    import uvicorn
    from mlflow.pyfunc import scoring_server

    # The application reads from it which model to load.
    _, environment = scoring_server.get_cmd(str(folder))
    os.environ.update(environment)
    guard = f"{GuardedProtocol.__module__}:{GuardedProtocol.__qualname__}"
    uvicorn.run("mlflow.pyfunc.scoring_server.app:app", host=host, port=port, workers=workers, http=guard)
