"""What a registered model consists of: weights, the code that reads them, requirements, signature, example.

MLflow loads it wherever these requirements are installed, without this package or its project, and with
``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false``. A process that has already imported this package uses its own copy.

One version accepts arrays from Python and files from a server, so its signature must allow both. Only a tensor
``(-1,)`` of type object does: MLflow does not check it, and its server passes a list of strings as such an array. Our
code rejects everything else. Alternatives that failed:

- a tensor of uint8, (-1, -1, -1, 3): the server turns the strings into numbers before our code sees them, and fails.
- a column of strings, binary or AnyType: MLflow makes a DataFrame of every array, which four dimensions do not fit.
- ``list[Any]`` as type hint of ``predict``: MLflow rejects an array, which is not a list.
- two inputs, one of them optional: a tensor cannot be optional.
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from atp.code import PACKAGE, needed_by
from atp.errors import InputError
from atp.models.config import NetworkConfig
from atp.models.named import callables
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

logger = logging.getLogger(__name__)

SERVED = ("atp.registry.model", "atp.registry.guard")
"""The modules that a registered model runs: the model and its server's guard."""

REQUIREMENTS = ("mlflow", "numpy", "pillow", "pydantic", "safetensors", "torch", "torchvision")
"""The third-party packages that these modules import."""

TRUSTED = "ATP_TRUSTED_REGISTRIES"
"""Environment variable with the addresses of MLflow servers whose models may bring code, separated by commas."""

LIMITS = {"max_pixels": 2**24, "max_images": 64}
"""Limits of one request to a server; ``MLFLOW_PYFUNC_INFERENCE_CONFIG`` overrides them. Arrays are not limited."""


def log_registered_model(
    client: "MlflowClient", run: "Run", checkpoint: Path, name: str, tags: dict[str, str], metadata: dict[str, Any]
) -> str:
    """Upload a checkpoint as a model of this run and register it; returns the new version number.

    Args:
        checkpoint: as ``save_checkpoint`` writes it.
        name: name of the registered model, created if missing.
        tags: tags of the version, set when it is created.
        metadata: for users of the model: its adaptation size and classes.

    Raises:
        InputError: a network of the user's own whose code cannot be packaged.
    """
    from mlflow import pyfunc, register_model
    from mlflow.models import Model

    # Saved first instead of by `pyfunc.log_model`, which uses MLflow's global active run and experiment; stages do not.
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
    # A separate call, since `Model.log` tags the version only in newer MLflow releases.
    return str(register_model(logged.model_uri, name, tags=tags).version)


def save_model(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint to a new folder as a model that MLflow can serve without a registry.

    Raises:
        InputError: the code of a user's own network cannot be packaged, or is not named in params.yaml.
    """
    from mlflow import pyfunc

    from atp.models.checkpoint import load_checkpoint

    check_callables(load_checkpoint(checkpoint).config, checkpoint)
    with packaged(checkpoint) as parts:
        pyfunc.save_model(str(folder), **parts)


@contextmanager
def packaged(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """Yield MLflow's arguments for saving the model; the copied code exists while the context is open.

    Raises:
        InputError: a network of the user's own whose code cannot be packaged.
    """
    from atp.models.checkpoint import load_checkpoint  # imports torch, which a server's command does not need

    with tempfile.TemporaryDirectory() as workplace:
        code = Path(workplace)
        needed = copy_own_code(load_checkpoint(checkpoint).config, code)
        copy_code(code)
        with _no_bytecode():
            yield {
                "python_model": str(MODEL_CODE),
                "artifacts": {"model": str(checkpoint)},
                "code_paths": [str(path) for path in sorted(code.iterdir())],
                "model_config": LIMITS,
                "pip_requirements": sorted({*requirements(), *needed}),
                "signature": signature(),
                "input_example": input_example(),
            }


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow tries the model's code in the folder that it then uploads, where Python would leave compiled files."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def download_model(address: str, to: Path | None = None) -> Path:
    """The folder of a registered model; downloaded unless it is on this machine.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        to: folder for the download; temporary if not given.

    Raises:
        InputError: the model is not in the registry.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # slow, and not needed for local models
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        return Path(mlflow.artifacts.download_artifacts(address, dst_path=str(to) if to else None))
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{address}: not in the registry at {uri} ({reason}); see atp@candidate") from error


def find_model(model: str) -> Path:
    """The checkpoint that ``model`` refers to; downloaded if it is in the registry.

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
        raise InputError(f"{path}: no such model; run dvc repro, or pass a folder, a file or models:/atp@candidate")
    return path


def find_checkpoint(model: Path, address: str) -> Path:
    """The checkpoint in the folder of a registered model.

    Raises:
        InputError: the model was not made by ATP.
    """
    found = sorted(model.rglob(MODEL))
    if not found:
        raise InputError(f"{address}: contains no model.safetensors, so it was not made by ATP")
    return found[0]


def check_callables(config: NetworkConfig, path: Path) -> None:
    """Refuse callables that only the model's file names: a file from others could name anything.

    Raises:
        InputError: params.yaml is missing or does not name the callable.
    """
    if not config.callables:
        return
    own: tuple[str, ...] = ()
    why = ""
    if Path("params.yaml").is_file():
        model = load_params().model
        try:
            own = callables(model)
        except InputError as error:  # A named network's folder may be gone, or its package.
            why = f" ({error})"
    unknown = [address for address in config.callables if address not in own]
    if unknown:
        raise InputError(
            f"{path}: building its network would call {unknown[0]}, which no params.yaml here names{why}; "
            "name it there, or pass --trust (in Python trust=True) if you trust the file"
        )


def use_code_of(checkpoint: Path, config: NetworkConfig, *, trust: bool = False) -> None:
    """Put the code that came with a user's own registered network first on Python's path, and say so.

    A registry in a file is the user's own. One on a server is trusted if the variable ATP_TRUSTED_REGISTRIES names it,
    since whoever can write there would decide what runs here.

    Args:
        trust: also take the code from a registry that is not trusted.

    Raises:
        InputError: the registry is not trusted.
    """
    if not config.callables:
        return
    uri = tracking_uri()
    if not (trust or urlsplit(uri).scheme in ("", "file", "sqlite") or uri in os.environ.get(TRUSTED, "").split(",")):
        raise InputError(
            f"its network is built by code that came with it from {uri}; if you trust whoever can write there, set "
            f"{TRUSTED}={uri}, or pass --trust (in Python trust=True)"
        )
    for folder in checkpoint.parents:
        if (folder / "MLmodel").is_file():
            logger.warning("runs the code that came with the model: %s", folder / "code")
            sys.path.insert(0, str(folder / "code"))
            # The folder may be the registry's own, which nobody who uses a model should change.
            sys.dont_write_bytecode = True


def copy_code(folder: Path) -> Path:
    """Copy the parts of this package that the model needs; returns the copied package's folder."""
    copy = folder / "atp"
    for source in needed_by(*SERVED):
        target = copy / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return copy


def requirements() -> list[str]:
    """The installed versions of the packages that every model needs."""
    return [pinned(name) for name in REQUIREMENTS]


def signature() -> "ModelSignature":
    """Signature from images to label maps, as arrays or files (see above); parameters request further maps."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    anything = Schema([TensorSpec(np.dtype(object), (-1,))])
    wanted = {"confidence": (DataType.boolean, False), "soft": (DataType.long, 0), "size": (DataType.string, "")}
    params = ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in wanted.items()])
    return ModelSignature(anything, anything, params)


def input_example() -> NDArray[np.object_]:
    """Two 32x16 images with a gradient each, as sent to a server: base64 PNG, (2,).

    Synthetic, since the example is stored with the model and the data may be private.
    """
    ramp = np.linspace(0, 255, 16 * 32 * 3).reshape(16, 32, 3).astype(np.uint8)
    return np.array([encode_image(image) for image in (ramp, ramp[:, ::-1])], dtype=object)
