"""State that goes on from one training to the next, if several share one schedule."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import SGD

from atp.errors import InputError
from atp.files import atomic_path
from atp.models.network import SegmentationNetwork
from atp.training.runtime import Runtime

_DONE = "done"


@dataclass
class Carried:
    """Momentum, weights and position within a schedule that several trainings of equal length share.

    Attributes:
        parts: number of trainings that share a schedule; 1 carries nothing on.
        done: how many of them are done; 0 starts a new schedule.
        momentum: SGD's momentum by parameter, on the CPU.
        weights: state of the trained network, on the CPU, if its average is handed on instead; else empty.
    """

    parts: int = 1
    done: int = 0
    momentum: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def restore(self, network: SegmentationNetwork, optimizer: SGD) -> None:
        """Continue from the previous part; does nothing before the first one."""
        if self.done == 0:
            return
        if self.weights:
            network.load_state_dict(self.weights)
        for name, parameter in network.named_parameters():
            if name in self.momentum:
                buffer = torch.empty_like(parameter).copy_(self.momentum[name])
                optimizer.state[parameter]["momentum_buffer"] = buffer

    def keep(self, network: SegmentationNetwork, optimizer: SGD, runtime: Runtime, *, averaged: bool) -> None:
        """Keep what the next part needs; nothing after the last one."""
        self.done = (self.done + 1) % self.parts
        self.momentum, self.weights = {}, {}
        if self.done == 0:
            return
        if averaged:
            runtime.share_buffers(network)
            self.weights = {name: _copy(value) for name, value in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            # A parameter that was never used has no momentum.
            if (buffer := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
                self.momentum[name] = _copy(buffer)

    def write(self, path: Path) -> None:
        """Write a safetensors file, or none if there is nothing to carry on; equal contents give equal bytes."""
        if self.done == 0:
            return
        tensors = {f"{kind}/{name}": value for kind in _KINDS for name, value in getattr(self, kind).items()}
        with atomic_path(path) as temporary:
            # A single entry, since safetensors writes metadata in random order.
            temporary.write_bytes(save(tensors, {_DONE: str(self.done)}))

    @classmethod
    def read(cls, path: Path, parts: int) -> Self:
        """Read what the previous training wrote; without a file, or with one part, a new schedule starts.

        Raises:
            InputError: if the file is damaged.
        """
        carried = cls(parts)
        if parts == 1 or not path.exists():
            return carried
        try:
            with safe_open(path, framework="pt") as file:
                carried.done = int(file.metadata()[_DONE]) % parts
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    kind, _, name = key.partition("/")
                    getattr(carried, kind)[name] = file.get_tensor(key)
        except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not a complete training state ({error}); run its round again") from error
        return carried


_KINDS = ("momentum", "weights")


def _copy(value: Tensor) -> Tensor:
    # Contiguous, because safetensors supports neither shared tensors nor channels-last.
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
