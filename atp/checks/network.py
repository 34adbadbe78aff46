"""Checks of a user's own network: its factory, its input sizes, its classifier."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from atp.checks.finding import Finding
from atp.data.folder import image_size, list_samples
from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.models.network import NetworkConfig
from atp.models.own import COARSEST, as_scores, call_factory, check_classifier, check_code, first_line
from atp.models.trial import Part, classifiers, part, scores_size
from atp.params import Params

TRIAL = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
"""Image sizes to try a network on."""


def check_own_network(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """Check that a user's network can be built, accepts the images' size, returns scores and has the classifier."""
    config = params.network(space)
    if config.factory is None:
        return
    with noticed_loading() as loaded:
        model = call_factory(config)
    check_code(config)
    name = config.factory
    if loaded:
        yield Finding(
            "warning",
            f"model.factory: {name} loads {loaded[0]} at every call, in every stage and for every user of the "
            "registered model; pass an argument that loads nothing (weights_backbone: null, encoder_weights: null) "
            "and the weights as source.checkpoint",
        )
    try:
        stride = 64 / scores_size(model, (64, 64), config.num_scores, name)[0]
        # Some networks return something else in training mode.
        as_scores(model.train()(TRIAL), name, config.num_scores)
    except InputError:
        raise
    except Exception as error:  # A user's code may raise anything.
        raise InputError(f"model.factory: {name} fails on images of 64x64 ({first_line(error)})") from error
    whole = part(model)
    yield Finding("ok", f"model.factory: {name}: {_millions(whole.parameters)} parameters, output stride {stride:g}")
    yield from _check_divisor(params, model, stride, config.num_scores)
    yield from _check_classifier(config, model, whole)


def _check_divisor(params: Params, model: nn.Module, stride: float, num_scores: int) -> Iterator[Finding]:
    """Check that the network accepts the images' size, padded to a multiple of ``divisor``, without cropping."""
    config, size = params.model, params.data.size
    if size is None and params.data.target.images.is_dir():
        size = image_size(list_samples(params.data.target.images)[0].image)
    if size is None:
        return
    # Only the remainder matters, and small images are quick.
    height, width = (side if side <= 128 else 128 + side % 64 for side in (size[1], size[0]))
    height, width = (side + -side % config.divisor for side in (height, width))
    if height % COARSEST == width % COARSEST == 0:
        return
    try:
        found = scores_size(model, (height, width), num_scores, str(config.factory))
        problem = ""
    except Exception as error:  # A user's code may raise anything.
        problem = f"fails at {size[0]}x{size[1]} ({first_line(error)})"
    else:
        if any(abs(own - side / stride) >= 1 for own, side in zip(found, (height, width), strict=True)):
            problem = f"returns {found[1]}x{found[0]} scores for {width}x{height} pixels, so it crops or stretches"
    if problem:
        yield Finding(
            "error",
            f"model.factory: {config.factory} {problem}, and works at multiples of {COARSEST}; set model.divisor: "
            f"{COARSEST}",
        )


def _check_classifier(config: NetworkConfig, model: nn.Module, whole: Part) -> Iterator[Finding]:
    """Report what the setting ``classifier`` would freeze, or suggest a value."""
    held = classifiers(model, TRIAL[:1], config.num_scores, str(config.factory))

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
