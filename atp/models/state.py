"""State dicts from files of any origin, without ever running code out of them."""

import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from atp.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training code commonly puts the state dict beside its epoch and optimiser."""


PREFIXES = ("module.", "_orig_mod.")
"""What wrapping a network puts before all of its names."""


def load_user_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors or PyTorch file, on the CPU.

    Unwraps ``{"state_dict": ...}`` and its like, and takes off the ``module.`` of DataParallel and the
    ``_orig_mod.`` of ``torch.compile``.

    Raises:
        InputError: no such file, not a whole file of these kinds, a file that only unpickling could read (which
            would run whatever code its author put there), or one without a state dict.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: cannot be read: {reason}; check the path") from error
    # A safetensors file is a length of 8 bytes, then JSON. The name does not matter.
    state = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path, start)
    # Twice: either may lie in the other.
    for key in WRAPPERS * 2:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path}: holds no state dict (a mapping of names to tensors, or one under {' or '.join(WRAPPERS)}); "
            "save it with torch.save(model.state_dict(), ...)"
        )
    # Twice: either may wrap the other.
    for prefix in PREFIXES * 2:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value.detach() for key, value in state.items()}


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); copy it again") from error


def _read_torch(path: Path, start: bytes) -> object:
    corrupt = f"{path}: not a whole PyTorch or safetensors file; copy it again"
    # A zip archive, or a pickle as PyTorch wrote it before 1.6; anything else would fail inside the unpickler.
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(corrupt)
    try:
        with warnings.catch_warnings():
            # It warns about TorchScript archives before it refuses them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if not (isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)):
            raise InputError(corrupt) from error
        raise InputError(
            f"{path}: holds Python objects that only unpickling, which runs code, could read; "
            "re-save its weights alone where you trust it: torch.save(model.state_dict(), ...)"
        ) from error


def copy_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object) -> None:
    """Copy a state dict into a network's own, in place; all of it fits, or nothing changes.

    Args:
        own: the network's ``state_dict()``.
        state: names to tensors.
        source: where it came from, for the message.

    Raises:
        InputError: missing or unexpected names, all told, or other shapes.
    """
    # Files of old PyTorch versions have no step counters, and nothing here reads them.
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
            f"{source}: does not fit the network: other shapes in {tell(wrong, needed)} ({shown}); "
            "check the section model"
        )
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def tell(keys: Collection[str], among: Collection[str]) -> str:
    """All of ``keys`` in one short line: a prefix whose every key in ``among`` is meant stands for them."""
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
