"""Runtime of a stage: device, precision, memory format, and rank among the launcher's processes."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, distributed, nn

from atp.errors import InputError

if TYPE_CHECKING:
    # A registered model, which imports this module, does without YAML.
    from atp.training.settings import RuntimeSettings, TrainingSettings

LONGEST_WAIT = timedelta(days=1)
"""Timeout for work that the main process does alone; all other exchanges keep PyTorch's default of minutes."""

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """The machine and process in which a stage runs.

    Attributes:
        device: device of this process.
        dtype: dtype of autocast; None computes everything in float32.
        memory_format: memory format of images and weights.
        rank, world_size: as set by ``torchrun``; 0 and 1 without it.
        workers, prepared_mb, save_every_s: see ``RuntimeSettings``.
        waiting: process group in which processes wait for the main one; None with a single process.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    memory_format: torch.memory_format = torch.channels_last
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    prepared_mb: int = 8192
    save_every_s: float = 30.0
    waiting: distributed.ProcessGroup | None = None

    @property
    def precision(self) -> str:
        """Precision by its name in params.yaml, with ``auto`` resolved."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    @property
    def is_main(self) -> bool:
        """Whether this process writes shared results."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def place(self, network: nn.Module) -> None:
        """Move a network to the device, in this memory format."""
        network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def barrier(self) -> None:
        if self.world_size > 1:
            distributed.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(value)
        return value

    def share_buffers(self, network: nn.Module) -> None:
        """Broadcast the main process's buffers, since BatchNorm statistics differ between processes after training."""
        if self.world_size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def from_main(self, value: bool) -> bool:
        """Broadcast a value from the main process; the others wait for it, for hours if necessary."""
        if self.waiting is None:
            return value
        found = torch.tensor(int(value))
        distributed.broadcast(found, 0, group=self.waiting)
        return bool(found)


@contextmanager
def open_runtime(training: "TrainingSettings", section: "RuntimeSettings") -> Iterator[Runtime]:
    """Set up threads, determinism, the device and, under ``torchrun``, the process group.

    Raises:
        InputError: if the requested device is not available.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = find_device(section.device, int(os.environ.get("LOCAL_RANK", 0)))
    if section.threads:
        torch.set_num_threads(section.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    waiting: distributed.ProcessGroup | None = None
    if world_size > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # new_group returns a number to processes outside the group; here, all are inside.
        waiting = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=LONGEST_WAIT))
    try:
        yield Runtime(
            device=device,
            dtype=_DTYPES[resolved(training.precision, device)],
            memory_format=torch.channels_last if training.channels_last else torch.contiguous_format,
            rank=rank,
            world_size=world_size,
            workers=section.workers,
            prepared_mb=section.prepared_mb,
            save_every_s=section.save_every_s,
            waiting=waiting,
        )
    finally:
        if world_size > 1:
            distributed.destroy_process_group()


def runtime_of(precision: str, device: torch.device) -> Runtime:
    """Runtime for a finished model: in its own precision if the device computes in it natively, else in float32.

    Args:
        precision: a name in params.yaml other than ``auto``.
    """
    native = {"bf16": computes_bf16(device), "fp16": device.type == "cuda"}.get(precision, False)
    return Runtime(device, _DTYPES[precision] if native else None)


def resolved(precision: str, device: torch.device) -> str:
    """Resolve ``training.precision: auto`` for a device."""
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether a device supports bfloat16 natively, not by slow emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities()
    # oneDNN accepts bfloat16 on every CPU with AVX-512, but most emulate it. The second name is for ARM.
    return bool(known.get("avx512_bf16") or known.get("bf16"))


def find_device(name: str, local_rank: int = 0, setting: str = "params.yaml: runtime.device") -> torch.device:
    """Return the device that ``runtime.device`` names.

    Args:
        local_rank: this process's rank on its machine, used as the index of its CUDA device.
        setting: where it is set, for the error message.

    Raises:
        InputError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{setting}: no such device {name!r}; use auto, cpu, cuda or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"{setting}: is cuda, but PyTorch sees no CUDA device; use auto or cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
    return device
