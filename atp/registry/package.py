"""What a registered model consists of: weights, the code that reads them, requirements, signature, example.

MLflow loads it anywhere these requirements are installed, without this package or its project, and without unpickling:
``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false`` holds. In a process that has this package already, that one is used.

One version takes arrays from Python and files from a server, so its signature must let both through. ``(-1,)`` of type
object is the one that does: of a tensor so declared MLflow checks nothing, and its server hands on a list of strings as
such an array. Our code refuses all but the two. Tried, and why not:

- a tensor of uint8, (-1, -1, -1, 3): the server turns the strings into numbers before our code sees them, and fails.
- a column of strings, binary or AnyType: MLflow makes a DataFrame of every array, which four dimensions do not fit.
- ``list[Any]`` as type hint of ``predict``: MLflow refuses an array, which is no list.
- two inputs, of which one is optional: a tensor cannot be.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atp.code import PACKAGE, needed_by
from atp.errors import InputError
from atp.models.config import NetworkConfig
from atp.params import load_params
from atp.registry.images import encode_image
from atp.registry.origin import MODEL_CODE
from atp.registry.own_code import copy_own_code, pinned
from atp.runner.tracking import tracking_uri
from atp.runs import MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

SERVED = ("atp.registry.model", "atp.registry.guard")
"""What a registered model runs: itself, and the guard of its server."""

REQUIREMENTS = ("mlflow", "numpy", "pillow", "pydantic", "safetensors", "torch", "torchvision")
"""What these import besides."""

LIMITS = {"max_pixels": 2**24, "max_images": 64}
"""What one request to a server may hold; ``MLFLOW_PYFUNC_INFERENCE_CONFIG`` changes it. Arrays are not limited."""


def log_registered_model(
    client: "MlflowClient", run: "Run", checkpoint: Path, name: str, tags: dict[str, str], metadata: dict[str, Any]
) -> str:
    """Upload a checkpoint as a model of this run, and register it; returns the number of the new version.

    Args:
        checkpoint: as ``save_checkpoint`` writes it.
        name: of the registered model, made if there is none yet.
        tags: of the version, set in the moment in which it is made.
        metadata: for users of the model: the size it was adapted at, its classes.

    Raises:
        InputError: a network of the user's own whose code cannot come along.
    """
    from mlflow import pyfunc, register_model
    from mlflow.models import Model

    # Made beforehand, and not through `pyfunc.log_model`: that knows MLflow's active run and experiment only, globals
    # which the stages leave alone.
    logged = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id, params=run.data.params)
    with packaged(checkpoint) as parts:
        Model.log(
            artifact_path=None,
            flavor=pyfunc,
            run_id=run.info.run_id,
            model_id=logged.model_id,
            metadata=metadata,
            **parts,
        )
    # Apart, since `Model.log` gives its tags to the version only in newer MLflows.
    return str(register_model(logged.model_uri, name, tags=tags).version)


def save_model(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint as a model that MLflow can serve, without a registry, into a new folder.

    Raises:
        InputError: a network of the user's own whose code cannot come along, or that nobody here has named.
    """
    from mlflow import pyfunc

    from atp.models.checkpoint import load_checkpoint

    check_callables(load_checkpoint(checkpoint).config, checkpoint)
    with packaged(checkpoint) as parts:
        pyfunc.save_model(str(folder), **parts)


@contextmanager
def packaged(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """What MLflow is to put together, as its arguments; the copies of the code are there as long as this is open.

    Raises:
        InputError: a network of the user's own whose code cannot come along.
    """
    from atp.models.checkpoint import load_checkpoint  # torch, which a server's command need not wait for

    with tempfile.TemporaryDirectory() as workplace:
        code = Path(workplace)
        needed = copy_own_code(load_checkpoint(checkpoint).config, code)
        copy_code(code)
        yield {
            "python_model": str(MODEL_CODE),
            "artifacts": {"model": str(checkpoint)},
            "code_paths": [str(path) for path in sorted(code.iterdir())],
            "model_config": LIMITS,
            "pip_requirements": sorted({*requirements(), *needed}),
            "signature": signature(),
            "input_example": input_example(),
        }


def download_model(address: str, to: Path | None = None) -> Path:
    """The folder of a registered model; downloaded unless it lies on this machine.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        to: folder for the download, a temporary one if not given.

    Raises:
        InputError: not in the registry.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # seconds that local models need not wait for
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        return Path(mlflow.artifacts.download_artifacts(address, dst_path=str(to) if to else None))
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{address}: not in the registry at {uri} ({reason}); see atp@candidate") from error


def find_model(model: str) -> Path:
    """The checkpoint that ``model`` means; one in the registry is downloaded.

    Args:
        model: a stage's folder, a file of ``save_checkpoint``, or an address in MLflow's registry.

    Raises:
        InputError: there is none.
    """
    if ":/" in model:
        return find_checkpoint(download_model(model), model)
    return local_checkpoint(model)


def local_checkpoint(model: str) -> Path:
    """The checkpoint that a folder or a file is.

    Raises:
        InputError: there is none.
    """
    path = Path(model)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such model; run dvc repro, or give a folder, a file or models:/atp@candidate")
    return path


def find_checkpoint(model: Path, address: str) -> Path:
    """The checkpoint in the folder of a registered model.

    Raises:
        InputError: ATP did not make it.
    """
    found = sorted(model.rglob(MODEL))
    if not found:
        raise InputError(f"{address}: holds no model.safetensors, so ATP did not make it")
    return found[0]


def check_callables(config: NetworkConfig, path: Path) -> None:
    """Refuse to call what nothing but a model's file names: one of somebody else's could name anything.

    Raises:
        InputError: params.yaml, if there is one here, names something else.
    """
    if not config.callables:
        return
    own = load_params().model.callables if Path("params.yaml").is_file() else ()
    unknown = [address for address in config.callables if address not in own]
    if unknown:
        raise InputError(
            f"{path}: to make its network {unknown[0]} would be called, which no params.yaml here names; "
            "name it there, or if you trust the file give --trust, in Python trust=True"
        )


def use_code_of(checkpoint: Path) -> None:
    """Let Python find, before all else, the code of the user's own network that came with a registered model."""
    for folder in checkpoint.parents:
        if (folder / "MLmodel").is_file():
            sys.path.insert(0, str(folder / "code"))


def copy_code(folder: Path) -> Path:
    """Copy what the model needs of this package; returns the copy of the package."""
    copy = folder / "atp"
    for source in needed_by(*SERVED):
        target = copy / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return copy


def requirements() -> list[str]:
    """The installed versions of what every model needs."""
    return [pinned(name) for name in REQUIREMENTS]


def signature() -> "ModelSignature":
    """Images as arrays or as files to label maps of that kind, see above; the parameters ask for more of them."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    anything = Schema([TensorSpec(np.dtype(object), (-1,))])
    wanted = [ParamSpec("confidence", DataType.boolean, False), ParamSpec("soft", DataType.long, 0)]
    return ModelSignature(anything, anything, ParamSchema(wanted))


def input_example() -> NDArray[np.object_]:
    """Two images of 32x16 with a gradient each, as a server gets them: base64 of PNG, (2,).

    Drawn, not taken from the data: an example is stored with the model, and the images may be private.
    """
    ramp = np.linspace(0, 255, 16 * 32 * 3).reshape(16, 32, 3).astype(np.uint8)
    return np.array([encode_image(image) for image in (ramp, ramp[:, ::-1])], dtype=object)
