"""Where a stage computes: device, precision, memory format, and its place among the launcher's processes."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, distributed, nn

from atp.errors import InputError
from atp.training.settings import RuntimeSettings, TrainingSettings

LONGEST_WAIT = timedelta(days=1)
"""For what the main process does alone; of the other exchanges none takes more than PyTorch's own limit of minutes."""

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """What every stage needs to know about the machine.

    Attributes:
        device: of this process.
        dtype: of autocast; None computes in float32 throughout.
        memory_format: of images and weights.
        rank, world_size: this process among those of ``torchrun``; 0 and 1 without it.
        workers, cache_mb, save_every_s: see ``RuntimeSettings``.
        waiting: by which the other processes wait for the main one; None without others.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    memory_format: torch.memory_format = torch.channels_last
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    cache_mb: int = 2048
    save_every_s: float = 30.0
    waiting: distributed.ProcessGroup | None = None

    @property
    def precision(self) -> str:
        """As in params.yaml, where ``auto`` is one of the others."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all of them share."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def place(self, network: nn.Module) -> None:
        """Move a network to the device, in the memory format."""
        network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def barrier(self) -> None:
        if self.world_size > 1:
            distributed.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(value)
        return value

    def share_buffers(self, network: nn.Module) -> None:
        """The main process's buffers for all: after its last batch each has BatchNorm statistics of its own."""
        if self.world_size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def from_main(self, value: bool) -> bool:
        """What the main process has found out alone, for all of them; the others wait for it, for hours if need be."""
        if self.waiting is None:
            return value
        found = torch.tensor(int(value))
        distributed.broadcast(found, 0, group=self.waiting)
        return bool(found)


@contextmanager
def open_runtime(training: TrainingSettings, section: RuntimeSettings) -> Iterator[Runtime]:
    """Set up threads, determinism, the device and, under ``torchrun``, the process group.

    Raises:
        InputError: the device asked for is not there.
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
        # A number for processes that are not in it; all of them are.
        waiting = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=LONGEST_WAIT))
    try:
        yield Runtime(
            device=device,
            dtype=_DTYPES[resolved(training.precision, device)],
            memory_format=torch.channels_last if training.channels_last else torch.contiguous_format,
            rank=rank,
            world_size=world_size,
            workers=section.workers,
            cache_mb=section.cache_mb,
            save_every_s=section.save_every_s,
            waiting=waiting,
        )
    finally:
        if world_size > 1:
            distributed.destroy_process_group()


def resolved(precision: str, device: torch.device) -> str:
    """What ``training.precision: auto`` is on a device."""
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is quicker than float32 there, rather than imitated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities()
    # oneDNN takes bfloat16 on every CPU with AVX-512, where most imitate it. The second name is ARM's.
    return bool(known.get("avx512_bf16") or known.get("bf16"))


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that ``runtime.device`` names.

    Args:
        local_rank: of this process on this machine: it takes that one of several CUDA devices.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"params.yaml: runtime.device: no such device {name!r}; use auto, cpu, cuda or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("params.yaml: runtime.device is cuda, but PyTorch sees no CUDA device; use auto or cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
    return device
