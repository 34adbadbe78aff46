"""Stand-in for atp.models.named, until that is merged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from ruamel.yaml import YAML

from atp.errors import InputError
from atp.models.config import NetworkConfig
from atp.models.own import call_factory
from atp.models.state import load_user_state
from atp.models.trial import classifiers


@dataclass(frozen=True)
class NamedNetwork:
    model: dict[str, Any]
    checkpoint: Path | None
    num_classes: int | None
    classes: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    shorter_side: int | None = None
    notes: tuple[str, ...] = ()


def named_network(name: str, checkpoint: Path | None = None, *, into: Path | None = None) -> NamedNetwork:
    kind, _, rest = name.partition(":")
    what, _, query = rest.partition("?")
    arguments = {key: YAML(typ="safe").load(value) for key, value in parse_qsl(query)}
    assert checkpoint is not None
    state = load_user_state(checkpoint)
    count = int([value for value in state.values() if value.ndim in (1, 4)][-1].shape[0])
    model: dict[str, Any] = {}
    if kind == "smp":
        factory = f"segmentation_models_pytorch:{what}"
        arguments = {"encoder_weights": None, "classes": count, **arguments}
        model["divisor"] = 32
    elif kind == "torchvision":
        factory = f"torchvision.models.segmentation:{what}"
        arguments = {"weights_backbone": None, "num_classes": count, **arguments}
    elif "." in kind or kind.isidentifier():
        factory = f"{kind}:{what}"
    else:
        raise InputError(f"--network {name}: unknown kind")
    config = NetworkConfig(factory=factory, arguments=arguments, num_classes=count)
    network = call_factory(config)
    held = classifiers(network, torch.rand(1, 3, 64, 64), count, factory)
    model |= {"factory": factory, "arguments": arguments, "classifier": held[-1].name}
    return NamedNetwork(model, checkpoint, count)
