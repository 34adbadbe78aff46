"""Checks of the network: a user's factory and classifier, and the sizes of all."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.checks.finding import Finding
from atp.checks.sizes import Tried, check_sizes
from atp.data.labels import LabelSpace
from atp.errors import InputError, first_line
from atp.models.network import NetworkConfig, build_network
from atp.models.own import as_scores, call_factory, check_classifier, check_code
from atp.models.trial import Part, classifiers, part, scores_size
from atp.params import Params

TRIAL = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
"""Image sizes to try a network on."""


def check_network(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """Check that a user's network can be built, returns scores and has the classifier; and any network's sizes."""
    config = params.network(space)
    if config.factory is None:
        ours = build_network(config.model_copy(update={"weights": "none"}))
        yield from check_sizes(params, Tried(f"model.backbone: {config.backbone}", ours, shrink=True))
        return
    with noticed_loading() as loaded:
        model = call_factory(config)
    check_code(config)
    name = config.factory
    # Others do not reach a network that takes one size only.
    trial = F.interpolate(TRIAL, config.input_size[::-1]) if config.input_size else TRIAL
    if loaded:
        yield Finding(
            "warning",
            f"model.factory: {name} loads {loaded[0]} at every call, in every stage and for every user of the "
            "registered model; pass an argument that loads nothing (weights_backbone: null, encoder_weights: null) "
            "and the weights as source.checkpoint",
        )
    try:
        height, width = trial.shape[-2:]
        stride = height / scores_size(model, (height, width), config.num_scores, name)[0]
        # Some networks return something else in training mode.
        as_scores(model.train()(trial), name, config.num_scores)
    except InputError:
        raise
    except Exception as error:  # A user's code may raise anything.
        raise InputError(f"model.factory: {name} fails on images of {width}x{height} ({first_line(error)})") from error
    whole = part(model)
    yield Finding("ok", f"model.factory: {name}: {_millions(whole.parameters)} parameters, output stride {stride:g}")
    tried = Tried(f"model.factory: {name}", model, config.divisor, config.num_scores, stride)
    if config.input_size is None:
        yield from check_sizes(params, tried)
    yield from _check_classifier(config, model, whole, trial)


def _check_classifier(config: NetworkConfig, model: nn.Module, whole: Part, trial: Tensor) -> Iterator[Finding]:
    """Report what the setting ``classifier`` would freeze, or suggest a value."""
    held = classifiers(model, trial[:1], config.num_scores, str(config.factory))

    def described(one: Part) -> str:
        numbers = f"{_millions(one.parameters)} of {_millions(whole.parameters)} parameters"
        return f"{one.name} ({one.tensors} of {whole.tensors} tensors, {numbers})"

    around = "".join(f", or around it {described(one)}" for one in held[1:])
    proposal = f"{described(held[0])} makes the scores{around}" if held else "no one submodule makes all of the scores"
    if config.classifier is None:
        advice = "; set one" if held else "; name the one to freeze, or wrap them in one"
        yield Finding("error", f"model.classifier: missing; {proposal}{advice}")
        return
    check_classifier(model, config)
    names = [one.name for one in held]
    if held and config.classifier not in names:
        yield Finding(
            "warning",
            f"model.classifier: {config.classifier} does not compute the scores: what does is not frozen; {proposal}",
        )
        return
    yield Finding("ok", f"model.classifier: frozen in align: {described(part(model, config.classifier))}; {proposal}")


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count}"


@contextmanager
def noticed_loading() -> Iterator[list[str]]:
    """Yield a list that collects the hosts contacted and the weight files opened meanwhile."""
    seen: list[str] = []
    watching = True

    def notice(event: str, arguments: tuple[Any, ...]) -> None:
        asked = event == "socket.getaddrinfo"
        read = event == "open" and str(arguments[0]).endswith((".pth", ".pt", ".bin", ".safetensors", ".ckpt"))
        if watching and (asked or read):
            seen.append(str(arguments[0]))

    # Python cannot remove an audit hook.
    sys.addaudithook(notice)
    try:
        yield seen
    finally:
        watching = False
