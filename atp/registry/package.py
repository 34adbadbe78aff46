"""What a registered model consists of: weights, the code that reads them, requirements, signature, example.

MLflow loads it anywhere these requirements are installed, without this package or its project, and without unpickling:
``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false`` holds. In a process that has this package already, that one is used.

Images go in as arrays. A signature of MLflow's describes one kind of input only: with this one its server takes nested
lists of numbers and refuses strings before our code sees them. A server for PNG files therefore needs the same files
under a second signature (a column of binary), and a ``predict`` that decodes; both belong into this folder.
"""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import atp
from atp.registry.origin import MODEL_CODE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

CODE = ("__init__.py", "errors.py", "files.py", "data/__init__.py", "data/labels.py", "models")
"""What ``model.py`` needs of this package, directly and indirectly."""

REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch", "torchvision")
"""What the above imports besides."""


def log_registered_model(
    client: "MlflowClient", run: "Run", checkpoint: Path, name: str, tags: dict[str, str], metadata: dict[str, Any]
) -> str:
    """Upload a checkpoint as a model of this run, and register it; returns the number of the new version.

    Args:
        checkpoint: as ``save_checkpoint`` writes it.
        name: of the registered model, made if there is none yet.
        tags: of the version, set in the moment in which it is made.
        metadata: for users of the model: the size it was adapted at, its classes.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    # Made beforehand, and not through `pyfunc.log_model`: that knows MLflow's active run and experiment only, globals
    # which the stages leave alone.
    logged = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id, params=run.data.params)
    with tempfile.TemporaryDirectory() as workplace:
        info = Model.log(
            artifact_path=None,
            flavor=pyfunc,
            run_id=run.info.run_id,
            model_id=logged.model_id,
            registered_model_name=name,
            tags=tags,
            metadata=metadata,
            python_model=str(MODEL_CODE),
            artifacts={"model": str(checkpoint)},
            code_paths=[str(copy_code(Path(workplace)))],
            pip_requirements=requirements(),
            signature=signature(),
            input_example=input_example(),
        )
    return str(info.registered_model_version)


def copy_code(folder: Path) -> Path:
    """Copy what the model needs of this package; returns the copy of the package."""
    package, copy = Path(atp.__file__).parent, folder / "atp"
    for name in CODE:
        source, target = package / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return copy


def requirements() -> list[str]:
    """The installed versions; without the local part (``+cpu``), which package indexes do not have."""
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def signature() -> "ModelSignature":
    """RGB images, uint8, (N, H, W, 3), to class ids, uint8, (N, H, W); any N, H and W."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    labels = TensorSpec(np.dtype(np.uint8), (-1, -1, -1))
    return ModelSignature(Schema([images]), Schema([labels]))


def input_example() -> NDArray[np.uint8]:
    """Two images of 32x16 with a gradient each, (2, 16, 32, 3).

    Drawn, not taken from the data: an example is stored with the model, and the images may be private.
    """
    ramp = np.linspace(0, 255, 16 * 32 * 3).reshape(16, 32, 3).astype(np.uint8)
    return np.stack([ramp, ramp[:, ::-1]])
