"""Read state dicts from untrusted files without executing code in them."""

import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from atp.errors import InputError
from atp.models.hugging_face import WEIGHTS, is_model, load_weights

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training code commonly stores the state dict, beside epoch and optimiser."""


PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that wrappers add to all names of a network."""


def load_user_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a safetensors or PyTorch file, on the CPU.

    Unwraps ``{"state_dict": ...}`` and similar, and removes the prefixes ``module.`` of DataParallel and
    ``_orig_mod.`` of ``torch.compile``. A folder of transformers, or its model.safetensors, is read as its class does.

    Raises:
        InputError: if the file does not exist, is incomplete or of another format, requires unpickling (which could
            execute arbitrary code), or has no state dict.
    """
    # Its file alone may have names of another version of transformers.
    model = path.parent if path.name == WEIGHTS else path
    if is_model(model):
        return load_weights(model)
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: cannot be read: {reason}; check the path") from error
    # A safetensors file starts with an 8-byte length, followed by JSON. The suffix is ignored.
    state = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path, start)
    # Twice, since wrappers may be nested in either order.
    for key in WRAPPERS * 2:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path}: contains no state dict (a mapping of names to tensors, or one under {' or '.join(WRAPPERS)}); "
            "save it with torch.save(model.state_dict(), ...)"
        )
    # Twice, since prefixes may be nested in either order.
    for prefix in PREFIXES * 2:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value.detach() for key, value in state.items()}


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}); copy it again") from error


def _read_torch(path: Path, start: bytes) -> object:
    corrupt = f"{path}: not a complete PyTorch or safetensors file; copy it again"
    # A zip archive, or a pickle from PyTorch before 1.6; anything else would fail inside the unpickler.
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(corrupt)
    try:
        with warnings.catch_warnings():
            # PyTorch warns about TorchScript archives before rejecting them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # There are many errors for a damaged file; the remedy is the same.
        if not (isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)):
            raise InputError(corrupt) from error
        raise InputError(
            f"{path}: contains Python objects, and unpickling them can execute code; if you trust the file, load it "
            "yourself and save only its weights: torch.save(model.state_dict(), ...)"
        ) from error


def copy_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object) -> None:
    """Copy a state dict into a network's own in place; nothing changes unless all of it fits.

    Args:
        own: the network's ``state_dict()``.
        state: the state dict to copy.
        source: its origin, for error messages.

    Raises:
        InputError: if names are missing or unexpected (all are listed), or shapes differ.
    """
    # Files from old PyTorch versions lack step counters, which are not used here.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in state]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        parts = [f"missing {tell(missing, needed)}"] if missing else []
        parts += [f"unexpected {tell(unexpected, state)}"] if unexpected else []
        raise InputError(f"{source}: does not fit the network: {'; '.join(parts)}; check the section model")
    wrong = [key for key in state if state[key].shape != own[key].shape]
    if wrong:
        shown = f"{wrong[0]} is {_shape(state[wrong[0]])}, not {_shape(own[wrong[0]])}"
        raise InputError(
            f"{source}: does not fit the network: shapes differ in {tell(wrong, needed)} ({shown}); "
            "check the section model"
        )
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def tell(keys: Collection[str], among: Collection[str]) -> str:
    """List ``keys`` in one short line, replacing all keys in ``among`` with a common prefix by that prefix."""
    chosen = set(keys)
    told: dict[str, int] = {}
    for key in keys:
        parts = key.split(".")
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            inside = [other for other in among if other == prefix or other.startswith(f"{prefix}.")]
            if chosen.issuperset(inside):
                told[prefix] = len(inside)
                break
    return ", ".join(name if name in chosen else f"{name}.* ({count})" for name, count in told.items())
